"""How many CPUs this process may use: what the container was given, not what the machine has."""

import math
import os
from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")  # in a container, that of its own control group


def cpu_quota(cpu_max: Path = CPU_MAX) -> float | None:
    """The CPUs that the container's control group allows, such as 1.5; None: no known limit.

    https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
    """
    try:
        allowed, period = cpu_max.read_text(encoding="ascii").split()  # "150000 100000"
        return int(allowed) / int(period)
    except (OSError, ValueError):  # no such file, "max 100000"
        return None


def model_threads(wanted: int, available: int, quota: float | None) -> int:
    """Threads for one forward pass: `wanted`, or for 0 the quota's whole CPUs, at most `available`.

    With more threads than the quota allows, the kernel pauses all of them in every period.
    """
    if wanted:
        return wanted
    return max(1, min(available, available if quota is None else math.floor(quota)))


def available_cpus() -> int:
    """The number of CPUs on which the scheduler may run this process."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
