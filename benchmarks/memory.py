"""Peak resident memory while explaining, each side in a fresh process: its imports count, too.

`python -m benchmarks.memory SIDE` is such a process: it prints its peaks in MiB as JSON.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image
from torch import nn

from benchmarks.peers import PEERS
from benchmarks.subjects import (
    AS_BUILT,
    OURS,
    OURS_OV,
    Plan,
    Subject,
    random_card,
    random_model,
    random_network,
    title_of,
)
from benchmarks.table import Row, Side
from cbam.backends.choose import BACKENDS, EAGER, OPENVINO

SECTION = "memory"
OWN = (OURS, OURS_OV, AS_BUILT)
ROOT = Path(__file__).parent.parent
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

    def side(name: str, key: str) -> Side:
        return Side(name, tuple(each[key] for each in peaks.get(name, ())), "MiB")

    title = title_of(plan, random_card(plan, "resnet50"))
    kinds = {"process": "peak of the process", "added": "peak above the loaded network"}
    for kind, said in kinds.items():
        for count in dict.fromkeys((1, plan.batch)):
            what, key = f"{said}, {title}, batch {count}", f"{kind}_{count}"
            for upper, lower in [(name, OURS) for name in (*PEERS, OURS_OV)] + [(OURS, AS_BUILT)]:
                reason = missing.get(upper) or missing.get(lower) or ""
                yield Row(SECTION, what, side(upper, key), side(lower, key), missing=reason)


def _run(name: str, plan: Plan) -> dict[str, float]:
    """The peaks of one side's process. Raises CalledProcessError."""
    command = [sys.executable, "-m", "benchmarks.memory", name, str(plan.batch)]
    command += ["tiny"] * plan.tiny
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    peaks: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return peaks


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2] or "it ended without a word"


def peaks(name: str, plan: Plan) -> dict[str, float]:
    """This process's peaks, in MiB: explain one photo, then a batch, with one side's code."""
    card = random_card(plan, "resnet50")
    model = random_model(card, OPENVINO if name == OURS_OV else EAGER)
    network: nn.Module = nn.Identity()  # ours has the model's own, and only that
    if name not in (OURS, OURS_OV):
        network = random_network(card).eval()
    subject = Subject(name, model, network)
    run: Callable[[Sequence[Image.Image]], object] = subject.explained
    if name == AS_BUILT:
        run = subject.as_built
    elif name in PEERS and (explain := PEERS[name].load()[0]):
        run = lambda photos: subject.by_peer(explain, photos, [0] * len(photos))  # noqa: E731
    found: dict[str, float] = {}
    loaded = _status("VmRSS")
    for count in dict.fromkeys((1, plan.batch)):
        for _ in range(RUNS):
            run(subject.photos(count))
        peak = _status("VmHWM")
        found[f"process_{count}"] = peak
        found[f"added_{count}"] = max(peak - loaded, 0.1)  # a tiny network adds next to nothing
    return found


def _status(key: str) -> float:
    """A value of Linux's own account of this process, in MiB. VmHWM is the peak since it began.

    https://man7.org/linux/man-pages/man5/proc_pid_status.5.html; psutil does not read VmHWM, and
    the peak that getrusage reports may be the parent's.
    """
    lines = STATUS.read_text(encoding="ascii").splitlines()
    (value,) = [line.split()[1] for line in lines if line.startswith(f"{key}:")]
    return int(value) / 1024


if __name__ == "__main__":
    side, batch, *rest = sys.argv[1:]
    print(json.dumps(peaks(side, Plan(batch=int(batch), tiny=rest == ["tiny"]))))  # noqa: T201
