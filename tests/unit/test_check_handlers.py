"""Handlers and imports that TorchServe loads have no findings."""

from __future__ import annotations

import pytest
from check_archives import HANDLE, codes_in, ours, simple, stock

from vestal.inprocess import LoadedArchive


@pytest.mark.parametrize(
    "source",
    [
        "from tools import handle\n",
        "class H:\n    def initialize(self, c): ...\n    def handle(self, d, c): ...\n\n\n"
        "service = H()\n\n\ndef handle(data, context):\n    return service.handle(data, context)\n",
        "from ts.torch_handler.base_handler import BaseHandler\n\n\nclass H(BaseHandler):\n"
        "    def initialize(self, context): ...\n",
        "try:\n    import nowhere\nexcept ImportError:\n    nowhere = None\n" + HANDLE,
        "def handle(data, context):\n    import nowhere\n\n    return data\n",
        "import functools\n\n\n@functools.cache\ndef handle(*data):\n    return data\n",
        f"import __main__\n\n\n{HANDLE}",
        "x = 1\nif x == 0:\n    pass\n"
        + "".join(f"elif x == {n}:\n    pass\n" for n in range(1200))
        + HANDLE,
    ],
)
def test_handlers_that_torchserve_loads_have_no_findings(tmp_path, source):
    draft = simple(source)
    draft.text("tools.py", HANDLE)
    assert codes_in(draft.write(tmp_path / "model.mar")) == []


@pytest.mark.parametrize(
    "line",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import extra\n",
        "try:\n    import extra\nexcept ImportError:\n    extra = None\n",
    ],
)
def test_imports_of_an_optional_module_are_optional(tmp_path, line):
    draft = ours()
    draft.change("handler.py", "\nfrom", f"\n{line}from")
    draft.text("vestal_handlers/extra.py", "import sklearn\n")
    draft.change("handler.py", "import extra", "import vestal_handlers.extra as extra")
    assert codes_in(draft.write(tmp_path / "model.mar")) == []


def test_a_data_folder_does_not_hide_an_installed_package(tmp_path):
    draft = simple(f"from yaml import safe_load\n\n\n{HANDLE}")
    draft.text("yaml/one.py", "x = 1")
    assert codes_in(draft.write(tmp_path / "model.mar")) == []


@pytest.mark.parametrize("name", ["pkg/ext.cpython-311-x86_64-linux-gnu.so", "pkg/ext.pyc"])
def test_a_compiled_module_can_be_imported(tmp_path, name):
    draft = simple(f"import pkg.ext\n\n\n{HANDLE}")
    draft.files |= {"pkg/__init__.py": b"", name: b"\x7fELF"}
    assert codes_in(draft.write(tmp_path / "model.mar")) == []


def test_a_handler_with_a_function_may_be_in_a_folder(tmp_path):
    draft = simple(HANDLE)
    source = "def handle(data, context):\n    return ['ok' for _ in data or [None]]\n"
    draft.files = {"code/my_handler.py": source.encode()}
    draft.manifest["model"]["handler"] = "code/my_handler.py:handle"
    assert codes_in(draft.write(tmp_path / "model.mar")) == []
    with LoadedArchive(tmp_path / "model.mar") as loaded:
        assert loaded.predict([b"x"])[0].status == 200
    draft.manifest["model"]["handler"] = "code/my_handler.py"
    assert codes_in(draft.write(tmp_path / "model.mar")) == [("error", "no-handler")]


def test_an_unknown_base_class_of_vestal_is_a_missing_import(tmp_path):
    draft = ours()
    draft.text("handler.py", "from vestal_handlers.foo.bar import X\n\n\nclass H(X):\n    pass\n")
    assert codes_in(draft.write(tmp_path / "model.mar")) == [("error", "import-missing")]


def test_handlers_of_torchserve_have_no_findings(tmp_path):
    for handler in ("base_handler", "image_classifier", "image_segmenter", "object_detector"):
        assert codes_in(stock(handler).write(tmp_path / f"{handler}.mar")) == []
