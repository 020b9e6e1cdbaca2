"""The errors of a request.

    bytes -> parsed -> decoded -> forwarded -> encoded
         │         │          │            │
         InputError (4xx)     HandlerError (500), OutOfMemory (507)

RequestFailure
 ├─ InputError    the caller: 400 not decodable, 413 too large, 415 wrong type, 422 not valid here
 ├─ HandlerError  the model or the handler failed for this request
 └─ OutOfMemory   this request does not fit into memory, even alone
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Self

# Messages quote requests, and TorchServe kills a worker whose response is too large.
_MAX_MESSAGE = 1000
# How PyTorch, ONNX Runtime, OpenVINO and Pillow report a failed allocation on the CPU.
_NO_MEMORY = ("can't allocate memory", "out of memory", "bad_alloc", "failed to allocate memory")

OUT_OF_TIME = (
    "the time limit of this batch has passed; send fewer inputs at once, or raise responseTimeout"
)


class RequestFailure(Exception):
    """Why a request failed: an HTTP status and a message for the caller."""

    status: int = 500

    def __init__(self, message: str, status: int | None = None) -> None:
        message = message[:_MAX_MESSAGE]
        super().__init__(message)
        self.message = message
        self.status = self.status if status is None else status

    def body(self, request_id: str) -> dict[str, Any]:
        """The error body, in the shape that TorchServe itself uses."""
        return {
            "code": self.status,
            "type": type(self).__name__,
            "message": self.message,
            "request_id": request_id,
        }

    def detached(self) -> Self:
        """Drop the traceback, whose frames would keep the rejected input in memory."""
        self.__traceback__ = self.__cause__ = self.__context__ = None
        return self

    @property
    def phrase(self) -> str:
        """The standard reason phrase; nothing of a request reaches the status line."""
        return HTTPStatus(self.status).phrase


class InputError(RequestFailure):
    """The request is not valid; the message states what was expected.

    Args:
        status: 400 not decodable, 413 too large, 415 wrong type, 422 not valid for this model.
    """

    status = 400

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message, status)


class HandlerError(RequestFailure):
    """The handler or its model failed; the worker's log has the traceback."""

    status = 500


class OutOfMemory(RequestFailure):
    """The request does not fit into memory, even alone."""

    status = 507


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, at most 200 characters; its type without one."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the CPU or on a GPU."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(phrase in text for phrase in _NO_MEMORY)
