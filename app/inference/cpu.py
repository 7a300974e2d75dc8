"""How many CPUs this process may use: what the container was given, not what the machine has."""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def cpu_quota(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float | None:
    """CPUs that the control groups allow, 1.5 for instance; None: as many as there are.

    Reads `cpu.max` (version 2) and `cpu.cfs_quota_us` (version 1) of the process's own group and
    of all above it: the tightest holds. In a container its group is usually the root of what it
    sees. https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
    """
    quotas = [
        quota for folder in _folders(cgroups, membership) if (quota := _quota(folder)) is not None
    ]
    return min(quotas, default=None)


def model_threads(wanted: int, available: int, quota: float | None) -> int:
    """Threads for one forward pass: `wanted`; 0: whole CPUs of the quota, and at most `available`.

    More threads than the quota allows are stopped together each period, and wait for each other.
    """
    if wanted:
        return wanted
    return max(1, min(available, available if quota is None else math.floor(quota)))


def available_cpus() -> int:
    """CPUs on which the scheduler may put this process."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _folders(cgroups: Path, membership: Path) -> Iterator[Path]:
    """Folders of the groups that this process is in, up to the roots."""
    yield from (cgroups, cgroups / "cpu", cgroups / "cpu,cpuacct")
    for line in _text(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for base in (cgroups / controllers, cgroups / "unified"):
            group = PurePosixPath(path)
            yield from (base / str(each).lstrip("/") for each in (group, *group.parents))


def _quota(folder: Path) -> float | None:
    """One group's limit, in CPUs."""
    allowed, _, period = _text(folder / "cpu.max").partition(" ")  # "150000 100000", "max 100000"
    if not allowed:
        allowed = _text(folder / "cpu.cfs_quota_us")  # -1: no limit
        period = _text(folder / "cpu.cfs_period_us")
    if not allowed.isdecimal() or not period.isdecimal() or not int(allowed) or not int(period):
        return None
    return int(allowed) / int(period)


def _text(file: Path) -> str:
    """A file's text; empty if there is none to be read."""
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
