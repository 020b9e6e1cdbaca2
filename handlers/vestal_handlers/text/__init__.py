"""Hash words for text classifiers, and generate text with language models."""
