"""`vestal check` reads an archive and reports what is wrong with it."""

from __future__ import annotations

import io
import random
import re
from pathlib import Path

import pytest
import torch
from check_archives import HANDLE, Draft, Net, codes_in, ours, saved, simple, stock, torchscript
from check_defects import DEFECTS
from check_foreign import foreign_archives
from check_planting import Defect

from vestal.checking import CODES, check, checker
from vestal.checking.checker import is_ours
from vestal.errors import UsageError, VestalError
from vestal.inprocess import LoadedArchive
from vestal.mar.index import add_entry, sha256_of, update_index
from vestal.project import Project


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_a_planted_defect_gives_its_finding_and_no_other(tmp_path: Path, defect: Defect):
    draft = defect.made_by()
    defect.plant(draft)
    assert codes_in(draft.write(tmp_path / "model.mar")) == [(defect.severity, defect.code)]


@pytest.mark.parametrize(
    "defect",
    [
        defect
        for defect in DEFECTS
        if defect.severity == "error"
        and defect.code in {"handler-classes", "weights-kind", "no-handler", "option"}
    ],
    ids=str,
)
def test_torchserve_does_not_load_an_archive_with_a_handler_error(tmp_path: Path, defect: Defect):
    draft = defect.made_by()
    defect.plant(draft)
    with pytest.raises(VestalError, match="does not load"):
        LoadedArchive(draft.write_folder(tmp_path / "model"))


def test_a_good_archive_of_vestal_has_no_findings(tmp_path):
    assert check(ours().write(tmp_path / "parity.mar")).findings == ()


def test_archives_of_torch_model_archiver_have_no_findings_but_the_missing_bill(tmp_path):
    for name, archive in foreign_archives(tmp_path).items():
        codes = [(f.severity, f.code) for f in check(archive).findings]
        assert codes == [("note", "no-bill")], name


def test_a_folder_is_checked_in_place_and_not_changed(tmp_path):
    folder = ours().write_folder(tmp_path / "parity")
    before = sorted(folder.rglob("*"))
    assert check(folder).findings == ()
    assert sorted(folder.rglob("*")) == before


def test_torchscript_exported_models_and_state_dicts_have_no_findings(tmp_path):
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
    assert codes_in(draft.write(tmp_path / "model.mar")) == []


def test_no_code_of_an_archive_runs(tmp_path):
    proof = tmp_path / "ran"
    line = f"open({str(proof)!r}, 'w')\n"
    for draft in (ours(), simple(line + HANDLE)):
        for name in [name for name in draft.files if name.endswith(".py")]:
            draft.text(name, f"{line}{draft.files[name].decode()}")
        check(draft.write(tmp_path / "model.mar"))
    assert not proof.exists()


def test_an_unexpected_exception_is_a_finding_and_the_other_checks_continue(tmp_path, monkeypatch):
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


def test_broken_bytes_give_findings_and_no_traceback(tmp_path, rng):
    draft = stock()
    draft.files["script.pt"] = torchscript(Net())
    draft.files["older.bin"] = saved([1], _use_new_zipfile_serialization=False)
    whole = draft.write(tmp_path / "whole.mar").read_bytes()
    for turn in range(300):
        if turn % 2:  # a broken zip
            broken = tmp_path / "broken.mar"
            broken.write_bytes(corrupted(whole, rng))
        else:  # a sound zip of broken files
            files = {name: corrupted(data, rng) for name, data in draft.files.items()}
            broken = Draft(files, draft.manifest).write(tmp_path / "broken.mar")
        check(broken)


def corrupted(data: bytes, rng: random.Random) -> bytes:
    content = bytearray(data)
    for _ in range(rng.choice([1, 3, 20])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content[: rng.choice([len(content), rng.randrange(1, len(content))])])


def test_an_archive_is_ours_by_its_sha256(tmp_path):
    project = Project(tmp_path)
    project.model_store.mkdir()
    archive = simple(HANDLE).write(tmp_path / "somewhere.mar")
    assert not is_ours(project, archive)
    with update_index(project.model_store) as index:
        add_entry(index, "simple-1.0.mar", sha256=sha256_of(archive))
    assert is_ours(project, archive)


def test_a_missing_path_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=r"no archive .*none\.mar: pass"):
        check(tmp_path / "none.mar")


def test_every_code_is_documented_and_used():
    root = Path(__file__).parents[2]
    docs = (root / "docs" / "guides" / "check.md").read_text()
    sources = "".join(
        path.read_text()
        for package in ("mar", "checking")
        for path in (root / "vestal" / package).glob("*.py")
        if path.name != "findings.py"
    )
    for code, meaning in CODES.items():
        assert f"| `{code}` | {meaning} |" in docs
        assert re.search(rf'"{code}"', sources), code
