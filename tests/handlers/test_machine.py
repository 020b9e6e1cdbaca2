"""The cores of a worker, and the sha256 of an artifact of one or several files."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vestal.inprocess import LoadedArchive
from vestal_handlers import threads
from vestal_handlers.cores import cores
from vestal_handlers.device import sha256_of
from vestal_handlers.threads import explain_threads, share_of_cores

CORES = len(os.sched_getaffinity(0))


def sha256sum(folder, *names):
    """The output of `sha256sum FILES | sha256sum`."""
    printed = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, check=True)
    return hashlib.sha256(printed.stdout).hexdigest()


def test_the_sha256_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"weights")
    assert sha256_of(tmp_path / "model.pt") == hashlib.sha256(b"weights").hexdigest()


def test_the_sha256_of_a_folder_covers_all_its_files(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "deep" / "vocabulary.txt").write_text("a b")
    names = ("config.json", "deep/vocabulary.txt", "model.safetensors")
    before = sha256_of(tmp_path)
    assert before == sha256sum(tmp_path, *names)
    (tmp_path / "config.json").write_text('{"n_layer": 2}')
    assert sha256_of(tmp_path) != before


def test_the_sha256_of_an_index_covers_its_shards(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    (tmp_path / "1.safetensors").write_bytes(b"one")
    (tmp_path / "2.safetensors").write_bytes(b"two")
    (tmp_path / "README.md").write_text("no weights")
    names = ("1.safetensors", "2.safetensors", index.name)
    assert sha256_of(index) == sha256sum(tmp_path, *names)
    # the files of a folder with an index are not counted twice
    assert sha256_of(tmp_path) == sha256sum(tmp_path, *names[:2], "README.md", index.name)


def process(folder, groups, *mounts):
    """A folder of a process in procfs; mounts are (root, mount point, type, options)."""
    proc = folder / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(groups)
    lines = [
        f"32 31 0:29 {root} {place} rw,relatime - {kind} cgroup {options}\n"
        for root, place, kind, options in mounts
    ]
    (proc / "mountinfo").write_text("23 1 0:22 / / rw - ext4 /dev/sda rw\n" + "".join(lines))
    return proc


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".", 1)).write_text(f"{content}\n")
    return folder


def test_a_quota_of_cgroup_version_2_includes_those_of_its_parents(tmp_path):
    mount = group(tmp_path / "fs")
    group(mount / "pod", cpu_max="50000 100000")
    group(mount / "pod" / "one", cpu_max="max 100000")
    proc = process(tmp_path, "0::/pod/one\n", ("/", mount, "cgroup2", "rw"))
    assert cores(proc) == 0.5
    group(mount / "pod" / "one", cpu_max="20000 100000")
    assert cores(proc) == 0.2


def test_a_quota_of_cgroup_version_1_is_found_at_any_mount(tmp_path):
    mount = group(tmp_path / "fs", cpu_cfs_quota_us=-1, cpu_cfs_period_us=100000)
    group(mount / "job", cpu_cfs_quota_us=30000, cpu_cfs_period_us=100000)
    groups = "4:memory:/other\n3:cpu,cpuacct:/job\n0::/\n"
    proc = process(tmp_path, groups, ("/", mount, "cgroup", "rw,cpu,cpuacct"))
    assert cores(proc) == pytest.approx(0.3)


def test_the_group_of_a_container_is_its_mount(tmp_path):
    mount = group(tmp_path / "fs", cpu_cfs_quota_us=25000, cpu_cfs_period_us=50000)
    mounted = ("/docker/4f", mount, "cgroup", "rw,cpu")
    assert cores(process(tmp_path, "1:cpu:/docker/4f\n", mounted)) == 0.5


def test_a_missing_group_has_the_quota_of_the_mount(tmp_path):
    mount = group(tmp_path / "fs", cpu_max="50000 100000")
    assert cores(process(tmp_path, "0::/../outside\n", ("/", mount, "cgroup2", "rw"))) == 0.5


@pytest.mark.parametrize("content", ["max 100000", "", "many", "100 0", "-1 100000", "900000 1000"])
def test_without_a_quota_the_affinity_counts(tmp_path, content):
    mount = group(tmp_path / "fs", cpu_max=content)
    assert cores(process(tmp_path, "0::/\n", ("/", mount, "cgroup2", "rw"))) == CORES
    assert cores(tmp_path / "nothing") == CORES


def test_workers_share_the_cores_of_the_affinity():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from vestal_handlers.threads import share_of_cores\n"
        "print(share_of_cores(1), share_of_cores(4))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1 1\n"


CONTROLLER = Path("/sys/fs/cgroup/cpu")


@pytest.mark.skipif(
    not os.access(CONTROLLER / "cgroup.procs", os.W_OK), reason="needs a cgroup of version 1"
)
def test_a_real_quota_is_respected():
    own = CONTROLLER / f"vestal-test-{os.getpid()}"
    own.mkdir()
    try:
        (own / "cpu.cfs_quota_us").write_text("50000")
        code = (
            f"import os; open('{own}/cgroup.procs', 'w').write(str(os.getpid()))\n"
            "from vestal_handlers.cores import cores; print(cores())"
        )
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == "0.5\n"
    finally:
        own.rmdir()


def test_each_worker_has_at_least_one_thread():
    assert share_of_cores(1000) == 1
    assert share_of_cores(1) == max(1, int(cores()))


@pytest.mark.parametrize(
    ("found", "workers", "share"),
    [(8.0, 2, 4), (8.0, 3, 2), (2.0, 2, 1), (2.0, 4, 1), (1.5, 1, 1), (0.5, 2, 1), (3.9, 2, 1)],
)
def test_threads_and_workers_are_never_more_than_the_cores(monkeypatch, found, workers, share):
    monkeypatch.setattr(threads, "cores", lambda: found)
    assert share_of_cores(workers) == share
    assert (workers * share <= found) == (workers <= found)
    sentence = explain_threads(share, workers)
    assert f"{share} of {found:g} cores for this worker, of {workers}" in sentence
    assert ("take turns" in sentence) == (workers > max(found, 1))


@pytest.mark.parametrize(
    ("content", "workers"),
    [
        ('{"mnist": {"1.0": 3}}', 3),
        ('{"mnist": {"2.0": 3}}', 4),
        ('{"mnist": 3}', 4),
        ("[]", 4),
        ("{", 4),
        (None, 4),
    ],
)
def test_the_servers_number_of_workers_wins_over_that_of_the_archive(
    tmp_path, monkeypatch, content, workers
):
    file = tmp_path / "workers.json"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv(threads.WORKERS_VARIABLE, str(file))
    assert threads.count_workers({"maxWorkers": 4}, "mnist", "1.0") == workers


def test_without_a_server_the_archive_has_the_number_of_workers(monkeypatch):
    monkeypatch.delenv(threads.WORKERS_VARIABLE, raising=False)
    assert threads.count_workers({"minWorkers": 2, "maxWorkers": 4}, "mnist", "1.0") == 4
    assert threads.count_workers({"minWorkers": 2}, "mnist", "1.0") == 2
    assert threads.count_workers({}, "mnist", "1.0") == 1


def test_a_worker_logs_its_threads(doubler_folder, caplog):
    with caplog.at_level("INFO"), LoadedArchive(doubler_folder):
        pass
    logged = [record.getMessage() for record in caplog.records]
    expected = f"doubler 1.0: CPU threads: {explain_threads(share_of_cores(1), 1)}"
    assert logged.count(expected) == 1
