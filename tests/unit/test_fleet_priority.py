"""`vestal.fleet.priority`: workers that start use only idle CPU time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import psutil
import pytest
from serving import until

from vestal.fleet import priority

THREADS = """
import subprocess, sys, threading
wait = [sys.executable, "-c", "import sys; sys.stdin.read()"]
child = subprocess.Popen(wait, stdin=subprocess.PIPE)
def work():
    threading.Thread(target=lambda: lines.wait()).start()
    lines.wait()
lines = threading.Event()
for _ in range(3):
    threading.Thread(target=work).start()
print(child.pid, flush=True)
sys.stdin.read()
lines.set()
child.stdin.close()
child.wait()
"""


@pytest.fixture
def family():
    """Processes of a parent with several threads and a child."""
    process = subprocess.Popen(
        [sys.executable, "-c", THREADS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    child = int(process.stdout.readline())
    yield process.pid, child
    process.communicate()


def policies(*pids):
    return {
        os.sched_getscheduler(thread.id) for pid in pids for thread in psutil.Process(pid).threads()
    }


def test_all_threads_and_children_yield_until_they_are_restored(family):
    priority.yield_to_others(family[0])
    assert policies(*family) == {os.SCHED_IDLE}
    if priority.is_reversible():
        priority.restore(family[0])
        assert policies(*family) == {os.SCHED_OTHER}


def test_the_workers_of_a_shadow_yield_as_long_as_it_is_one(family):
    shadows = priority.ShadowWorkers()
    shadows.update({family[0]})
    if not priority.is_reversible():
        assert policies(*family) == {os.SCHED_OTHER}
        return
    assert policies(*family) == {os.SCHED_IDLE}
    priority.restore(family[0])  # as at the end of a start
    shadows.update({family[0]})
    assert policies(*family) == {os.SCHED_IDLE}
    shadows.update(set())
    assert policies(*family) == {os.SCHED_OTHER}


def test_a_process_that_has_ended_is_ignored():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    priority.yield_to_others(ended.pid)
    priority.restore(ended.pid)


@pytest.mark.parametrize("namespace", [False, True])
def test_the_answer_is_that_of_the_kernel(namespace):
    """In a process that may not restore the policy, `is_reversible` is false."""
    code = """
import os, resource, sys
from vestal.fleet import priority
resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
if os.getuid() == 0 and "drop" in sys.argv:
    os.setuid(65534)
expected = True
try:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
except PermissionError:
    expected = False
print(expected, priority.is_reversible())
"""
    # In a user namespace, as in a rootless container, the process has every capability.
    command = ["unshare", "--map-root-user"] if namespace else []
    if namespace and (
        not shutil.which("unshare")
        or subprocess.run([*command, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("user namespaces cannot be created here")
    command += [sys.executable, "-c", code, *([] if namespace else ["drop"])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    expected, answer = done.stdout.split()
    assert answer == expected


def test_only_new_children_of_the_server_yield_and_all_are_restored_at_the_end():
    code = """
import subprocess, sys
wait = [sys.executable, "-c", "import sys; sys.stdin.read()"]
children = [subprocess.Popen(wait, stdin=subprocess.PIPE)]
print(children[0].pid, flush=True)
while sys.stdin.readline():
    children.append(subprocess.Popen(wait, stdin=subprocess.PIPE))
    print(children[-1].pid, flush=True)
for child in children:
    child.communicate()
"""
    server = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    old = int(server.stdout.readline())
    with priority.StartingWorkers(server.pid, 60):
        server.stdin.write("\n")
        server.stdin.flush()
        new = int(server.stdout.readline())
        expected = {os.SCHED_IDLE} if priority.is_reversible() else {os.SCHED_OTHER}
        until(lambda: policies(new) == expected, 20, "the policy of the new worker")
        assert policies(old) == {os.SCHED_OTHER}
    assert policies(old, new) == {os.SCHED_OTHER}
    server.communicate()


def test_nothing_yields_any_more_when_a_worker_that_serves_has_ended():
    """Its successor must not wait for idle CPU time."""
    code = """
import subprocess, sys
wait = [sys.executable, "-c", "import sys; sys.stdin.read()"]
def start():
    children.append(subprocess.Popen(wait, stdin=subprocess.PIPE))
    return children[-1].pid
children = []
print(start(), flush=True)
sys.stdin.readline()
print(start(), flush=True)
sys.stdin.readline()
children.pop(0).communicate()
print(start(), flush=True)
sys.stdin.readline()
for child in children:
    child.communicate()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:

        def next_worker():
            server.stdin.write("\n")
            server.stdin.flush()
            return int(server.stdout.readline())

        server.stdout.readline()  # the worker that serves
        expected = {os.SCHED_IDLE} if priority.is_reversible() else {os.SCHED_OTHER}
        with priority.StartingWorkers(server.pid, 60):
            new = next_worker()
            until(lambda: policies(new) == expected, 20, "the policy of the new worker")
            successor = next_worker()
            until(lambda: policies(new, successor) == {os.SCHED_OTHER}, 20, "the normal policy")
        server.communicate("\n")
