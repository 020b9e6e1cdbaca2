"""Keep messages of C libraries out of the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr


@contextmanager
def native_messages_hidden() -> Iterator[None]:
    """Hide what libtiff, libjpeg and similar libraries write to file descriptor 2.

    It would break the progress bar, and the error of the file is reported anyway. Output of Python
    to `sys.stderr` is still shown.
    """
    if sys.__stderr__ is None or sys.stderr is not sys.__stderr__:  # captured, as by pytest
        yield
        return
    sys.stderr.flush()
    with os.fdopen(os.dup(2), "w", buffering=1, encoding=sys.stderr.encoding) as shown:
        hidden = os.open(os.devnull, os.O_WRONLY)
        os.dup2(hidden, 2)
        os.close(hidden)
        try:
            with redirect_stderr(shown):
                yield
        finally:
            os.dup2(shown.fileno(), 2)
