"""A lock ends with the process that acquired it, even if a forked child lives on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from vestal.batch.journal import Journal
from vestal.client import renewal
from vestal.files.locks import FileLock
from vestal.mar.index import update_index
from vestal.project import Project
from vestal.runs import lock_folder
from vestal.server.lock import lock_project

# Acquires every lock of the project, forks a child that outlives it, and prints the child's pid.
OWNER = """
import os, sys, time
from contextlib import ExitStack
from pathlib import Path

from vestal.mar.index import update_index
from vestal.batch.journal import Journal
from vestal.client import renewal
from vestal.project import Project
from vestal.runs import lock_folder
from vestal.server.lock import lock_project

root = Path(sys.argv[1])
with ExitStack() as stack:
    stack.enter_context(Journal(root / "out.csv.journal", {}))
    stack.enter_context(lock_folder(root / "run"))
    stack.enter_context(update_index(root / "model_store"))
    assert stack.enter_context(renewal._lock(root / "key_file.json"))
    served = lock_project(Project(root))
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
    os.kill(child, signal.SIGKILL)  # raises ProcessLookupError if it had ended


def test_a_child_does_not_hold_the_locks_of_its_killed_parent(killed):
    with Journal(killed / "out.csv.journal", {}), lock_folder(killed / "run"):
        pass
    store = FileLock(killed / "model_store")
    assert store.acquire()  # at once; update_index() would wait
    store.release()
    with update_index(killed / "model_store"), renewal._lock(killed / "key_file.json") as held:
        assert held
    lock_project(Project(killed)).release()


def test_a_child_neither_holds_nor_releases_its_parents_lock(tmp_path):
    lock, other = FileLock(tmp_path), FileLock(tmp_path)
    assert lock.acquire()
    child = os.fork()
    if child == 0:
        lock.release()
        try:
            lock.fileno()
        except ValueError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert not other.acquire()
    lock.release()
    lock.release()
    assert other.acquire()
    other.release()


def test_a_free_lock_is_acquired_without_waiting(tmp_path):
    lock = FileLock(tmp_path / "file", create=True)
    assert lock.acquire(wait=True)
    lock.release()
    with pytest.raises(ValueError, match="was released"):
        lock.fileno()
