"""How a defect gets into an archive."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from check_archives import Draft, Net, ours, simple, stock
from check_archives import torchscript as as_torchscript

CONFIG_FILE = "model-config.yaml"


class Evil:
    """Its pickle runs a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("echo unpickled",)


@dataclass(frozen=True)
class Defect:
    code: str
    sentence: str
    plant: Callable[[Draft], object]
    made_by: Callable[[], Draft] = ours
    severity: str = "error"

    def __str__(self) -> str:
        return f"{self.code}: {self.sentence}"


def member(name: str, data: bytes = b"x", mode: int = 0, method: int = zipfile.ZIP_STORED) -> Any:
    """Plant a member without checking its name."""

    def plant(draft: Draft) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr, info.compress_type = mode << 16, method
        draft.late.append(lambda archive: archive.writestr(info, data))

    return plant


def nul_member(name: str, behind: str) -> Any:
    """Plant a member whose name continues after a NUL, where zipfile cuts it."""

    def plant(draft: Draft) -> None:
        def write(archive: zipfile.ZipFile) -> None:
            info = zipfile.ZipInfo(name)
            info.filename = f"{name}\0{behind}"
            archive.writestr(info, b"x")

        draft.late.append(write)

    return plant


def setting(old: str, new: str) -> Callable[[Draft], object]:
    return lambda draft: draft.change(CONFIG_FILE, old, new)


def bill(**keys: Any) -> Callable[[Draft], object]:
    def plant(draft: Draft) -> None:
        assert draft.bill is not None
        draft.bill.update(keys)

    return plant


def together(*plants: Callable[[Draft], object]) -> Callable[[Draft], object]:
    def plant(draft: Draft) -> None:
        for each in plants:
            each(draft)

    return plant


def text(name: str, content: str) -> Callable[[Draft], object]:
    return lambda draft: draft.text(name, content)


def data(name: str, content: bytes) -> Callable[[Draft], object]:
    return lambda draft: draft.files.update({name: content})


def model(**keys: Any) -> Callable[[Draft], object]:
    """Change the manifest's model; None removes a key."""

    def plant(draft: Draft) -> None:
        assert draft.manifest is not None
        entries = {**draft.manifest["model"], **keys}
        draft.manifest["model"] = {k: v for k, v in entries.items() if v is not None}

    return plant


def after_packing(name: str, content: str) -> Callable[[Draft], object]:
    def plant(draft: Draft) -> None:
        draft.seal()
        draft.text(name, content)

    return plant


def without(name: str) -> Callable[[Draft], object]:
    return lambda draft: draft.files.pop(name)


def foreign_handler(source: str) -> Callable[[Draft], object]:
    return text("my_handler.py", source)


def plain() -> Draft:
    return simple("def handle(data, context):\n    return data\n")


def scripted() -> Draft:
    draft = stock()
    draft.files = {"net.pt": as_torchscript(Net())}
    model(modelFile=None, serializedFile="net.pt")(draft)
    return draft


def numpy_objects() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([Evil()], dtype=object), allow_pickle=True)
    return stream.getvalue()


def numpy_fields() -> bytes:
    stream = io.BytesIO()
    rows = np.array([(1, Evil())], dtype=[("number", "i4"), ("object", "O")])
    np.save(stream, rows, allow_pickle=True)
    return stream.getvalue()


def zip_of(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as inner:
        for name, content in members.items():
            inner.writestr(f"archive/{name}", content)
    return stream.getvalue()
