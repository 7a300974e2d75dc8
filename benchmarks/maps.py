"""Grad-CAM beside the peers and beside a plain forward pass: one photo, several, two models."""

from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks.peers import PEERS
from benchmarks.subjects import (
    AS_BUILT,
    FORWARD,
    FORWARD_OV,
    OURS,
    OURS_OV,
    Plan,
    Subject,
    difference,
    resnet18,
    resnet50,
)
from benchmarks.table import Row, Side, at_least, at_most
from benchmarks.timing import Run, race
from cbam.backends.choose import BACKENDS
from cbam.explain.explanation import Explanation
from cbam.model import compare

SECTION = "peers"
EXPLAIN = at_most(1.05)
# Of ResNet-50 and one photo.
SPEED_UP = {
    (peer, ours): at_least(limit)
    for peer in ("grad-cam", "torch-cam")
    for ours, limit in ((OURS, 3), (OURS_OV, 5))
}
COMPARISON = at_most(2.1)


def measure(plan: Plan) -> Iterator[Row]:
    """Every row of the section, as soon as it is measured."""
    big = resnet50(plan)
    yield from against_peers(plan, big, 1, targets=True)
    yield from against_peers(plan, big, plan.batch)
    yield from against_peers(plan, big, 1, channels_last=True)
    small = resnet18(plan)
    yield from against_peers(plan, small, 1)
    yield from against_peers(plan, small, plan.batch)
    del big
    yield comparison(plan, small, resnet18(plan, "cbam"))


def against_peers(
    plan: Plan,
    subject: Subject,
    count: int,
    *,
    targets: bool = False,
    channels_last: bool = False,
) -> Iterator[Row]:
    """`count` photos at once: ours, plain forward passes and every peer in one race.

    With `channels_last`, the peers get the network in the memory format that ours has, which their
    documentation does not tell a user to do.
    """
    photos = subject.photos(count)
    classes = [each.target.index for each in subject.explained(photos)]
    theirs = subject.in_channels_last() if channels_last else subject
    contestants: dict[str, Run] = {
        OURS: partial(subject.explained, photos),
        FORWARD: partial(subject.forward, photos),
        AS_BUILT: partial(theirs.as_built, photos),
    }
    missing: dict[str, str] = {}
    if not channels_last:
        if BACKENDS["openvino"].missing():
            missing = dict.fromkeys((OURS_OV, FORWARD_OV), "not installed")
        else:
            fast = subject.in_backend("openvino")
            contestants[OURS_OV] = partial(fast.explained, photos)
            contestants[FORWARD_OV] = partial(fast.forward, photos)
    for name, peer in PEERS.items():
        explain, reason = peer.load()
        if explain is None:
            missing[name] = reason
        else:
            contestants[name] = partial(theirs.by_peer, explain, photos, classes)
    found = race(SECTION, contestants, plan.rounds, plan.limit_s, missing=missing)
    what = f"Grad-CAM, {subject.title}, batch {count}"
    if channels_last:
        what += ", the peer's network in channels_last"
    for ours in (OURS,) if channels_last else (OURS, OURS_OV):
        for name in PEERS:
            apart = None
            if name in found.outputs and ours in found.outputs:
                apart = difference(_explanations(found.outputs[ours]), found.outputs[name])
            target = SPEED_UP.get((name, ours)) if targets else None
            yield found.row(what, name, ours, target, apart)
    if not channels_last:
        plain = f"explaining beside a forward pass, {subject.title}, batch {count}"
        yield found.row(plain, OURS, FORWARD, EXPLAIN)
        yield found.row(plain, OURS_OV, FORWARD_OV, EXPLAIN)
        yield found.row(plain, OURS, AS_BUILT)


def comparison(plan: Plan, first: Subject, second: Subject) -> Row:
    """Two models explained for the same class, beside one forward pass: the mean of theirs."""
    photos = first.photos(1)
    found = race(
        SECTION,
        {
            "both": lambda: compare([first.model, second.model], photos[0]),
            "forwards": lambda: (first.forward(photos), second.forward(photos)),
        },
        plan.rounds,
        plan.limit_s,
    )
    halves = tuple(ms / 2 for ms in found.ms.get("forwards", ()))
    return Row(
        SECTION,
        f"comparison of two models, {first.title} and {second.title}",
        Side("ours, both", found.ms.get("both", ())),
        Side("one forward", halves),
        COMPARISON,
        missing=next(iter(found.missing.values()), ""),
    )


def _explanations(output: object) -> Sequence[Explanation]:
    assert isinstance(output, list)
    return output
