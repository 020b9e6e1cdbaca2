"""Eager: a state_dict (.pth, .safetensors); `build()` in its folder's model.py is the architecture.

The outputs are exactly those of the trained model. With `channels_last`, ResNet18 is 1.2 times as
fast on two CPU cores, and its probabilities differ by at most 1e-5.
"""

from __future__ import annotations

import inspect
import json
import pickle
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vestal_handlers.engines.torch_module import ModuleEngine, check_precision
from vestal_handlers.errors import first_line
from vestal_handlers.model_files import load_module as load_python

_SHOWN = 4  # keys in an error message
_ALIGNMENT = 64  # bytes, as torch allocates tensors


def load(
    artifact: Path,
    device: torch.device,
    precision: str = "fp32",
    *,
    channels_last: bool = False,
    output: str | int | None = None,
    all_outputs: bool = False,
) -> ModuleEngine:
    """Build the architecture, load the weights, and move the module to the device, in eval mode.

    See `engines.load` for the arguments.

    Raises:
        FileNotFoundError: model.py, or the labels that its build() needs, are missing.
        ModuleNotFoundError: safetensors is not installed.
        ValueError: not a state_dict, one that does not fit the architecture, or a precision that
            the device does not support.
    """
    check_precision("eager", precision, device)
    module = load_module(artifact, device, channels_last=channels_last)
    return ModuleEngine(
        "eager",
        module,
        device,
        precision,
        channels_last=channels_last,
        output=output,
        all_outputs=all_outputs,
        artifact=artifact.name,
        architecture=type(module).__name__,
        memory="channels_last" if channels_last else "contiguous",
    )


def load_module(artifact: Path, device: torch.device, *, channels_last: bool) -> nn.Module:
    """Build the architecture and fill it with mapped weights; the errors are those of `load`."""
    state = read(artifact, mapped=True)
    module = build(artifact.parent)
    fill(module, state, artifact.name, shared=True)
    if channels_last:
        module.to(memory_format=torch.channels_last)
    return module.to(device).eval()


def build(folder: Path, package: str | None = None) -> nn.Module:
    """Call `build()` of the folder's model.py.

    A `build(classes)` gets the number of labels in the folder's index_to_name.json.

    Args:
        package: the name of the folder's package, as in `load_module`.

    Raises:
        FileNotFoundError: no model.py, or no labels for a build(classes) without a default.
        ValueError: there is no build(), or it does not return a module.
    """
    factory = getattr(load_python(folder, "model", package), "build", None)
    module = factory(**_build_arguments(factory, folder)) if callable(factory) else None
    if not isinstance(module, nn.Module):
        raise ValueError("model.py must define build(), which returns the model's nn.Module")
    return module


def _build_arguments(factory: Callable[..., Any], folder: Path) -> dict[str, int]:
    """The keyword arguments for a build()."""
    classes = inspect.signature(factory).parameters.get("classes")
    if classes is None:
        return {}
    labels = folder / "index_to_name.json"
    if labels.is_file():
        return {"classes": len(json.loads(labels.read_text("utf-8-sig")))}
    if classes.default is not inspect.Parameter.empty:
        return {}
    raise FileNotFoundError(
        f"build(classes) of model.py needs the number of labels, but there is no {labels.name} "
        f"in {folder}. Put it next to the weights, or give classes a default"
    )


def fill(
    module: nn.Module, state: Mapping[str, Tensor], source: str, *, shared: bool = False
) -> None:
    """Load a state_dict; its keys must be exactly those of the module.

    Args:
        shared: use the memory of the state_dict instead of a copy, for tensors of the same dtype
            that begin at a multiple of 64 bytes. For others some kernels give other bits.

    Raises:
        ValueError: a missing or unknown key, or a different shape.
    """
    parameters = module.state_dict(keep_vars=True)
    # A safetensors file has only one of the names of tied weights.
    present = {id(parameters[key]) for key in state if key in parameters}
    problems = {
        "missing": [
            key for key in parameters if key not in state and id(parameters[key]) not in present
        ],
        "not in the model": [key for key in state if key not in parameters],
        "of another shape": [
            f"{key} {list(state[key].shape)}, expected {list(parameters[key].shape)}"
            for key in state
            if key in parameters and state[key].shape != parameters[key].shape
        ],
    }
    named = [f"{_few(keys)} {what}" for what, keys in problems.items() if keys]
    if named:
        raise ValueError(f"{source} does not fit build() of model.py: {'; '.join(named)}")
    if not shared:
        module.load_state_dict(state, strict=False)
        return
    # Tied weights stay one tensor: by each of their names.
    by_identity = {id(parameters[key]): tensor for key, tensor in state.items()}
    filled = {key: _aligned(by_identity[id(each)], each) for key, each in parameters.items()}
    module.load_state_dict(filled, assign=True)


def _aligned(tensor: Tensor, like: Tensor) -> Tensor:
    if tensor.dtype != like.dtype:
        return tensor.to(like.dtype)
    usable = tensor.data_ptr() % _ALIGNMENT == 0 and tensor.stride() == like.stride()
    return tensor if usable else torch.empty_like(like).copy_(tensor)


def read(artifact: Path, *, mapped: bool = False) -> dict[str, Tensor]:
    """Read a state_dict from its file.

    Args:
        mapped: map the file into memory, which the workers of a model then share, instead of
            reading it. It must not change while the tensors are used.

    Raises:
        ModuleNotFoundError: safetensors is not installed.
        ValueError: the file does not hold a state_dict.
    """
    if artifact.suffix == ".safetensors":
        return check_state(_read_safetensors(artifact), artifact.name)  # always mapped
    # Files from before torch 1.6 are no zip, and cannot be mapped.
    mapped = mapped and zipfile.is_zipfile(artifact)
    return check_state(load_pickle(artifact, mapped=mapped), artifact.name)


def check_state(state: Any, source: str) -> dict[str, Tensor]:
    """Return a state_dict; raise ValueError for anything else."""
    tensors = isinstance(state, Mapping) and all(isinstance(v, Tensor) for v in state.values())
    if not tensors or not state:
        what = f"a dict of {_few(map(str, state))}" if isinstance(state, dict) else type(state)
        raise ValueError(
            f"{source} holds {what}, expected a state_dict: tensors by name "
            "(torch.save(module.state_dict(), path))"
        )
    return dict(state)


class UnsafePickle(ValueError):
    """A pickle that is broken or holds more than tensors and plain values."""


def load_pickle(artifact: Path, *, mapped: bool = False) -> Any:
    """Load a file of torch.save that holds only tensors and plain values; `mapped` as in `read`.

    Raises:
        UnsafePickle: it holds something else, or is broken.
        ValueError: it is a file of another format.
    """
    try:
        with warnings.catch_warnings():
            # torch warns about TorchScript before it raises.
            warnings.filterwarnings("ignore", message=".*looks like a TorchScript archive")
            return torch.load(artifact, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({named[1].rstrip('.')})" if named else ", or is broken"
        raise UnsafePickle(
            f"{artifact.name} holds more than tensors{what}; none of its code was run. "
            "Save it with torch.save(module.state_dict(), path)"
        ) from error
    except (RuntimeError, EOFError) as error:
        hint = " (TorchScript needs handler.engine: torchscript)" * ("TorchScript" in str(error))
        raise ValueError(
            f"{artifact.name} is not a state_dict (torch.save): {first_line(error)}{hint}"
        ) from error


def _read_safetensors(artifact: Path) -> Any:
    if find_spec("safetensors") is None:
        raise ModuleNotFoundError(
            f"{artifact.name} needs the package safetensors, which is not installed "
            "(pip install safetensors)",
            name="safetensors",
        )
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(artifact)
    except SafetensorError as error:
        raise ValueError(f"{artifact.name} is not a safetensors file: {error}") from error


def _few(keys: Iterable[str]) -> str:
    names = list(Counter(keys))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
