"""Gates as inputs: a cut network takes the maps of chosen gates and computes everything else.

This intervenes in a trained network without retraining it. A given map replaces the gate's own, and
later gates see the features that it changed. As in `cut.py`, nothing is stored on a module.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from cbam.errors import CBAMLensError, UnknownName
from cbam.trace.cut import Cut, Maps


@dataclass(frozen=True)
class Intervened:
    """A cut whose chosen gates are inputs. The cut itself stays as it is."""

    cut: Cut
    trunk: fx.GraphModule  # images, then a map for each of `trunk_inputs` -> as the cut's trunk
    head: fx.GraphModule  # activation, then a map for each of `head_inputs` -> as the cut's head
    trunk_inputs: tuple[str, ...]
    head_inputs: tuple[str, ...]

    def run_trunk(self, images: Tensor, gates: Mapping[str, Tensor]) -> tuple[Tensor, Maps]:
        """`Cut.run_trunk` with these maps for the chosen gates, each of a shape that fits.

        A scalar fits every gate: 1 holds it open. The given maps are returned among the others.
        """
        with torch.inference_mode():
            activation, *maps = self.trunk(images, *(gates[name] for name in self.trunk_inputs))
        names = (*self.cut.trunk_gates, *(each.layer for each in self.cut.passed))
        return activation, dict(zip(names, maps, strict=True))

    def run_head(self, activation: Tensor, gates: Mapping[str, Tensor]) -> tuple[Any, Maps]:
        """`Cut.run_head` with these maps for the chosen gates; differentiable in the activation."""
        outputs, *maps = self.head(activation, *(gates[name] for name in self.head_inputs))
        return outputs, dict(zip(self.cut.head_gates, maps, strict=True))


def intervene(cut: Cut, gates: Sequence[str]) -> Intervened:
    """Turn these gates, named as in `cut.places`, into inputs.

    Raises UnknownName for a gate that the network does not have, CBAMLensError if the cut's trunk
    runs in a back end: only a traced trunk can be changed.
    """
    for name in gates:
        if name not in cut.places:
            raise UnknownName.of("gate", name, cut.places)
    if not isinstance(cut.trunk, fx.GraphModule) or not isinstance(cut.head, fx.GraphModule):
        raise CBAMLensError(f"The trunk up to '{cut.layer}' runs in a back end. Cut again.")
    trunk_inputs = tuple(name for name in cut.trunk_gates if name in gates)
    head_inputs = tuple(name for name in cut.head_gates if name in gates)
    return Intervened(
        cut,
        _with_inputs(cut.trunk, cut.trunk_gates, trunk_inputs),
        _with_inputs(cut.head, cut.head_gates, head_inputs),
        trunk_inputs,
        head_inputs,
    )


def _with_inputs(
    part: fx.GraphModule, gates: Sequence[str], chosen: Sequence[str]
) -> fx.GraphModule:
    """A copy of trunk or head, whose outputs are (first, *gates, ...), with inputs for `chosen`."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(part.graph, {}))
    changed = fx.GraphModule(part, graph)
    _, *outputs = next(node for node in graph.nodes if node.op == "output").args[0]
    start = next(node for node in graph.nodes if node.op == "placeholder")
    for name in reversed(chosen):  # each is inserted right after the start: begin with the last
        own = outputs[gates.index(name)]
        with graph.inserting_after(start):
            given = graph.placeholder(name.replace(".", "_"))
        own.replace_all_uses_with(given)
        graph.erase_node(own)
    graph.eliminate_dead_code()
    graph.lint()
    changed.recompile()
    return changed.eval()
