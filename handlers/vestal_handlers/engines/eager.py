"""Eager: a state_dict (.pth, .safetensors), its architecture from `build()` in model.py beside it.

Models with 2-d convolutions run channels-last: ResNet18 is 1.2 times as fast so on two CPU cores,
and its outputs stay within 1e-5 of the plain layout.
"""

from __future__ import annotations

import pickle
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vestal_handlers.engines.torch_module import ModuleEngine, check_precision, first_line
from vestal_handlers.model_files import load_module

NAMED = 4  # keys in an error message


def load(artifact: Path, device: torch.device, precision: str = "fp32") -> ModuleEngine:
    """Builds the architecture, fills in the weights, moves it to the device, in eval mode.

    Raises:
        FileNotFoundError: no model.py beside the artifact.
        ModuleNotFoundError: safetensors is not installed.
        ValueError: not a state_dict, one that does not fit the architecture, or a precision that
            the device cannot compute in.
    """
    check_precision("eager", precision, device)
    state = _read(artifact)
    module = build(artifact.parent)
    fill(module, state, artifact.name)
    channels_last = any(isinstance(part, nn.Conv2d) for part in module.modules())
    if channels_last:
        module.to(memory_format=torch.channels_last)
    return ModuleEngine(
        "eager",
        module.to(device).eval(),
        device,
        precision,
        channels_last=channels_last,
        architecture=type(module).__name__,
        memory="channels_last" if channels_last else "contiguous",
    )


def build(folder: Path) -> nn.Module:
    """What `build()` of the folder's model.py gives.

    Raises:
        FileNotFoundError: no model.py. ValueError: it gives no module.
    """
    factory = getattr(load_module(folder, "model"), "build", None)
    module = factory() if callable(factory) else None
    if not isinstance(module, nn.Module):
        raise ValueError("model.py must define build(), which gives the model's nn.Module")
    return module


def fill(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Loads a state_dict; every key must find its place and every place its key.

    Raises:
        ValueError: keys or shapes that do not fit, by name.
    """
    places = module.state_dict(keep_vars=True)
    # Of tensors that share memory (tied weights) safetensors keeps one name.
    given = {id(places[key]) for key in state if key in places}
    found = {
        "missing": [key for key in places if key not in state and id(places[key]) not in given],
        "not in the model": [key for key in state if key not in places],
        "of another shape": [
            f"{key} {list(state[key].shape)}, expected {list(places[key].shape)}"
            for key in state
            if key in places and state[key].shape != places[key].shape
        ],
    }
    wrong = [f"{_few(keys)} {what}" for what, keys in found.items() if keys]
    if wrong:
        raise ValueError(f"{source} does not fit build() of model.py: {'; '.join(wrong)}")
    module.load_state_dict(state, strict=False)


def _read(artifact: Path) -> dict[str, Tensor]:
    read = _read_safetensors if artifact.suffix == ".safetensors" else _read_pickle
    state = read(artifact)
    tensors = isinstance(state, Mapping) and all(isinstance(v, Tensor) for v in state.values())
    if not tensors or not state:
        what = f"a dict of {_few(map(str, state))}" if isinstance(state, dict) else type(state)
        raise ValueError(
            f"{artifact.name} holds {what}, expected a state_dict: names and their tensors "
            "(torch.save(module.state_dict(), path))"
        )
    return dict(state)


def _read_pickle(artifact: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # Of TorchScript torch warns first and raises then.
            warnings.filterwarnings("ignore", message=".*looks like a TorchScript archive")
            return torch.load(artifact, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{artifact.name} holds more than tensors, or is broken; nothing of it was run: "
            "save it as torch.save(module.state_dict(), path)"
        ) from error
    except (RuntimeError, EOFError) as error:
        hint = " (TorchScript is for handler.engine: torchscript)" * ("TorchScript" in str(error))
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
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
