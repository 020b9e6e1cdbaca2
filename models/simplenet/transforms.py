"""Preprocessing for training and serving: words and pairs of words, hashed to 2,048 values."""

from vestal_handlers import TextTransform

transform = TextTransform(size=2048, words=2)
