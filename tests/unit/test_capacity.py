"""Memory that is free: of the machine, and of control groups of both versions."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from vestal.fleet.capacity import SMALLEST_WORKER, format_bytes, memory_free, memory_limit, rss_of

MIB = 1 << 20
V1_UNLIMITED = 9223372036854771712


def write(root: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")


def version2(root: Path, path: str = "/app", top: str = "/") -> Path:
    mount = f"30 23 0:28 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
    write(root, {"proc/self/cgroup": f"0::{path}", "proc/self/mountinfo": mount})
    return root / "sys/fs/cgroup"


def version1(root: Path, path: str = "/app", top: str = "/") -> Path:
    mounts = [
        "30 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs rw,mode=755",
        "31 30 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu",
        f"32 30 0:30 {top} /sys/fs/cgroup/memory rw master:9 - cgroup cgroup rw,memory",
    ]
    cgroup = f"9:name=systemd:/other\n4:memory:{path}\n1:cpu:/other\n0::/"
    write(root, {"proc/self/cgroup": cgroup, "proc/self/mountinfo": "\n".join(mounts)})
    return root / "sys/fs/cgroup/memory"


def group2(folder: Path, limit: object, used: int, inactive: int = 0, **other: object) -> None:
    statistics = f"anon 5\nfile 77\ninactive_anon 9\ninactive_file {inactive}"
    files = {"memory.max": limit, "memory.current": used, "memory.stat": statistics}
    write(folder, {**files, **{f"memory.{name}": value for name, value in other.items()}})


def group1(folder: Path, limit: object, used: int, inactive: int = 0) -> None:
    statistics = f"inactive_file 3\ntotal_inactive_file {inactive}"
    files = {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used}
    write(folder, {**files, "memory.stat": statistics})


def test_without_control_groups_it_is_the_machine(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) == psutil.virtual_memory().total
    assert 0 < memory_free(tmp_path) <= memory_limit(tmp_path)


def test_unused_file_cache_of_a_group_counts_as_free(tmp_path: Path) -> None:
    group2(version2(tmp_path) / "app", 100 * MIB, 70 * MIB, inactive=30 * MIB)
    assert memory_limit(tmp_path) == 100 * MIB
    assert memory_free(tmp_path) == 60 * MIB


def test_the_tightest_of_nested_groups_counts(tmp_path: Path) -> None:
    top = version2(tmp_path, "/slice/service/app")
    group2(top / "slice/service/app", "max", 10 * MIB)
    group2(top / "slice/service", 90 * MIB, 20 * MIB)
    group2(top / "slice", 100 * MIB, 95 * MIB)
    assert memory_limit(tmp_path) == 90 * MIB
    assert memory_free(tmp_path) == 5 * MIB


def test_the_limit_from_which_a_group_is_slowed_down_counts(tmp_path: Path) -> None:
    group2(version2(tmp_path) / "app", 100 * MIB, 10 * MIB, high=80 * MIB)
    assert (memory_limit(tmp_path), memory_free(tmp_path)) == (80 * MIB, 70 * MIB)


def test_a_group_above_its_limit_has_nothing_free(tmp_path: Path) -> None:
    group2(version2(tmp_path) / "app", 100 * MIB, 120 * MIB)
    assert memory_free(tmp_path) == 0


def test_a_group_of_version_1_has_its_limit_and_that_of_its_parents(tmp_path: Path) -> None:
    top = version1(tmp_path, "/docker/abc")
    group1(top / "docker/abc", 200 * MIB, 50 * MIB, inactive=20 * MIB)
    group1(top / "docker", 150 * MIB, 100 * MIB)
    group1(top, V1_UNLIMITED, 3 << 30)
    assert memory_limit(tmp_path) == 150 * MIB
    assert memory_free(tmp_path) == 50 * MIB


@pytest.mark.parametrize("path", ["/docker/abc", "/docker/abc/inner"])
def test_in_a_container_the_path_may_be_that_of_the_host(tmp_path: Path, path: str) -> None:
    top = version1(tmp_path, path, top="/docker/abc")
    group1(top, 200 * MIB, 50 * MIB)
    assert memory_free(tmp_path) == 150 * MIB


@pytest.mark.parametrize("path", ["/../outside", "/docker/abcdef", "/gone"])
def test_a_group_that_is_not_mounted_here_counts_as_the_top(tmp_path: Path, path: str) -> None:
    group2(version2(tmp_path, path, top="/docker/abc"), 200 * MIB, 50 * MIB)
    assert memory_free(tmp_path) == 150 * MIB


def test_without_a_limit_it_is_the_machine(tmp_path: Path) -> None:
    group2(version2(tmp_path) / "app", "max", 10 * MIB)
    assert memory_limit(tmp_path) == psutil.virtual_memory().total


def test_this_machine_has_memory() -> None:
    assert SMALLEST_WORKER < memory_limit() <= psutil.virtual_memory().total
    assert 0 < memory_free() <= psutil.virtual_memory().total


@pytest.fixture
def limited_group() -> Iterator[Path]:
    """A real control group of version 1 with a limit of 512 MiB, below that of this process."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next((line.split(":")[2] for line in lines if line.split(":")[1] == "memory"), None)
    if own is None:
        pytest.skip("the control groups of this machine are not of version 1")
    group = Path(f"/sys/fs/cgroup/memory{own}/vestal-test-{os.getpid()}")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"control groups cannot be created here: {error}")
    try:
        (group / "memory.limit_in_bytes").write_text(f"{512 * MIB}")
        yield group
    finally:
        group.rmdir()


def test_a_process_in_a_real_group_sees_its_limit_and_what_it_uses(limited_group: Path) -> None:
    code = f"""
import os
from pathlib import Path
Path({str(limited_group / "cgroup.procs")!r}).write_text(str(os.getpid()))
from vestal.fleet.capacity import memory_free, memory_limit
before = memory_free()
used = b"1" * (100 << 20)
print(memory_limit(), before, memory_free())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    limit, before, after = map(int, done.stdout.split())
    assert limit == 512 * MIB
    assert after <= before - 90 * MIB < limit


def test_memory_of_processes_is_added_and_those_that_have_ended_are_skipped() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    own = rss_of([os.getpid()])
    assert own > 10 * MIB
    assert rss_of([ended.pid]) == 0
    assert rss_of([]) == 0
    code = "x = b'1' * (100 << 20); print('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as large:
        assert large.stdout is not None
        assert large.stdin is not None
        assert large.stdout.readline() == b"ready\n"
        assert rss_of([large.pid, ended.pid]) > 100 * MIB
        large.stdin.write(b"\n")


def test_bytes_are_shown_with_the_unit_of_their_size() -> None:
    shown = [format_bytes(count) for count in (0, 640_000_000, 1_340_000_000, 2 * 10**12)]
    assert shown == ["0 MB", "640 MB", "1.3 GB", "2.0 TB"]
