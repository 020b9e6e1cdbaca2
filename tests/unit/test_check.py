from __future__ import annotations

import io
import os
import random
import re
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from check_archives import Draft, Net, foreign_archives, ours, saved, simple, stock, torchscript
from check_defects import DEFECTS
from check_planting import Defect

from vestal.checking import CODES, Severity, check, checker
from vestal.checking.checker import is_ours
from vestal.errors import UsageError, VestalError
from vestal.inprocess import LoadedArchive
from vestal.mar.index import add_entry, sha256_of, updating
from vestal.mar.manifest import parse_manifest, read_manifest
from vestal.project import Project
from vestal.server.spec import read_spec

HANDLE = "def handle(data, context):\n    return data\n"


def found_in(archive: Path) -> list[tuple[str, str]]:
    """Severity and code of what is found, without notes."""
    findings = check(archive).findings
    return [(f.severity, f.code) for f in findings if f.severity != Severity.NOTE]


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_a_planted_defect_gives_its_finding_and_no_other(tmp_path: Path, defect: Defect):
    draft = defect.made_by()
    defect.plant(draft)
    assert found_in(draft.write(tmp_path / "model.mar")) == [(defect.severity, defect.code)]


@pytest.mark.parametrize(
    "defect",
    [
        defect
        for defect in DEFECTS
        if defect.severity == "error"
        and defect.code
        in {"handler-classes", "handler-methods", "model-classes", "weights-kind", "no-handler"}
        | {"option"}
        and "coroutine" not in defect.sentence  # it loads, and then answers nothing
    ],
    ids=str,
)
def test_torchserve_does_not_load_what_is_an_error_here(tmp_path: Path, defect: Defect):
    draft = defect.made_by()
    defect.plant(draft)
    with pytest.raises(VestalError, match="does not load"):
        LoadedArchive(draft.write_folder(tmp_path / "model"))


def test_a_good_archive_of_ours_has_no_finding_at_all(tmp_path):
    assert check(ours().write(tmp_path / "parity.mar")).findings == ()


def test_what_plain_torch_model_archiver_makes_is_good(tmp_path):
    for name, archive in foreign_archives(tmp_path).items():
        codes = [(f.severity, f.code) for f in check(archive).findings]
        assert codes == [("note", "no-bill")], name


def test_a_folder_is_checked_in_place_and_left_as_it_is(tmp_path):
    folder = ours().write_folder(tmp_path / "parity")
    before = sorted(folder.rglob("*"))
    assert check(folder).findings == ()
    assert sorted(folder.rglob("*")) == before


def test_a_link_that_leaves_a_folder_is_found(tmp_path):
    folder = simple(HANDLE).write_folder(tmp_path / "simple")
    (folder / "data").symlink_to("/etc")
    (folder / "same.py").symlink_to("my_handler.py")
    assert found_in(folder) == [("error", "link")]


def test_torchscript_and_exported_models_and_state_dicts_hold_no_false_alarm(tmp_path):
    draft = simple(HANDLE)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), Net())
    optimizer = torch.optim.Adam(model.parameters())
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "parameter": torch.nn.Parameter(torch.zeros(2)),
        "kind": [torch.float16, torch.Size([1]), torch.device("cpu"), torch.zeros(2, dtype=bool)],
    }
    draft.files["script.pt"] = torchscript(Net())
    draft.files["state.pth"] = saved(state)
    draft.files["older.bin"] = saved(state, _use_new_zipfile_serialization=False)
    stream = io.BytesIO()
    torch.export.save(torch.export.export(Net(), (torch.zeros(2, 3, 4, 4),)), stream)
    draft.files["exported.pt2"] = stream.getvalue()
    assert found_in(draft.write(tmp_path / "model.mar")) == []


def test_nothing_of_an_archive_runs(tmp_path):
    proof = tmp_path / "ran"
    line = f"open({str(proof)!r}, 'w')\n"
    for draft in (ours(), simple(line + HANDLE)):
        for name in [name for name in draft.files if name.endswith(".py")]:
            draft.text(name, f"{line}{draft.files[name].decode()}")
        check(draft.write(tmp_path / "model.mar"))
    assert not proof.exists()


@pytest.mark.parametrize("name", ["model-1.0.zip", "model-1.0.tar.gz"])
def test_a_zip_that_is_not_named_mar_is_no_zip_to_torchserve(tmp_path, name):
    archive = simple(HANDLE).write(tmp_path / name)
    assert found_in(archive) == [("error", "file-name")]
    (finding,) = (f for f in check(archive).findings if f.code == "file-name")
    assert finding.todo == "rename it to model-1.0.mar"


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\3\4 nor this", b"\x1f\x8b\x08 nor"])
def test_what_is_no_archive_is_said_to_be_none(tmp_path, content):
    name = "model.tgz" if content.startswith(b"\x1f") else "model.mar"
    (tmp_path / name).write_bytes(content)
    assert found_in(tmp_path / name) == [("error", "not-an-archive")]


def test_a_text_is_no_zip_of_another_name(tmp_path):
    (tmp_path / "e.txt").write_text("no archive")
    assert found_in(tmp_path / "e.txt") == [("error", "not-an-archive")]


def test_a_cut_archive_is_found(tmp_path):
    archive = ours().write(tmp_path / "model.mar")
    archive.write_bytes(archive.read_bytes()[:-100])
    assert found_in(archive) == [("error", "not-an-archive")]


def test_a_flipped_bit_is_found(tmp_path):
    archive = simple(HANDLE).write(tmp_path / "model.mar")
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"return data", b"return datA"))
    assert found_in(archive) == [("error", "damaged")]


def test_a_member_that_declares_less_than_it_holds_is_a_bomb(tmp_path):
    draft = simple(HANDLE)
    draft.late.append(lambda z: z.writestr("zeros", bytes(4321), zipfile.ZIP_DEFLATED))
    archive = draft.write(tmp_path / "model.mar")
    content = archive.read_bytes()
    assert content.count(struct.pack("<L", 4321)) == 2
    archive.write_bytes(content.replace(struct.pack("<L", 4321), struct.pack("<L", 1234)))
    assert found_in(archive) == [("error", "zip-bomb")]


def test_a_member_that_the_directory_does_not_name_is_found(tmp_path):
    """TorchServe reads from the start of the file and would unpack it."""
    archive = simple(HANDLE).write(tmp_path / "model.mar")
    hidden = io.BytesIO()
    with zipfile.ZipFile(hidden, "w") as other:
        other.writestr("my_handler.py", "import os")
    local = hidden.getvalue()[: hidden.getvalue().index(b"PK\1\2")]
    with zipfile.ZipFile(archive, "a") as content:
        content.fp.seek(content.start_dir)
        content.fp.write(local)
        content.start_dir = content.fp.tell()
        content._didModify = True
    assert zipfile.ZipFile(archive).testzip() is None
    assert found_in(archive) == [("error", "zip-hidden")]


def test_a_header_that_names_another_file_than_the_directory_is_found(tmp_path):
    archive = simple(HANDLE).write(tmp_path / "model.mar")
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"my_handler.pydef", b"no_handler.pydef"))
    assert found_in(archive) == [("error", "zip-hidden")]


def tar(path: Path, draft: Draft, root: str = "model/", *extra: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in draft.members().items():
            info = tarfile.TarInfo(root + name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in extra:
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, "/etc/passwd" if kind != b"0" else ""
    return info


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        (entry("model/../../evil"), "zip-slip"),
        (entry("/etc/evil"), "absolute-path"),
        (entry("model/passwd", tarfile.SYMTYPE), "link"),
        (entry("model/passwd", tarfile.LNKTYPE), "link"),
        (entry("model/pipe", tarfile.FIFOTYPE), "special-file"),
        (entry("model/my_handler.py"), "duplicate-name"),
        (entry("model/zeros", size=3_000_000), "zip-bomb"),
    ],
)
def test_a_tar_is_judged_before_it_is_unpacked(tmp_path, extra, code):
    archive = tar(tmp_path / "model.tar.gz", simple(HANDLE), "model/", extra)
    assert found_in(archive) == [("error", code)]


def test_a_tar_without_its_one_folder_loses_its_manifest(tmp_path):
    assert found_in(tar(tmp_path / "good.tgz", simple(HANDLE))) == []
    archive = tar(tmp_path / "bad.tgz", simple(HANDLE), "")
    assert found_in(archive) == [("error", "no-manifest")]


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
def test_handlers_that_torchserve_takes_are_good(tmp_path, source):
    draft = simple(source)
    draft.text("tools.py", HANDLE)
    assert found_in(draft.write(tmp_path / "model.mar")) == []


@pytest.mark.parametrize(
    "line",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import extra\n",
        "try:\n    import extra\nexcept ImportError:\n    extra = None\n",
    ],
)
def test_what_a_file_imports_need_not_be_there_where_the_file_itself_need_not(tmp_path, line):
    draft = ours()
    draft.change("handler.py", "\nfrom", f"\n{line}from")
    draft.text("vestal_handlers/extra.py", "import sklearn\n")
    draft.change("handler.py", "import extra", "import vestal_handlers.extra as extra")
    assert found_in(draft.write(tmp_path / "model.mar")) == []


def test_a_data_folder_does_not_hide_an_installed_package(tmp_path):
    draft = simple(f"from yaml import safe_load\n\n\n{HANDLE}")
    draft.text("yaml/one.py", "x = 1")
    assert found_in(draft.write(tmp_path / "model.mar")) == []


@pytest.mark.parametrize("name", ["pkg/ext.cpython-311-x86_64-linux-gnu.so", "pkg/ext.pyc"])
def test_a_compiled_module_is_a_module(tmp_path, name):
    draft = simple(f"import pkg.ext\n\n\n{HANDLE}")
    draft.files |= {"pkg/__init__.py": b"", name: b"\x7fELF"}
    assert found_in(draft.write(tmp_path / "model.mar")) == []


def test_a_handler_with_a_function_may_stand_in_a_folder(tmp_path):
    draft = simple(HANDLE)
    source = "def handle(data, context):\n    return ['ok' for _ in data or [None]]\n"
    draft.files = {"code/my_handler.py": source.encode()}
    draft.manifest["model"]["handler"] = "code/my_handler.py:handle"
    assert found_in(draft.write(tmp_path / "model.mar")) == []
    with LoadedArchive(tmp_path / "model.mar") as loaded:
        assert loaded.predict([b"x"])[0].status == 200
    draft.manifest["model"]["handler"] = "code/my_handler.py"
    assert found_in(draft.write(tmp_path / "model.mar")) == [("error", "no-handler")]


def test_a_file_of_the_manifest_may_be_named_from_its_folder(tmp_path):
    draft = stock()
    draft.manifest["model"]["serializedFile"] = "./net.pth"
    assert found_in(draft.write(tmp_path / "model.mar")) == []


def test_a_zip_of_data_is_compressed_as_its_reader_likes(tmp_path):
    draft = simple(HANDLE)
    arrays = io.BytesIO()
    np.savez_compressed(arrays, zeros=np.zeros(2_000_000))
    draft.files["zeros.npz"] = arrays.getvalue()
    for name, method in {"a.zip": zipfile.ZIP_LZMA, "b.zip": zipfile.ZIP_BZIP2}.items():
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", method) as inner:
            inner.writestr("rows.csv", "1,2\n" * 99)
        draft.files[name] = packed.getvalue()
    assert found_in(draft.write(tmp_path / "model.mar")) == []


def test_a_base_that_this_vestal_does_not_know_is_an_import_that_is_missing(tmp_path):
    draft = ours()
    draft.text("handler.py", "from vestal_handlers.foo.bar import X\n\n\nclass H(X):\n    pass\n")
    assert found_in(draft.write(tmp_path / "model.mar")) == [("error", "import-missing")]


def test_what_a_step_did_not_expect_is_a_finding_and_the_others_go_on(tmp_path, monkeypatch):
    def broken(*_):
        raise IndexError("no such thing")
        yield

    monkeypatch.setattr(checker, "check_labels", broken)
    draft = ours()
    draft.change("model-config.yaml", "maxBatchDelay: 10", "maxBatchDelay: 0")
    found = check(draft.write(tmp_path / "model.mar")).findings
    assert [(one.code, one.severity) for one in found] == [
        ("unread", "error"),
        ("config-value", "error"),
    ]
    assert "IndexError: no such thing" in found[0].meaning


def test_a_file_that_cannot_be_read_is_found(tmp_path, monkeypatch):
    folder = simple(HANDLE).write_folder(tmp_path / "simple")
    allowed = os.access  # root may read everything
    monkeypatch.setattr(
        os, "access", lambda path, how: "my_h" not in str(path) and allowed(path, how)
    )
    assert found_in(folder) == [("error", "unread")]


def test_a_stock_handler_is_checked_where_it_stands_by_name(tmp_path):
    for handler in ("base_handler", "image_classifier", "image_segmenter", "object_detector"):
        assert found_in(stock(handler).write(tmp_path / f"{handler}.mar")) == []


def test_broken_bytes_give_findings_and_no_traceback(tmp_path, rng):
    draft = stock()
    draft.files["script.pt"] = torchscript(Net())
    draft.files["older.bin"] = saved([1], _use_new_zipfile_serialization=False)
    whole = draft.write(tmp_path / "whole.mar").read_bytes()
    for turn in range(300):
        if turn % 2:  # a broken zip
            broken = tmp_path / "broken.mar"
            broken.write_bytes(spoiled(whole, rng))
        else:  # a sound zip of broken files
            files = {name: spoiled(data, rng) for name, data in draft.files.items()}
            broken = Draft(files, draft.manifest).write(tmp_path / "broken.mar")
        check(broken)


def spoiled(data: bytes, rng: random.Random) -> bytes:
    content = bytearray(data)
    for _ in range(rng.choice([1, 3, 20])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content[: rng.choice([len(content), rng.randrange(1, len(content))])])


def test_an_archive_cannot_write_to_the_terminal(tmp_path):
    draft = simple(HANDLE)
    draft.late.append(lambda z: z.writestr("../\x1b[2Jclean\u202e.py", b""))
    (finding,) = (f for f in check(draft.write(tmp_path / "m.mar")).findings if f.where)
    assert finding.where == "../\\x1b[2Jclean\\u202e.py"


def test_an_archive_is_ours_by_its_bytes(tmp_path):
    project = Project(tmp_path)
    project.model_store.mkdir()
    archive = simple(HANDLE).write(tmp_path / "somewhere.mar")
    assert not is_ours(project, archive)
    with updating(project.model_store) as index:
        add_entry(index, "simple-1.0.mar", sha256=sha256_of(archive))
    assert is_ours(project, archive)


def test_a_path_that_is_not_there_is_a_misuse(tmp_path):
    with pytest.raises(UsageError, match=r"no archive .*none\.mar: pass"):
        check(tmp_path / "none.mar")


def test_every_code_stands_in_the_docs_and_is_found_somewhere():
    root = Path(__file__).parents[2]
    docs = (root / "docs" / "checking.md").read_text()
    sources = "".join(
        path.read_text()
        for package in ("mar", "checking")
        for path in (root / "vestal" / package).glob("*.py")
        if path.name != "findings.py"
    )
    for code, meaning in CODES.items():
        assert f"| `{code}` | {meaning} |" in docs
        assert re.search(rf'"{code}"', sources), code


@pytest.mark.parametrize(("given", "version"), [(1.5, "1.5"), (2, "2"), (True, "true")])
def test_a_version_that_is_no_text_is_the_text_that_torchserve_makes_of_it(
    tmp_path, given, version
):
    draft = simple("def handle(data, context):\n    return data\n")
    draft.manifest["model"]["modelVersion"] = given
    archive = draft.write(tmp_path / "a.mar")
    assert not check(archive).failed
    assert read_manifest(archive).version == read_spec(archive).version == version


@pytest.mark.parametrize("key", ["handler", "serializedFile"])
def test_a_file_that_is_no_text_is_an_error(tmp_path, key):
    draft = simple("def handle(data, context):\n    return data\n")
    draft.manifest["model"][key] = 5
    (finding,) = [
        f for f in check(draft.write(tmp_path / "a.mar")).findings if f.severity == "error"
    ]
    assert finding.code == "bad-manifest"


def test_the_literal_of_a_number_is_kept():
    assert parse_manifest('{"model": {"modelVersion": 1.10}}').version == "1.10"


def test_an_archive_with_backslashes_runs_nowhere(tmp_path):
    draft = simple("from tools.util import X\n\n\ndef handle(data, context):\n    return data\n")
    draft.files |= {"tools\\util.py": b"X = 1\n", "tools\\__init__.py": b""}
    with pytest.raises(UsageError, match="the name contains a backslash"):
        LoadedArchive(draft.write(tmp_path / "a.mar"))


@pytest.mark.parametrize("key", ["configFile", "serializedFile"])
def test_a_manifest_names_no_file_outside_of_its_archive(tmp_path, key):
    draft = simple("def handle(data, context):\n    return data\n")
    draft.manifest["model"][key] = "../../secret.yaml"
    with pytest.raises(UsageError, match=rf"model\.{key} is .*outside of the archive"):
        LoadedArchive(draft.write(tmp_path / "a.mar"))
