"""Handlers for TorchServe workers; every archive contains a copy of this package.

Data flows one way: request -> decode -> batch -> forward -> encode -> response. A package imports
only what stands above it:

    errors, options, labels, model_files, metrics, metric_log, device, cores, threads, malloc,
    packed_sample, digests, pretrained, base_handler
    requests/                       the body of a request to instances; predictions to a response
    images/  text/  engines/        bytes to pixels; text to tokens; what computes a forward pass
    forwarding                      a batch to outputs; a failing batch is split in half
    failures, description           an exception to an error; the description of the model
    task_hooks, base                the methods that a task overrides; the batch around them
    tasks/                          one handler per task

Import what your own handlers and transforms need from here:

    from vestal_handlers import BatchHandler, ImageTransform, InputError, Instance, Media, Options
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vestal_handlers.base import BatchHandler
    from vestal_handlers.errors import InputError
    from vestal_handlers.images.decoding import ImageTransform, bytes_of, read_image
    from vestal_handlers.options import OptionError, Options
    from vestal_handlers.requests.request import Instance
    from vestal_handlers.requests.responses import Media
    from vestal_handlers.text.hashing import TextTransform

__all__ = [
    "BatchHandler",
    "ImageTransform",
    "InputError",
    "Instance",
    "Media",
    "OptionError",
    "Options",
    "TextTransform",
    "bytes_of",
    "read_image",
]

# Imported at their first use: the client and the checks need parts of this package, without torch.
_EXPORTS = {
    "BatchHandler": "base",
    "ImageTransform": "images.decoding",
    "InputError": "errors",
    "Instance": "requests.request",
    "Media": "requests.responses",
    "OptionError": "options",
    "Options": "options",
    "TextTransform": "text.hashing",
    "bytes_of": "images.decoding",
    "read_image": "images.decoding",
}


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value
