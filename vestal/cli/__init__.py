"""The command line: `main` is the entry point, one module a command."""

from __future__ import annotations

import os
import sys

from vestal.errors import VestalError
from vestal.openmp import waiting

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

    What a user can mend is one sentence on stderr, never a traceback.
    """
    os.environ.update(waiting(os.environ))  # before any command imports torch
    try:
        from vestal.cli.app import app

        app()
    except VestalError as error:
        _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        _fail(f"this command needs {error.name}: pip install 'vestal[{extra}]'", 2)


def _fail(message: str, code: int) -> None:
    print(f"vestal: {message}", file=sys.stderr)
    sys.exit(code)
