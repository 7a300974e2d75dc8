"""Look at one attention module at work: what it takes, and what each of its gates does with it.

As in `cut.py`, the network is traced and only the part up to this module runs: nothing is stored on
a module. Gates can be changed as in `intervene.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from cbam.attention import Gate, Steps
from cbam.backbones import blocks
from cbam.trace.cut import TRACING, Place, Tracer, ancestors, subgraph
from cbam.trace.intervene import CHANGEABLE, UNCHANGED, Change
from cbam.trace.rewrite import Folded, fuse


@dataclass(frozen=True, eq=False)
class Seen:
    """One module at work on a batch of photos."""

    before: Tensor  # (N, C, h, w), the features that it takes
    maps: Mapping[str, Tensor]  # by gate: the map that the module got
    steps: Mapping[str, Steps | None]  # by gate: how it came to its own map; None: it does not say

    def after(self, places: Mapping[str, Place]) -> Tensor:
        """The features (N, C, h, w) behind its gates: times what multiplies, plus what is added."""
        features = self.before
        for name, values in self.maps.items():
            use = places[name].kind.use
            if use == "multiplied":
                features = features * values
            elif use == "added":
                features = features + values
        return features


@dataclass(frozen=True, eq=False)
class Probe:
    """A network up to one attention module."""

    trunk: nn.Module  # images and the gates' values -> features, then each gate's inputs and map
    gates: Mapping[str, tuple[Gate, int]]  # by name, in the module's order; how much each takes
    told: Mapping[str, tuple[str, ...]]  # gates whose values the trunk takes, with their paths

    def run(self, images: Tensor, changes: Mapping[str, Change] | None = None) -> Seen:
        """Images (N, 3, H, W) -> the module at work on them. No gradient."""
        changes = changes or {}
        values = [
            value
            for name, paths in self.told.items()
            for value in changes.get(name, UNCHANGED).inputs(paths)
        ]
        maps: dict[str, Tensor] = {}
        steps: dict[str, Steps | None] = {}
        with torch.inference_mode():
            before, *rest = self.trunk(images, *values)
            for name, (gate, count) in self.gates.items():
                inputs, (maps[name], *rest) = rest[:count], rest[count:]
                steps[name] = gate.steps(*inputs)
        return Seen(before, maps, steps)


def probe_at(
    network: nn.Module, places: Mapping[str, Place], gates: Sequence[str], folded: Folded
) -> Probe:
    """The network up to the module that owns these gates, with its norms folded."""
    tracer = Tracer(CHANGEABLE)
    with TRACING:
        graph = tracer.trace(network)
    owner = places[gates[0]].owner
    # A module of attention takes features. A block that holds gates itself takes something else.
    apart = owner and owner not in blocks(network)
    features = tracer.taken[owner if apart else places[gates[0]].path][0]
    outputs: list[fx.Node] = [features]
    modules: dict[str, tuple[Gate, int]] = {}
    for name in gates:
        path = places[name].path
        module, inputs = network.get_submodule(path), tracer.taken[path]
        assert isinstance(module, Gate)
        modules[name] = module, len(inputs)
        outputs += [*inputs, tracer.outputs[path]]
    before = set().union(*map(ancestors, outputs))
    told = {
        name: place.paths
        for name, place in places.items()
        if place.path in tracer.outputs and tracer.outputs[place.path] in before
    }
    trunk = subgraph(network, graph, None, outputs)
    assert isinstance(trunk, fx.GraphModule)
    with torch.no_grad():
        return Probe(fuse(trunk, folded), modules, told)
