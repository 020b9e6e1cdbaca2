"""Import pickled checkpoints: plain data next to the weights is read, code is never run."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import decimal
import enum
import functools
import pathlib
import pickle
import subprocess
import types
import zipfile
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from pets_weights import (
    LABELS,
    Evil,
    import_pets,
    same_tensors,
    save_weights,
)
from pets_weights import project as project  # a fixture
from pets_weights import state as state  # a fixture
from torch import nn

from vestal.archive.pack import pack
from vestal.errors import VestalError
from vestal.weights.import_weights import import_weights


@dataclasses.dataclass
class Config:
    width: int = 3
    mode: object = None


@dataclasses.dataclass(frozen=True, slots=True)
class Slots:
    width: int = 3


class Mode(enum.Enum):
    FAST = 1


class Settings(dict):
    """A dict with attributes, such as EasyDict, CfgNode and AttributeDict."""

    def __init__(self, *args, **named):
        super().__init__(*args, **named)
        self.frozen = True


PLAIN = {
    "argparse": argparse.Namespace(lr=0.1, device=torch.device("cpu"), data=pathlib.Path("/data")),
    "SimpleNamespace": types.SimpleNamespace(a=1),
    "dataclass": Config(mode=Mode.FAST),
    "dataclass with slots": [Slots()],
    "enum": {Mode.FAST: 1},
    "dict of its own class": Settings(a=Settings(b=1)),
    "numpy": {"best": np.float64(0.9), "epoch": np.int64(3), "curve": np.arange(3.0)},
    "numpy dtype": [np.dtype("float32"), np.float32],
    "numpy text": np.array(["a", "b"]),
    "paths": [pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("C:/a")],
    "torch": [torch.Size([1]), torch.float16, torch.device("cpu")],
    "collections": [OrderedDict(a=1), defaultdict(list, a=[1]), {1, 2}, frozenset((1,))],
    "time": [datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), datetime.timedelta(1)],
    "decimal": decimal.Decimal("0.1"),
    "a loss": {"hyper_parameters": {"criterion": nn.CrossEntropyLoss(torch.ones(3))}},
}
# Torch's old format contains the source of modules, which torch does not read back.
IN_BOTH_FORMATS = [kind for kind in PLAIN if kind != "a loss"]


@pytest.mark.parametrize(
    ("kind", "new"), [*((k, True) for k in PLAIN), *((k, False) for k in IN_BOTH_FORMATS)]
)
def test_plain_data_next_to_the_weights_is_accepted(kind, new, project, state, tmp_path):
    file = tmp_path / "w.pth"
    torch.save({"args": PLAIN[kind], "model": state}, file, _use_new_zipfile_serialization=new)
    assert same_tensors(import_pets(project, file, tmp_path), state)


@pytest.mark.parametrize("new", [True, False])
def test_a_call_in_plain_data_is_refused_and_never_run(new, project, state, tmp_path):
    class Popen:
        def __reduce__(self):
            return subprocess.Popen, (["touch", str(tmp_path / "ran")],)

    class Evaluated:
        def __reduce__(self):
            return eval, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    for number, hidden in enumerate(
        (Popen(), Evaluated(), Evil(tmp_path / "ran"), functools.partial(print))
    ):
        file = tmp_path / f"{number}.pth"
        content = {"args": argparse.Namespace(a=hidden), "model": state}
        torch.save(content, file, _use_new_zipfile_serialization=new)
        with pytest.raises(VestalError, match=r"holds more than tensors \(.*none of its code"):
            import_pets(project, file, tmp_path / file.stem)
    assert not (tmp_path / "ran").exists()


def test_the_error_for_a_pickled_module_explains_how_to_save_its_state_dict(project, tmp_path):
    file = save_weights(tmp_path, {"model": nn.Linear(2, 2), "args": argparse.Namespace(a=1)})
    with pytest.raises(VestalError, match=r"Save it with torch\.save\(module\.state_dict"):
        import_pets(project, file, tmp_path)


def evil_zip(place, file, *members):
    """A zip in torch's layout whose pickle is evil."""
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("w/data.pkl", pickle.dumps({"fc.weight": Evil(file)}, protocol=2))
        for name, content in {"w/version": "3\n", "w/byteorder": "little", **dict(members)}.items():
            archive.writestr(name, content)


def test_a_malicious_pickle_is_refused_with_the_reason_and_never_run(project, tmp_path):
    mark = tmp_path / "ran"
    new = save_weights(tmp_path, {"state_dict": {"fc.weight": Evil(mark)}})
    torch.save({"w": Evil(mark)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Evil(mark)))
    for file in (new, tmp_path / "old.pt", tmp_path / "bare.pth"):
        with pytest.raises(VestalError, match=r"holds more than tensors.*none of its code was run"):
            import_weights(project, "pets", str(file), tmp_path / f"run-{file.name}", LABELS)
    assert not mark.exists()
    with (tmp_path / "bare.pth").open("rb") as stream:
        pickle.load(stream)  # the pickle works; import_weights did not run it
    assert mark.exists()


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("as_torchscript.pt", ("w/code/__torch__.py", "class Net(Module):\n  pass\n")),
        ("as_exported.pt2", ("w/archive_format", "pt2")),
    ],
)
def test_a_malicious_pickle_in_another_format_is_never_run(name, member, project, tmp_path):
    mark = tmp_path / "ran"
    evil_zip(tmp_path / name, mark, member)
    with pytest.raises(VestalError):
        pack(project, "pets", version="6.6.6", weights=tmp_path / name, labels=LABELS)
    assert not mark.exists()
    assert not list(project.model_store.glob("*6.6.6*"))


def test_the_error_for_a_pickled_module_names_its_class(project, tmp_path):
    with pytest.raises(VestalError, match=r"holds more than tensors \(torch\.nn\.modules\.linear"):
        import_weights(
            project, "pets", str(save_weights(tmp_path, nn.Linear(2, 2))), tmp_path / "run", LABELS
        )
