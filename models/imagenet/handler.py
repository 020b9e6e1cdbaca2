"""The handler of imagenet. TorchServe requires exactly one class in this file."""

from vestal_handlers.tasks.image_classifier import ImageClassifier


class Handler(ImageClassifier):
    """Classifies a photograph."""
