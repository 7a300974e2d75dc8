"""Every method of METHODS beside a plain forward pass and beside the grad-cam package's own."""

from collections.abc import Iterator
from functools import partial

from benchmarks.peers import GRAD_CAM, PEERS
from benchmarks.subjects import FORWARD, OURS, Plan, Subject, difference, resnet18, resnet50
from benchmarks.table import Row, at_least
from benchmarks.timing import Run, race
from cbam.explain.methods import METHODS
from cbam.explain.question import Options

SECTION = "methods"
TARGETS = {"ablationcam": at_least(80)}
RANDOM = "randomcam"  # its maps differ from themselves
ONLY_FULL = "minutes for one number: only with --full"


def measure(plan: Plan) -> Iterator[Row]:
    """Cheap methods on ResNet-50; those that pass through a network per channel on ResNet-18."""
    big, small = resnet50(plan), resnet18(plan)
    for name, method in METHODS.items():
        yield from beside(plan, big if method.cost_class == "low" else small, name)
    # Where the head is more than pooling and a linear layer, nothing has a closed form.
    yield from beside(plan, small, "ablationcam", small.model.layers[-2])
    yield from beside(plan, big, "ablationcam", runs_package=plan.full)


def beside(
    plan: Plan, subject: Subject, name: str, layer: str | None = None, runs_package: bool = True
) -> Iterator[Row]:
    """A method beside a forward pass and, if the package has it, beside the package's.

    What takes seconds runs once.
    """
    method, chosen = METHODS[name], layer or subject.model.layers[-1]
    photos = subject.photos(1)
    index = subject.explained(photos)[0].target.index
    subject.model.cut((chosen,))  # made once and kept: not a part of the first run
    ours: Run = partial(subject.explained, photos, Options(method=name, layer=layer))
    title = f"{method.title}, {subject.title}" + (f", {layer}" if layer else "")

    forward: Run = partial(subject.forward, photos)
    rounds = 1 if method.cost_class == "high" else plan.rounds
    own = race(SECTION, {OURS: ours, FORWARD: forward}, rounds, plan.limit_s)
    yield own.row(title, OURS, FORWARD)
    if not method.package:
        return

    explain, reason = PEERS[GRAD_CAM].load()
    contestants: dict[str, Run] = {}
    if explain is not None and runs_package:
        package = partial(explain, name=method.package)
        theirs: Run = partial(subject.by_peer, package, photos, [index], chosen)
        contestants = {OURS: ours, GRAD_CAM: theirs}
    else:
        reason = reason or ONLY_FULL
    rounds = plan.rounds if method.cost_class == "low" else 1
    missing = {GRAD_CAM: reason} if reason else {}
    both = race(SECTION, contestants, rounds, plan.limit_s, missing=missing)
    apart = None
    if len(both.outputs) == 2 and name != RANDOM:
        found = both.outputs[OURS]
        assert isinstance(found, list)
        apart = difference(found, both.outputs[GRAD_CAM])
    # The target is the design's for the last layer.
    yield both.row(title, GRAD_CAM, OURS, None if layer else TARGETS.get(name), apart)
