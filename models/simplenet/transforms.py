"""One preprocessing for training and serving: words and pairs of words, hashed to 2,048 places."""

from vestal_handlers import TextTransform

transform = TextTransform(size=2048, words=2)
