"""The handler of chat. TorchServe requires exactly one class in this file."""

from vestal_handlers.tasks.text_generator import TextGenerator


class Handler(TextGenerator):
    """Answers the last message of a conversation."""
