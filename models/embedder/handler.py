"""The handler of embedder. TorchServe requires exactly one class in this file."""

from vestal_handlers.tasks.text_embedder import TextEmbedder


class Handler(TextEmbedder):
    """Embeds a sentence."""
