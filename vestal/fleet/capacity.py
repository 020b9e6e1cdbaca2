"""Memory that workers may use: the smaller of the machine's and the control groups'."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

SMALLEST_WORKER = 256 << 20
"""Bytes that any worker needs at least: it imports torch before it loads a model."""

_ROOT = Path("/")
_SLACK = 1 << 62
"""A limit above it means no limit: cgroup v1 writes the largest number that it can store."""


@dataclass(frozen=True)
class _Names:
    """File names of one version of control groups. `unused`: field of memory.stat."""

    limits: tuple[str, ...]
    usage: str
    unused: str


_V1 = _Names(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
# Above memory.high, a group is slowed down until it is hardly usable.
_V2 = _Names(("memory.max", "memory.high"), "memory.current", "inactive_file")


def memory_free(root: Path = _ROOT) -> int:
    """Return the bytes that new processes may use.

    File cache that has not been used lately counts as free.

    Args:
        root: where /proc and /sys are, for tests.
    """
    free = [psutil.virtual_memory().available]
    for group, names in _groups(root):
        limit, used = _limit(group, names), _number(group / names.usage)
        if limit is not None and used is not None:
            free.append(max(0, limit - used + _unused(group, names)))
    return min(free)


def memory_limit(root: Path = _ROOT) -> int:
    """Return the bytes of memory that this process and its children may use altogether."""
    limits = [psutil.virtual_memory().total]
    limits += [n for g, names in _groups(root) if (n := _limit(g, names)) is not None]
    return min(limits)


def rss_of(pids: Iterable[int]) -> int:
    """Return the resident memory of processes in bytes; those that have ended count nothing."""
    total = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(pid).memory_info().rss
    return total


def describe_lack(memory: int | None, workers: int, free: int) -> str | None:
    """Describe why there is not enough memory for new workers; None if there is enough.

    Args:
        memory: what they need altogether, in bytes; None if it is unknown.
        free: bytes that they may use.
    """
    needed = SMALLEST_WORKER * workers if memory is None else memory
    if needed <= max(0, free):
        return None
    subject = "1 worker needs" if workers == 1 else f"{workers} workers need"
    least = "at least " if memory is None else ""
    return (
        f"not enough memory: {subject} {least}{format_bytes(needed)}, and "
        f"{format_bytes(max(0, free))} are free. Stop another model or use fewer workers"
    )


def format_bytes(count: int) -> str:
    """Format a number of bytes: `640 MB`, `1.3 GB`."""
    for unit, size in (("TB", 10**12), ("GB", 10**9)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 10**6:.0f} MB"


def _groups(root: Path) -> Iterator[tuple[Path, _Names]]:
    """Yield this process's control group and all those above it, of both versions."""
    mounts = list(_mounts(root))
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        version2 = number == "0" and not controllers
        if not version2 and "memory" not in controllers.split(","):
            continue
        for is_version2, top, mounted_at in mounts:
            if is_version2 == version2:
                names = _V2 if version2 else _V1
                yield from ((group, names) for group in _upwards(path, top, mounted_at))


def _mounts(root: Path) -> Iterator[tuple[bool, str, Path]]:
    """Yield where control groups are mounted: whether version 2, the group at the top, the folder.

    See proc_pid_mountinfo(5).
    """
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        top, mounted_at = before.split()[3:5]
        kind, _, options = after.split(maxsplit=2)
        if kind == "cgroup2" or (kind == "cgroup" and "memory" in options.split(",")):
            yield kind == "cgroup2", top, root / mounted_at.lstrip("/")


def _upwards(path: str, top: str, mounted_at: Path) -> Iterator[Path]:
    # In a container without a cgroup namespace, the path is that of the host.
    own = PurePosixPath(path)
    group = mounted_at / own.relative_to(top) if own.is_relative_to(top) else mounted_at
    while True:
        yield group
        if group == mounted_at:
            return
        group = group.parent


def _limit(group: Path, names: _Names) -> int | None:
    limits = [_number(group / name) for name in names.limits]
    return min((each for each in limits if each is not None and each < _SLACK), default=None)


def _unused(group: Path, names: _Names) -> int:
    for line in _lines(group / "memory.stat"):
        key, _, value = line.partition(" ")
        if key == names.unused:
            return int(value)
    return 0


def _number(file: Path) -> int | None:
    """Return the number in a file; None for `max` or if there is no such file."""
    text = "".join(_lines(file)).strip()
    return int(text) if text.isdecimal() else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8").splitlines()
    except OSError:
        return []  # no control groups of this version
