"""What the keeper stores survives crashes, damaged files and full disks."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from keeper_folder import SOURCE, desired
from keeper_folder import folder as folder

from vestal.errors import VestalError
from vestal.fleet.actual import ModelState
from vestal.fleet.state import StateStore

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")


@pytest.mark.parametrize("length", [0, 1, 100, -2])
def test_a_truncated_file_is_replaced_by_the_one_before_it(folder: Path, length: int) -> None:
    store = StateStore(folder)
    store.add_revision(desired("1.0"), SOURCE)
    store.add_revision(desired("2.0"), SOURCE)
    main = folder / "state.json"
    main.write_bytes(main.read_bytes()[:length])

    restored = StateStore(folder)
    assert restored.desired == desired("1.0")
    [damaged, source] = restored.notices
    assert damaged.startswith(f"{main} is damaged (")
    assert source == (f"The state was restored from {main}.previous, which lacks the last change.")
    assert (folder / "state.json.damaged").is_file()
    # The good copy is not overwritten by the next change.
    restored.add_revision(desired("3.0"), SOURCE)
    assert StateStore(folder).desired == desired("3.0")
    main.write_bytes(b"")
    assert StateStore(folder).desired == desired("1.0")


def test_a_change_of_any_byte_is_noticed(folder: Path) -> None:
    store = StateStore(folder)
    store.add_revision(desired("1.0"), SOURCE)
    main = folder / "state.json"
    good = main.read_bytes()
    position = good.index(b"alice")
    main.write_bytes(good[:position] + b"A" + good[position + 1 :])
    damaged = StateStore(folder)
    assert damaged.desired is None
    assert damaged.notices == [
        f"{main} is damaged (its digest does not match) and was kept as state.json.damaged.",
        "There is no earlier copy: the history and the desired state are lost.",
    ]


def test_a_damaged_desired_state_leaves_the_revision_before_it(folder: Path) -> None:
    store = StateStore(folder)
    store.add_revision(desired("1.0"), SOURCE)
    before = set((folder / "desired").iterdir())
    store.add_revision(desired("2.0"), SOURCE)
    [newest] = set((folder / "desired").iterdir()) - before
    newest.write_bytes(newest.read_bytes()[:-5])
    restored = StateStore(folder)
    assert restored.desired == desired("1.0")
    assert restored.notices == [
        "The desired state of revision 2 is missing or damaged; the revision was left out of the "
        "history."
    ]
    restored.add_revision(desired("2.0"), SOURCE)  # which writes the damaged file again
    assert StateStore(folder).desired == desired("2.0")


def test_a_crash_between_the_two_renames_loses_only_the_change(folder: Path) -> None:
    store = StateStore(folder)
    store.add_revision(desired("1.0"), SOURCE)
    (folder / "state.json").rename(folder / "state.json.previous")
    assert StateStore(folder).desired == desired("1.0")


WRITER = """
import sys
from pathlib import Path
from keeper_folder import SOURCE, desired
from vestal.fleet.state import StateStore
store = StateStore(Path(sys.argv[1]))
while True:
    print(store.add_revision(desired("1.0", body=bytes(50_000)), SOURCE).number, flush=True)
"""


def test_a_killed_process_loses_no_change_that_it_has_confirmed(folder: Path) -> None:
    last = 0
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        ) as writer:
            assert writer.stdout is not None
            for _ in range(5):
                last = int(writer.stdout.readline())
            writer.kill()
            last = max([last, *(int(line) for line in writer.stdout if line.endswith(b"\n"))])
        store = StateStore(folder)
        assert store.revisions[0].number in (last, last + 1)
        assert store.desired == desired("1.0", body=bytes(50_000))


def test_a_file_is_on_the_disk_before_it_replaces_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "desired").mkdir(parents=True)
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def record_fsync(descriptor: int) -> None:
        calls.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def record_replace(path: Path, destination: Path) -> Path:
        calls.append(f"rename {path.name} -> {destination.name}")
        return replace(path, destination)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    store = StateStore(folder)
    store.add_revision(desired("1.0"), SOURCE)
    name = next((folder / "desired").iterdir()).name
    written = [f"sync {name}", f"rename {name} -> {name}", "sync desired"]
    assert calls == [
        *written,
        "sync state.json",
        "rename state.json -> state.json",
        "sync state",
    ]
    calls.clear()
    store.save_model("m", ModelState(serving="1.0"))
    assert calls == [
        "sync state.json",
        "rename state.json -> state.json.previous",
        "rename state.json -> state.json",
        "sync state",
    ]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(file: Path) -> None:
    """Write until the disk is full."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


@ROOT
def test_a_full_disk_changes_nothing_and_is_named(small_disk: Path) -> None:
    store = StateStore(small_disk / "state")
    store.add_revision(desired("1.0"), SOURCE)
    store.save_model("m", ModelState(serving="1.0"))
    before, revisions = store.models, store.revisions
    with pytest.raises(VestalError, match=r"the disk is full: no space left in"):
        store.add_revision(desired("2.0", body=bytes(100_000)), SOURCE)
    fill(small_disk / "fill")
    with pytest.raises(VestalError, match=r"the disk is full: no space left in"):
        store.save_model("m", ModelState(serving="2.0"))
    for each in (store, StateStore(small_disk / "state")):
        assert each.desired == desired("1.0")
        assert (each.models, each.revisions, each.notices) == (before, revisions, [])
    (small_disk / "fill").unlink()
    store.add_revision(desired("2.0"), SOURCE)
    assert StateStore(small_disk / "state").desired == desired("2.0")
    assert len(list((small_disk / "state" / "desired").iterdir())) == 2
