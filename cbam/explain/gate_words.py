"""What a gate does to one photo, in a word: judged against its own spread over many photos.

A gate that says the same for everything, or for every photo, only scales the features. Its card
says how far it moves from photo to photo (`metrics.gate_values`) and where its mean lies
(`Card.gate_means`); without them, only what shows in a single photo is said.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cbam.attention import Kind
from cbam.cards.card import Card
from cbam.explain.explanation import GateMap
from cbam.said import Said, said

SATURATED = 0.05  # of its range: a value this near to an end hardly moves any more
STILL = 0.001  # a value that moves less than this is the same for every photo, or everywhere
MOSTLY = 0.5  # the share of dead or saturated values from which the whole gate is called so
SOME = 0.1  # the least share of values at each end of a gate that is called a switch
OPEN, SHUT = 0.75, 0.25  # a gate lets at least, at most so much of a feature through
# Distance from its mean, in units of its movement from photo to photo. Of a normal distribution the
# mean distance is 0.8: half of that is little, twice that is much.
LITTLE, MUCH = 0.4, 1.6

State = Literal["untrained", "constant", "dead", "saturated", "typical", "selective", "varied"]
STATES: dict[State, str] = {
    "untrained": "says its neutral value for everything, which is where training starts",
    "constant": "says the same for everything in this photo",
    "dead": "says the same for every photo",
    "saturated": "has most of its values at an end of their range",
    "typical": "hardly leaves its mean over many photos",
    "selective": "answers this photo",
    "varied": "varies; its card does not say how it behaves on other photos",
}


@dataclass(frozen=True)
class Judgement:
    """What a gate does to one photo."""

    state: State
    said: Said
    open: float | None  # share of its values of at least OPEN; None: it does not multiply
    shut: float | None  # share of its values of at most SHUT
    spread: float  # standard deviation of its values in this photo
    usual_spread: float | None  # the same on average over many photos; None: not on the card
    moved: float | None  # mean distance from its mean, in units of its movement over photos

    @property
    def sentence(self) -> str:
        """What `state` means for this gate."""
        return self.said.text


def near_ends(values: NDArray[Any], kind: Kind) -> NDArray[np.bool_]:
    """Which values lie within SATURATED of an end of their range; without ends, none does."""
    if kind.lowest is None or kind.highest is None:
        return np.zeros(values.shape, dtype=np.bool_)
    margin = SATURATED * (kind.highest - kind.lowest)
    near: NDArray[np.bool_]
    near = (values < kind.lowest + margin) | (values > kind.highest - margin)
    return near


def judge(gate: GateMap, card: Card, name: str) -> Judgement:
    """The gate called `name` ("layer1.0.channel") on one photo. Its values may not be changed ones.

    The first that holds: "untrained" or "constant" if its values differ by less than STILL; "dead"
    if MOSTLY of its values move less than STILL from photo to photo; "saturated" if MOSTLY are near
    an end; then by the distance from its mean over photos "typical" (less than LITTLE) or
    "selective"; "varied" if the card has no such numbers.
    """
    kind, values = gate.kind, gate.values
    multiplies = kind.use == "multiplied"
    measured = card.metrics.get("gate_values", {}).get(name, {})
    over_photos = measured.get("over_photos", 0.0)
    moved = None
    mean = card.gate_means.get(name)
    if mean is not None and over_photos > 0:
        usual = GateMap.of(kind, mean.numpy()).values
        if usual.shape == values.shape:  # a map over photos of another size has another grid
            moved = float(np.abs(values - usual).mean()) / over_photos
    low, high = float(values.min()), float(values.max())
    what = "channels" if kind.axes == "C" else "places" if "C" not in kind.axes else "values"
    near = near_ends(values, kind)
    ends = float(near.mean())
    state: State
    if high - low < STILL:
        at = {"low": f"{low:.2f}", "what": what}
        if kind.neutral is not None and abs(low - kind.neutral) < STILL:
            state = "untrained"
            text = "Untrained: {low} for all {what}, which is where training starts."
        else:
            state = "constant"
            text = "Constant: {low} for all {what}, so it only scales."
        found = said(state, text, **at)
    elif measured.get("dead", 0.0) >= MOSTLY:
        state = "dead"
        found = said(
            state,
            "Dead: {dead} of its {what} say the same for every photo, so they could be part of the "
            "weights.",
            dead=f"{measured['dead']:.0%}",
            what=what,
        )
    elif ends >= MOSTLY:
        state = "saturated"
        above = float((near & (values > (low + high) / 2)).mean())
        if min(above, ends - above) >= SOME:
            found = said(
                "switch",
                "Saturated at both ends, as a switch: {above} of its {what} at the highest value, "
                "{below} at the lowest.",
                above=f"{above:.0%}",
                below=f"{ends - above:.0%}",
                what=what,
            )
        else:
            found = said(
                state,
                "Saturated: {ends} of its {what} are at an end of their range, where little moves "
                "them.",
                ends=f"{ends:.0%}",
                what=what,
            )
    elif moved is None:
        state = "varied"
        found = said(
            state,
            "Varied: from {low} to {high}. Its card does not say what is usual.",
            low=f"{low:.2f}",
            high=f"{high:.2f}",
        )
    else:
        state = "typical" if moved < LITTLE else "selective"
        case, text = (
            ("typical", "Typical: it hardly leaves its mean over many photos")
            if moved < LITTLE
            else ("far", "Selective: this photo moves it unusually far")
            if moved >= MUCH
            else (
                "selective",
                "Selective: this photo moves it about as far as photos usually do",
            )
        )
        text += " ({moved} × its movement from photo to photo)."
        found = said(case, text, moved=f"{moved:.1f}")
    return Judgement(
        state,
        found,
        float((values >= OPEN).mean()) if multiplies else None,
        float((values <= SHUT).mean()) if multiplies else None,
        float(values.std()),
        measured.get("within_photo"),
        moved,
    )
