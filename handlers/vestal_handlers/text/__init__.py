"""Text: hashed words for classifiers, and generation with language models."""
