"""Processes of our own beside this one."""

import os
from collections.abc import Mapping
from pathlib import Path

import cbam


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment for a child that runs `python -m cbam...`, wherever it starts."""
    packages = str(Path(cbam.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (packages, os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, "PYTHONPATH": path, **(changes or {})}
