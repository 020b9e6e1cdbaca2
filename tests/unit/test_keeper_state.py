"""What the keeper stores: it survives restarts, power loss and full disks."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import vestal.fleet.state
from vestal.errors import VestalError
from vestal.fleet.actual import ModelState, Previous
from vestal.fleet.desired import Desired, ModelTarget, Probe, VersionTarget
from vestal.fleet.state import MOST_REVISIONS, StateStore
from vestal.fleet.status import Source

SOURCE = Source(command="vestal apply", user="alice", file="serving.yaml", sha256="0" * 64)
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")


def desired(version: str, body: bytes = b"") -> Desired:
    probes = (Probe.of("in.bin", body, "image/png", {"label": "7"}),) if body else ()
    versions = {version: VersionTarget(archive=f"m-{version}.mar", sha256="a" * 64)}
    return Desired(models={"m": ModelTarget(default=version, versions=versions, probes=probes)})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / ".vestal" / "state"


def test_a_new_store_is_empty_and_writes_nothing(folder: Path) -> None:
    store = StateStore(folder)
    assert (store.desired, store.revisions, dict(store.models)) == (None, [], {})
    assert store.notices == []
    assert not folder.exists()


def test_everything_is_there_after_a_restart(folder: Path) -> None:
    store = StateStore(folder)
    first = store.add_revision(desired("1.0"), SOURCE)
    store.finish_revision(first.number, "done")
    second = store.add_revision(desired("2.0", body=bytes(range(256))), SOURCE)
    model = ModelState(
        serving="1.0",
        serving_archive=("m-1.0.mar", "a" * 64),
        previous=Previous("0.9", 12.5),
        rejected={"2.0": "it predicts 5 instead of 7"},
    )
    store.save_model("m", model)
    store.save_footprint("a" * 64, 640_000_000)

    again = StateStore(folder)
    assert again.desired == second.desired
    assert again.desired is not None
    assert again.desired.models["m"].probes[0].body == bytes(range(256))
    assert again.revisions == store.revisions
    assert [(r.number, r.outcome, r.source) for r in again.revisions] == [
        (2, None, SOURCE),
        (1, "done", SOURCE),
    ]
    assert again.models == {"m": model}
    assert again.footprints == {"a" * 64: 640_000_000}
    again.forget_model("m")
    assert StateStore(folder).models == {}


def test_a_new_revision_supersedes_one_that_is_not_finished(folder: Path) -> None:
    store = StateStore(folder)
    store.add_revision(desired("1.0"), SOURCE)
    store.add_revision(desired("2.0"), SOURCE)
    store.finish_revision(1, "done")
    store.finish_revision(2, "failed", "it does not load")
    assert [(r.outcome, r.reason) for r in store.revisions] == [
        ("failed", "it does not load"),
        ("superseded", None),
    ]


def test_only_the_user_may_read_it(folder: Path) -> None:
    StateStore(folder).add_revision(desired("1.0"), SOURCE)
    StateStore(folder).add_revision(desired("2.0"), SOURCE)
    for each in (folder.parent, folder, folder / "desired"):
        assert stat.S_IMODE(each.stat().st_mode) == 0o700
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 4
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_the_history_is_bounded_and_equal_states_share_a_file(folder: Path) -> None:
    store = StateStore(folder)
    for number in range(MOST_REVISIONS + 20):
        store.add_revision(desired("1.0" if number % 2 else "2.0"), SOURCE)
    numbers = [revision.number for revision in StateStore(folder).revisions]
    assert numbers == list(range(MOST_REVISIONS + 20, 20, -1))
    assert len(list((folder / "desired").iterdir())) == 2


def test_large_probes_shorten_the_history(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vestal.fleet.state, "MOST_BYTES", 10_000)
    store = StateStore(folder)
    for number in range(10):
        store.add_revision(desired("1.0", body=bytes([number]) * 3000), SOURCE)
    assert [revision.number for revision in store.revisions] == [10, 9]
    # state.json.previous refers to one more.
    assert len(list((folder / "desired").iterdir())) <= 3
    store.add_revision(desired("1.0", body=b"x" * 50_000), SOURCE)
    assert [revision.number for revision in StateStore(folder).revisions] == [11]


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
from test_keeper_state import SOURCE, desired
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


def test_a_file_of_another_version_of_vestal_is_not_touched(folder: Path) -> None:
    StateStore(folder).add_revision(desired("1.0"), SOURCE)
    main = folder / "state.json"
    newer = json.dumps({**json.loads(main.read_text()), "format": 2})
    main.write_text(newer)
    with pytest.raises(VestalError, match=r"state.json has format 2, and this version") as error:
        StateStore(folder)
    assert "\n" not in str(error.value)
    assert main.read_text() == newer


def test_a_folder_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "state.json").mkdir(parents=True)
    with pytest.raises(VestalError, match=r"state.json cannot be read: Is a directory"):
        StateStore(folder)


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


def test_threads_lose_no_change(folder: Path) -> None:
    store = StateStore(folder)

    def change(thread: int) -> None:
        for number in range(5):
            store.save_footprint(f"{thread}-{number}", number)
            store.add_revision(desired(f"{thread}.{number}"), SOURCE)

    threads = [threading.Thread(target=change, args=(each,)) for each in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = StateStore(folder)
    assert len(again.footprints) == 20
    assert [revision.number for revision in again.revisions] == list(range(20, 0, -1))
