"""Where a table was measured: machine, versions, commit."""

import contextlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from cbam import __version__

# Whoever has a part in the numbers.
PACKAGES = "torch torchvision numpy pillow openvino grad-cam torchcam captum fastapi uvicorn"


def facts() -> dict[str, str]:
    """Name -> value, as the table's head has it."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = ", ".join(map(_version, PACKAGES.split()))
    memory_gib = psutil.virtual_memory().total / 2**30
    return {
        "measured": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, cbam-lens {__version__}, {commit()}",
        "machine": f"{_processor()}, {cpus} CPUs, {memory_gib:.0f} GiB, {platform.system()}; "
        # Processes that wanted a CPU in the last minute: on a quiet machine less than one.
        f"load when it began: {psutil.getloadavg()[0]:.1f}",
        "threads of torch": str(torch.get_num_threads()),
        "versions": f"Python {platform.python_version()}, {versions}",
    }


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} not installed"


def commit() -> str:
    """`commit 5ded641`, with `-dirty` if the checkout differs from it."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return "no checkout"  # a repository around an unpacked archive is not ours
    command = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return f"commit {done.stdout.strip()}"
    except (OSError, subprocess.CalledProcessError):
        return "commit unknown"


def _processor() -> str:
    """The name that Linux gives it, or what Python knows."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
