"""Compares the responses of a shadow version with those of the live version."""
