"""What TorchServe says itself, where the handler is not asked or gave no answer."""

from __future__ import annotations

import json


class Refused(Exception):
    """TorchServe answers this request before any handler sees it.

    `kind` is TorchServe's word for it (`"type"` in its body); "" where its answer has no body.
    """

    def __init__(self, status: int, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.kind, self.reason = status, kind, reason

    def body(self) -> bytes:
        return error_body(self.status, self.kind, self.reason) if self.kind else b""


def error_body(status: int, kind: str, message: str) -> bytes:
    """JSON as TorchServe writes it."""
    error = {"code": status, "type": kind, "message": message}
    return (json.dumps(error, indent=2, ensure_ascii=False) + "\n").encode()
