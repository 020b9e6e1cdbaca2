"""Check the limits of image files, and decode them to pixels."""
