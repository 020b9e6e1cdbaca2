"""Has the server been away since a model answered last? Then it may not know the model *yet*.

A TorchServe that was started again listens before its models are registered, and answers 404 until
they are. A 404 for a model that answered this client before, with a broken connection since, is
therefore worth a retry; any other 404 is the answer.
"""

from __future__ import annotations

import time

LASTS = 120.0
"""Seconds after a break that a model may still be missing for it."""


class Outages:
    """One for each client. Assignments are atomic, so there is no lock."""

    def __init__(self) -> None:
        self._answered: dict[str, float] = {}
        self._broke = 0.0

    def answered(self, model: str) -> None:
        self._answered[model] = time.monotonic()

    def broke(self) -> None:
        self._broke = time.monotonic()

    def since_last_answer(self, model: str) -> bool:
        answered = self._answered.get(model)
        recent = time.monotonic() - self._broke < LASTS
        return recent and answered is not None and self._broke >= answered
