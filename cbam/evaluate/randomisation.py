"""Does a heat map depend on the weights at all? Make them random, from the head to the stem.

Cascading randomisation, Adebayo et al. 2018, https://arxiv.org/abs/1810.03292, section 4: stage by
stage the trained weights are replaced by random ones, as before training, and the map of the same
class is made again. A map that stays as it was shows the photo, not what the network learned.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cbam.backbones import blocks
from cbam.cards.card import Card
from cbam.evaluate.gate_values import closeness
from cbam.explain.explainer import answer
from cbam.explain.explanation import Explanation, Floats
from cbam.explain.interventions import changes
from cbam.explain.question import Layers, Options, Question, chosen_layers, resolve
from cbam.model import Model
from cbam.render import enlarged, scaled
from cbam.slices import Work
from cbam.trace.cut import Cut, Place, cut_at
from cbam.trace.intervene import Change, changeable, changed

PARTS = 4  # of a network whose blocks all stand in one sequence
SSIM_PX = 64  # maps are compared as pictures of this size


@dataclass(frozen=True)
class Similarity:
    """How alike two maps are. 1: the same."""

    rank_correlation: float | None  # Spearman's, over cells, in [-1, 1]; None: one map is flat
    ssim: float  # of the maps as pictures, in [-1, 1]


@dataclass(frozen=True, eq=False)
class Randomised:
    """A map of the network whose weights are random from the head down to this stage."""

    stage: str  # the modules that became random last: "fc", "layer4", "conv1, bn1"
    map: Floats  # (h, w), raw
    similarity: Similarity  # with the map of the trained network


@dataclass(frozen=True, eq=False)
class Strip:
    """The maps from the trained network to a random one, and a control.

    `centre` compares the trained network's map with one that is hottest in the centre: two maps
    that both favour the centre are alike without any common reason.
    """

    original: Floats
    stages: tuple[Randomised, ...]
    centre: Similarity


def strip(
    model: Model, explanation: Explanation, seed: int = 0, time_limit_s: float | None = None
) -> Work[Strip]:
    """Make a model's weights random stage by stage: one slice for each.

    `explanation` is the model's own; the same target, method, layers and changes of gates are asked
    of every random network. `time_limit_s` is that of each map. The model stays as it is. Raises
    TooSlow.
    """
    network, random = model.network_copy(), torch.Generator().manual_seed(seed)
    twin = _Twin.of(model, network, explanation)
    found: list[Randomised] = []
    order = stages(network)
    for number, (name, modules) in enumerate(order):
        for module in modules:
            randomise(module, random)
        heat = _asked_again(twin, explanation, time_limit_s)
        found.append(Randomised(name, heat, similarity(explanation.heatmap, heat)))
        if number + 1 < len(order):
            yield (number + 1) / len(order)
    original = explanation.heatmap
    middle = closeness(max(original.shape)).astype(np.float32)
    middle = enlarged(middle - middle.min(), original.shape[1], original.shape[0])
    return Strip(original, tuple(found), similarity(original, middle))


@dataclass(frozen=True)
class _Twin:
    """A model whose network is cut once, where an explanation asks; it shares the weights."""

    card: Card
    layers: Sequence[str]
    gates: Mapping[str, Place]
    whole: Cut

    @classmethod
    def of(cls, model: Model, network: nn.Module, explanation: Explanation) -> "_Twin":
        layers = chosen_layers(model, explanation.layer)
        gates = changes([model], dict(explanation.changed))[0].gates
        cut = changed(changeable(network, layers), gates) if gates else cut_at(network, layers)
        return cls(model.card, model.layers, model.gates, cut)

    def cut(self, layers: Layers, changes: Mapping[str, Change] | None = None) -> Cut:
        """The one cut that there is."""
        return self.whole


def _asked_again(twin: _Twin, explanation: Explanation, time_limit_s: float | None) -> Floats:
    """The map of a random network for what an explanation is of."""
    target = explanation.target
    options = Options(
        target.label if target.indices else target.index,
        explanation.method,
        explanation.layer,
        top_k=1,
        attention=False,
        time_limit_s=time_limit_s,
    )
    question: Question = replace(
        resolve([twin], options), versus=tuple(each.index for each in explanation.versus)
    )
    return answer(question, explanation.photo)[0].heatmap


def stages(network: nn.Module) -> list[tuple[str, list[nn.Module]]]:
    """The modules that hold weights, from the head to the stem, and what each stage is called.

    A stage is what the network has a name for, such as `layer4`. If all blocks stand in one
    sequence, that is taken in PARTS equal parts.
    """
    inside = {name.partition(".")[0] for name in blocks(network)}
    children = [name for name, child in network.named_children() if _holders(child)]
    stem, body, head = _around(children, inside)
    found = [(", ".join(stem), stem)] if stem else []
    if len(body) > 1:
        found += [(name, [name]) for name in body]
    elif body:
        sequence = network.get_submodule(body[0])
        inner = [name for name, child in sequence.named_children() if _holders(child)]
        for part in np.array_split(np.array(inner), min(PARTS, len(inner))):
            title = f"{body[0]}.{part[0]}" + (f" to {part[-1]}" if len(part) > 1 else "")
            found.append((title, [f"{body[0]}.{name}" for name in part]))
    found += [(", ".join(head), head)] if head else []
    return [
        (title, [each for name in names for each in _holders(network.get_submodule(name))])
        for title, names in reversed(found)
    ]


def _around(children: Sequence[str], inside: set[str]) -> tuple[list[str], list[str], list[str]]:
    """The names before the first that holds blocks, up to the last one, and behind it."""
    at = [number for number, name in enumerate(children) if name in inside]
    first, last = (at[0], at[-1] + 1) if at else (0, len(children))
    return list(children[:first]), list(children[first:last]), list(children[last:])


def _holders(module: nn.Module) -> list[nn.Module]:
    """The modules in it that hold weights themselves."""
    return [
        each
        for each in module.modules()
        if any(True for _ in (*each.parameters(recurse=False), *each.buffers(recurse=False)))
    ]


def randomise(module: nn.Module, random: torch.Generator) -> None:
    """Give a module's own weights values as before training; norms pass on what comes.

    Matrices and filters are drawn after He et al. 2015, https://arxiv.org/abs/1502.01852, biases
    are 0. Nothing starts at zero that would hide a gate.
    """
    with torch.no_grad():
        for name, value in (
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        ):
            if not value.is_floating_point():
                continue  # a count
            if value.ndim > 1:
                nn.init.kaiming_normal_(value, nonlinearity="relu", generator=random)
            else:
                value.fill_(1.0 if name in ("weight", "running_var") else 0.0)


def similarity(one: Floats, other: Floats) -> Similarity:
    """How alike two maps (h, w) of any positive scale are."""
    return Similarity(rank_correlation(one, other), ssim(*map(_picture, (one, other))))


def rank_correlation(one: NDArray[np.floating], other: NDArray[np.floating]) -> float | None:
    """Spearman's correlation of two maps of one shape, in [-1, 1]; None if one is flat."""
    from scipy.stats import rankdata  # comes with the grad-cam package

    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])


def _picture(heat: Floats) -> Floats:
    return enlarged(scaled(heat), SSIM_PX, SSIM_PX)


def ssim(one: Floats, other: Floats) -> float:
    """Structural similarity of two pictures (H, W) with values in [0, 1]: the mean over pixels.

    Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861, eq. 13: a Gaussian window of 1.5
    pixels, constants (0.01)^2 and (0.03)^2.
    """
    from scipy.ndimage import gaussian_filter  # comes with the grad-cam package

    def blur(values: NDArray[np.float64]) -> NDArray[np.float64]:
        smooth: NDArray[np.float64] = gaussian_filter(values, 1.5, truncate=3.5, mode="nearest")
        return smooth

    x, y = one.astype(np.float64), other.astype(np.float64)
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    both = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    alike = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    return float((alike / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())
