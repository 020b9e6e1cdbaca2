"""Weights from elsewhere: find, unwrap, import and save them."""
