"""The zip, the tar or the folder is checked before anything else is read."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from check_archives import HANDLE, Draft, codes_in, ours, simple

from vestal.checking import check
from vestal.errors import UsageError
from vestal.inprocess import LoadedArchive


def test_a_link_out_of_a_folder_is_an_error(tmp_path):
    folder = simple(HANDLE).write_folder(tmp_path / "simple")
    (folder / "data").symlink_to("/etc")
    (folder / "same.py").symlink_to("my_handler.py")
    assert codes_in(folder) == [("error", "link")]


@pytest.mark.parametrize("name", ["model-1.0.zip", "model-1.0.tar.gz"])
def test_a_zip_needs_the_suffix_mar(tmp_path, name):
    archive = simple(HANDLE).write(tmp_path / name)
    assert codes_in(archive) == [("error", "file-name")]
    (finding,) = (f for f in check(archive).findings if f.code == "file-name")
    assert finding.todo == "rename it to model-1.0.mar"


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\3\4 nor this", b"\x1f\x8b\x08 nor"])
def test_other_content_is_not_an_archive(tmp_path, content):
    name = "model.tgz" if content.startswith(b"\x1f") else "model.mar"
    (tmp_path / name).write_bytes(content)
    assert codes_in(tmp_path / name) == [("error", "not-an-archive")]


def test_a_text_file_is_not_reported_as_a_misnamed_zip(tmp_path):
    (tmp_path / "e.txt").write_text("no archive")
    assert codes_in(tmp_path / "e.txt") == [("error", "not-an-archive")]


def test_a_truncated_archive_is_an_error(tmp_path):
    archive = ours().write(tmp_path / "model.mar")
    archive.write_bytes(archive.read_bytes()[:-100])
    assert codes_in(archive) == [("error", "not-an-archive")]


def test_a_flipped_bit_is_an_error(tmp_path):
    archive = simple(HANDLE).write(tmp_path / "model.mar")
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"return data", b"return datA"))
    assert codes_in(archive) == [("error", "damaged")]


def test_a_member_that_is_larger_than_declared_is_a_zip_bomb(tmp_path):
    draft = simple(HANDLE)
    draft.late.append(lambda z: z.writestr("zeros", bytes(4321), zipfile.ZIP_DEFLATED))
    archive = draft.write(tmp_path / "model.mar")
    content = archive.read_bytes()
    assert content.count(struct.pack("<L", 4321)) == 2
    archive.write_bytes(content.replace(struct.pack("<L", 4321), struct.pack("<L", 1234)))
    assert codes_in(archive) == [("error", "zip-bomb")]


def test_a_member_missing_in_the_directory_is_an_error(tmp_path):
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
    assert codes_in(archive) == [("error", "zip-hidden")]


def test_a_header_with_another_name_than_the_directory_is_an_error(tmp_path):
    archive = simple(HANDLE).write(tmp_path / "model.mar")
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"my_handler.pydef", b"no_handler.pydef"))
    assert codes_in(archive) == [("error", "zip-hidden")]


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
def test_a_tar_is_checked_before_it_is_unpacked(tmp_path, extra, code):
    archive = tar(tmp_path / "model.tar.gz", simple(HANDLE), "model/", extra)
    assert codes_in(archive) == [("error", code)]


def test_a_tar_without_a_top_folder_has_no_manifest(tmp_path):
    assert codes_in(tar(tmp_path / "good.tgz", simple(HANDLE))) == []
    archive = tar(tmp_path / "bad.tgz", simple(HANDLE), "")
    assert codes_in(archive) == [("error", "no-manifest")]


def test_a_zip_of_data_may_use_any_compression(tmp_path):
    draft = simple(HANDLE)
    arrays = io.BytesIO()
    np.savez_compressed(arrays, zeros=np.zeros(2_000_000))
    draft.files["zeros.npz"] = arrays.getvalue()
    for name, method in {"a.zip": zipfile.ZIP_LZMA, "b.zip": zipfile.ZIP_BZIP2}.items():
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", method) as inner:
            inner.writestr("rows.csv", "1,2\n" * 99)
        draft.files[name] = packed.getvalue()
    assert codes_in(draft.write(tmp_path / "model.mar")) == []


def test_an_unreadable_file_is_an_error(tmp_path, monkeypatch):
    folder = simple(HANDLE).write_folder(tmp_path / "simple")
    allowed = os.access  # root may read everything
    monkeypatch.setattr(
        os, "access", lambda path, how: "my_h" not in str(path) and allowed(path, how)
    )
    assert codes_in(folder) == [("error", "unread")]


def test_an_archive_with_backslashes_is_not_loaded(tmp_path):
    draft = simple("from tools.util import X\n\n\ndef handle(data, context):\n    return data\n")
    draft.files |= {"tools\\util.py": b"X = 1\n", "tools\\__init__.py": b""}
    with pytest.raises(UsageError, match="the name contains a backslash"):
        LoadedArchive(draft.write(tmp_path / "a.mar"))


def test_control_characters_in_names_are_escaped(tmp_path):
    draft = simple(HANDLE)
    draft.late.append(lambda z: z.writestr("../\x1b[2Jclean\u202e.py", b""))
    (finding,) = (f for f in check(draft.write(tmp_path / "m.mar")).findings if f.where)
    assert finding.where == "../\\x1b[2Jclean\\u202e.py"
