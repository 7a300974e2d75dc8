"""Peak resident memory while explaining, each side in a fresh process: its imports count, too.

`python -m benchmarks.memory SIDE` is such a process: it prints its peaks in MiB as JSON.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.children import environment
from benchmarks.peers import PEERS
from benchmarks.subjects import Plan, Subject, resnet50_model, resnet50_title
from benchmarks.table import Row, Side
from cbam.backends.choose import BACKENDS
from cbam.model import Model

SECTION = "memory"
OURS, OURS_OV, FORWARD = "ours", "ours, OpenVINO", "forward, network as built"
OWN = (OURS, OURS_OV, FORWARD)
STATUS = Path("/proc/self/status")
RUNS = 3  # of each batch: the first ones let memory pools grow


def measure(plan: Plan) -> Iterator[Row]:
    """Peaks of the whole process, and what explaining adds to the loaded network."""
    missing = {name: reason for name, peer in PEERS.items() if (reason := peer.load()[1])}
    if BACKENDS["openvino"].missing():
        missing[OURS_OV] = "not installed"
    if not STATUS.exists():
        missing = dict.fromkeys((*OWN, *PEERS), "not measured: this needs Linux")
    peaks: dict[str, list[dict[str, float]]] = {}
    for _ in range(plan.memory_rounds):
        for name in (*OWN, *PEERS):
            if name not in missing:
                try:
                    peaks.setdefault(name, []).append(_run(name, plan))
                except subprocess.CalledProcessError as error:
                    missing[name] = f"failed: {_last_line(error.stderr)}"
    for kind in ("process", "added"):
        for count in dict.fromkeys((1, plan.batch)):
            said = "peak of the process" if kind == "process" else "peak above the loaded network"
            what = f"{said}, {resnet50_title(plan)}, batch {count}"
            pairs = [(name, OURS) for name in (*PEERS, OURS_OV)] + [(OURS, FORWARD)]
            for upper, lower in pairs:
                reason = missing.get(upper) or missing.get(lower) or ""
                found = {
                    name: tuple(each[f"{kind}_{count}"] for each in peaks.get(name, ()))
                    for name in (upper, lower)
                }
                sides = Side(upper, found[upper], "MiB"), Side(lower, found[lower], "MiB")
                yield Row(SECTION, what, *sides, missing=reason)


def _run(name: str, plan: Plan) -> dict[str, float]:
    """The peaks of one side's process. Raises CalledProcessError."""
    command = [sys.executable, "-m", "benchmarks.memory", name, str(plan.batch)]
    done = subprocess.run(
        [*command, "tiny"] if plan.tiny else command,
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    peaks: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return peaks


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2] or "it ended without a word"


def peaks(name: str, plan: Plan) -> dict[str, float]:
    """This process's peaks, in MiB: explain one photo, then a batch, with one side's code."""
    model = resnet50_model(plan)
    network: nn.Module = nn.Identity()  # ours has the model's own, and only that
    if name == OURS_OV:
        model = Model(model.card, model.network, "openvino")
    elif name != OURS:
        network = model.network.to(memory_format=torch.contiguous_format).requires_grad_(True)
    subject = Subject(resnet50_title(plan), model, network)
    module = PEERS[name].load()[0] if name in PEERS else None
    found: dict[str, float] = {}
    loaded = _status("VmRSS")
    for count in dict.fromkeys((1, plan.batch)):
        for _ in range(RUNS):
            _explain(name, module, subject, count)
        peak = _status("VmHWM")
        found[f"process_{count}"] = peak
        found[f"added_{count}"] = max(peak - loaded, 0.1)  # a tiny network adds next to nothing
    return found


def _explain(name: str, module: Any, subject: Subject, count: int) -> None:
    photos = subject.photos(count)
    if name in (OURS, OURS_OV):
        subject.explained(photos)
        return
    images, network = subject.tensor(photos), subject.network
    if name == FORWARD:
        with torch.inference_mode():
            network(images)
        return
    layer = network.get_submodule(subject.model.layers[-1])
    PEERS[name].explain(module, network, layer, images, [0] * count)


def _status(key: str) -> float:
    """A value of Linux's own account of this process, in MiB. VmHWM is the peak since it began.

    https://man7.org/linux/man-pages/man5/proc_pid_status.5.html
    """
    for line in STATUS.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) / 1024
    raise OSError(f"No {key} in {STATUS}.")


if __name__ == "__main__":
    side, batch, *rest = sys.argv[1:]
    print(json.dumps(peaks(side, Plan(batch=int(batch), tiny=rest == ["tiny"]))))  # noqa: T201
