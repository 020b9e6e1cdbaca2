"""The CPU cores that a process may use: its affinity and the quotas of its control groups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc/self")


def cores(proc: Path = PROC) -> float:
    """Cores of this process; a quota may be a fraction, such as 1.5.

    Args:
        proc: the process's folder in procfs.
    """
    allowed = float(len(os.sched_getaffinity(0)))
    return min([allowed, *_quotas(proc)])


def _quotas(proc: Path) -> Iterator[float]:
    """The quota of each control group of this process, from its own to the outermost."""
    for mount, group in _groups(proc):
        folder = mount / group.lstrip("/")
        # In a container the mount may be its own group, but the path that of the host.
        folder = folder if folder.is_dir() else mount
        for each in (folder, *folder.parents):
            if not each.is_relative_to(mount):
                break
            quota = _quota(each)
            if quota is not None:
                yield quota


def _groups(proc: Path) -> Iterator[tuple[Path, str]]:
    """The mount of the CPU controller, and the group of this process below it (cgroups(7))."""
    try:
        mounts = (proc / "mountinfo").read_text().splitlines()
        memberships = (proc / "cgroup").read_text().splitlines()
    except OSError:  # without procfs there are no groups
        return
    paths: dict[str, str] = {}  # by controller; "" is version 2, which has one tree for all
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    for line in mounts:
        before, _, after = line.partition(" - ")
        root, place = before.split()[3:5]
        kind, _, options = after.split(" ", 2)
        controller = "" if kind == "cgroup2" else "cpu"
        is_cpu = kind == "cgroup2" or (kind == "cgroup" and "cpu" in options.split(","))
        if is_cpu and controller in paths:
            path = paths[controller]
            inside = path.removeprefix(root) if root != "/" else path
            yield Path(place.replace("\\040", " ")), inside


def _quota(folder: Path) -> float | None:
    """The quota in `cpu.max` (version 2) or two files (version 1); `max` and -1 mean none."""
    try:
        if (folder / "cpu.max").is_file():
            limit, period = (folder / "cpu.max").read_text().split()
        else:
            limit = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return int(limit) / int(period) if int(limit) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
