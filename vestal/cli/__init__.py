"""The command line. `main` is the entry point; each command is a module."""

from __future__ import annotations

import logging
import os
import signal
import sys

from vestal import openmp
from vestal.children import end_with_parent
from vestal.errors import VestalError
from vestal.files.disk_errors import describe_disk_error

# Module -> the extra that installs it.
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
    "openvino": "optimize",
    "nncf": "optimize",
    "locust": "load",
    "pyarrow": "batch",
    "transformers": "text",
    "tokenizers": "text",
}


def main() -> None:
    """Run the command line and exit: 0 success, 1 failure, 2 usage error.

    Errors that a user can fix are one sentence on stderr, without a traceback.
    """
    os.environ.update(openmp.passive_wait_variables(os.environ))  # before any command imports torch
    # A killed command removes its temporary folders and processes, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    end_with_parent(signal.SIGTERM)
    # Its warning about TensorRT is of no use to the user of a command.
    logging.getLogger("ts.torch_handler.base_handler").setLevel(logging.ERROR)
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
        _fail(
            f"this command requires {error.name}; install it with pip install 'vestal[{extra}]'", 2
        )
    except Exception as error:
        message = describe_disk_error(error)
        if message is None:
            raise
        _fail(message, 1)


def _full_disk(error: VestalError) -> str | None:
    """The message of a full local disk; errors from a server are about its disk, not ours."""
    from vestal.client import ClientError

    return None if isinstance(error, ClientError) else describe_disk_error(error, denied=False)


def _fail(message: str, code: int) -> None:
    print(f"vestal: {message}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # Python would fail again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
