"""Convert an exception to the error of one request, and log it unless the caller caused it."""

from __future__ import annotations

import logging
import os
import threading

import torch

from vestal_handlers.errors import HandlerError, OutOfMemory, RequestFailure, is_out_of_memory
from vestal_handlers.forwarding import is_fatal_cuda_error

logger = logging.getLogger(__name__)


def failure_of(error: Exception, model: str, request_id: str, step: str) -> RequestFailure:
    """Return the error for the caller.

    Args:
        model: the name and version, for the message.
        step: read, decode, forward, explain, encode or respond.
    """
    if isinstance(error, RequestFailure):
        return error.detached()
    logger.error("request %s failed at %s", request_id, step, exc_info=error)
    if isinstance(error, torch.OutOfMemoryError) or is_out_of_memory(error):
        return OutOfMemory(f"not enough memory to {step} this request")
    if is_fatal_cuda_error(error):
        # This process cannot use CUDA any more: exit soon, and TorchServe restarts the worker.
        threading.Timer(1.0, os._exit, (1,)).start()
    # The message of an exception can contain secrets, so the caller gets only its type.
    return HandlerError(
        f"model {model} failed at {step} ({type(error).__name__}); "
        "the server's log has the reason under this request ID"
    )
