"""A lock ends with the process that took it, whatever that process has forked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from vestal.batch.journal import Journal
from vestal.client import renewal
from vestal.files.locks import FileLock
from vestal.mar.index import updating
from vestal.project import Project
from vestal.server.lock import lock
from vestal.training.train import lock_folder

# Takes every lock of the project, forks a child that outlives it, and says the child's pid.
OWNER = """
import os, sys, time
from contextlib import ExitStack
from pathlib import Path

from vestal.mar.index import updating
from vestal.batch.journal import Journal
from vestal.client import renewal
from vestal.project import Project
from vestal.training.train import lock_folder
from vestal.server.lock import lock

root = Path(sys.argv[1])
with ExitStack() as stack:
    stack.enter_context(Journal(root / "out.csv.journal", {}))
    stack.enter_context(lock_folder(root / "run"))
    stack.enter_context(updating(root / "model_store"))
    assert stack.enter_context(renewal._lock(root / "key_file.json"))
    served = lock(Project(root))
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def killed(tmp_path):
    """A project whose locks' owner was killed, while its forked child lives on."""
    for folder in ("run", "model_store"):
        (tmp_path / folder).mkdir()
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        child = int(owner.stdout.readline())
        assert not FileLock(tmp_path / "run").acquire()
        owner.kill()
    yield tmp_path
    os.kill(child, signal.SIGKILL)  # it still lived


def test_no_lock_of_a_killed_process_is_held_by_its_child(killed):
    with Journal(killed / "out.csv.journal", {}), lock_folder(killed / "run"):
        pass
    store = FileLock(killed / "model_store")
    assert store.acquire()  # at once, where updating() waits
    store.release()
    with updating(killed / "model_store"), renewal._lock(killed / "key_file.json") as held:
        assert held
    lock(Project(killed)).release()


def test_a_child_neither_holds_a_lock_nor_ends_its_parents(tmp_path):
    mine, theirs = FileLock(tmp_path), FileLock(tmp_path)
    assert mine.acquire()
    child = os.fork()
    if child == 0:
        mine.release()
        try:
            mine.fileno()
        except ValueError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert not theirs.acquire()
    mine.release()
    mine.release()
    assert theirs.acquire()
    theirs.release()


def test_a_lock_that_waits_gets_it(tmp_path):
    lock = FileLock(tmp_path / "file", create=True)
    assert lock.acquire(wait=True)
    lock.release()
    with pytest.raises(ValueError, match="was released"):
        lock.fileno()
