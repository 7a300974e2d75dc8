"""Where a table was measured: machine, versions, commit."""

import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from cbam import __version__

# Whoever has a part in the numbers.
PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "openvino",
    "grad-cam",
    "torchcam",
    "captum",
    "fastapi",
    "uvicorn",
)


def facts() -> dict[str, str]:
    """Name -> value, as the table's head has it."""
    return {
        "measured": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, cbam-lens {__version__}, {commit()}",
        "machine": f"{_processor()}, {_cpus()} CPUs, {_memory()}, {platform.system()}; "
        f"load when it began: {_load()}",
        "threads of torch": str(torch.get_num_threads()),
        "versions": f"Python {platform.python_version()}, {versions(PACKAGES)}",
    }


def versions(packages: Iterable[str]) -> str:
    """`torch 2.15.0, captum not installed`."""

    def of(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    return ", ".join(f"{name} {of(name)}" for name in packages)


def commit() -> str:
    """`commit 5ded641`, with a word if the checkout differs from it."""
    folder = Path(__file__).parent
    if not (folder.parent / ".git").exists():
        return "no checkout"  # installed; a repository around the environment is not ours

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return f"commit {git('rev-parse', '--short', 'HEAD')}{' with changes' if changed else ''}"
    except (OSError, subprocess.CalledProcessError):
        return "commit unknown"


def _processor() -> str:
    """The name that Linux gives it, or what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return "memory unknown"
    return f"{total / 2**30:.0f} GiB"


def _load() -> str:
    """Processes that wanted a CPU in the last minute: on a quiet machine less than one."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
