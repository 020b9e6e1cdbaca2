"""What the keeper stores, and who may read it."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path

import pytest
from keeper_folder import SOURCE, desired
from keeper_folder import folder as folder

import vestal.fleet.state
from vestal.errors import VestalError
from vestal.fleet.actual import ModelState, Previous
from vestal.fleet.state import MOST_REVISIONS, StateStore


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
