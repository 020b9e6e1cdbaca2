"""The command line: `main` is the entry point, one module a command."""

from __future__ import annotations

import os
import signal
import sys

from vestal import openmp
from vestal.errors import VestalError
from vestal.files.storage import problem

# The module that is missing, and the extra that brings it.
EXTRAS = {
    "typer": "cli",
    "rich": "cli",
    "torch": "serve",
    "torchvision": "serve",
    "ts": "serve",
    "model_archiver": "serve",
    "yaml": "serve",
    "packaging": "serve",
    "javaproperties": "serve",
    "picklescan": "serve",
    "psutil": "serve",
    "PIL": "serve",
    "numpy": "serve",
    "safetensors": "serve",
    "captum": "serve",
    "lightning": "train",
    "torchmetrics": "train",
    "torch_pruning": "train",
    "sklearn": "train",
    "matplotlib": "train",
    "onnx": "optimize",
    "onnxscript": "optimize",
    "onnxruntime": "optimize",
    "locust": "load",
    "pyarrow": "batch",
    "transformers": "text",
    "tokenizers": "text",
}


def main() -> None:
    """Runs the command line and exits: 0 done, 1 found wrong, 2 used wrong.

    What a user can fix is one sentence on stderr, never a traceback.
    """
    os.environ.update(openmp.waiting(os.environ))  # before any command imports torch
    # What a killed command has begun (temporary folders, processes) is cleaned up as at Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        from vestal.cli.app import app

        try:
            app()
        finally:
            sys.stdout.flush()
    except VestalError as error:
        _fail(_full_disk(error) or str(error), error.exit_code)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        _fail(f"this command needs {error.name}: pip install 'vestal[{extra}]'", 2)
    except Exception as error:
        message = problem(error)
        if message is None:
            raise
        _fail(message, 1)


def _full_disk(error: VestalError) -> str | None:
    """What a server's message tells of a full disk is about its disk; its clients raise it."""
    from vestal.client import ClientError

    return None if isinstance(error, ClientError) else problem(error, denied=False)


def _fail(message: str, code: int) -> None:
    print(f"vestal: {message}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # what is left in it cannot be written at the end either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
