"""Cut a network in two at a layer, without hooks: a trunk up to it, a head from it to the logits.

The network is traced once (torch.fx). The trunk returns the layer's activation *and every gate's
map* as ordinary outputs; the head takes the activation to the logits, and returns the maps of
gates behind the cut. Nothing is stored on a module, so any number of threads may call both.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from cbam.attention import Gate, Kind
from cbam.backbones import blocks
from cbam.errors import CannotCut, UnknownName

# "layer1.0.channel" -> (N, C, 1, 1), "layer1.0.spatial" -> (N, 1, h, w). A cut that passes earlier
# layers adds their activations (N, C, h, w) under their names, such as "layer3.1".
Maps = Mapping[str, Tensor]

TRACING = threading.Lock()  # torch.fx patches nn.Module for the whole process while it traces


@dataclass(frozen=True)
class Between:
    """What stands between every gate and its owner, in a network whose gates can be changed."""

    inputs: Callable[[Gate], Sequence[str]]  # names of the values that it takes for a gate
    run: Callable[..., Any]  # the gate, its values, its own arguments -> the map its owner gets


class Tracer(fx.Tracer):
    """A tracer that remembers each module's output node."""

    def __init__(self, between: Between | None = None) -> None:
        super().__init__()
        self.between = between
        self.inputs: dict[str, list[fx.Proxy]] = {}
        self.taken: dict[str, tuple[fx.Node, ...]] = {}  # each module's own arguments
        self.outputs: dict[str, fx.Node] = {}
        self.thread = threading.get_ident()

    def create_args_for_root(self, *args: Any, **kwargs: Any) -> tuple[Any, list[Any]]:
        function, inputs = super().create_args_for_root(*args, **kwargs)
        if self.between is not None:  # after the images, before all else
            for path, module in self.root.named_modules():
                if isinstance(module, Gate):
                    names = self.between.inputs(module)
                    full = [f"{path}.{name}".replace(".", "_") for name in names]
                    placed = [self.create_proxy("placeholder", name, (), {}) for name in full]
                    self.inputs[path] = placed
        return function, inputs

    @property
    def _elsewhere(self) -> bool:
        """Whether this is a forward pass in another thread."""
        return threading.get_ident() != self.thread

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if self._elsewhere:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(
        self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self._elsewhere:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        self.taken[path] = tuple(each.node for each in args if isinstance(each, fx.Proxy))
        if self.between is not None and isinstance(m, Gate):
            forward = partial(self.between.run, m, self.inputs[path])
        output = super().call_module(m, forward, args, kwargs)
        if isinstance(output, fx.Proxy):
            self.outputs[path] = output.node
        return output


def traced(module: nn.Module, between: Between | None = None) -> fx.GraphModule:
    """The module's graph, traced while other threads may call modules."""
    with TRACING:
        graph = Tracer(between).trace(module)
    return fx.GraphModule(module, graph)


@dataclass(frozen=True)
class Place:
    """Where a gate stands, what kind it is, and what of it can be told apart."""

    block: str
    kind: Kind
    paths: tuple[str, ...] = ()  # as in `Gate.paths`
    shape: tuple[int, ...] = ()  # of its map for one photo, (C, h, w); empty: not known yet
    path: str = ""  # of its module in the network

    @property
    def owner(self) -> str:
        """The path of the module that it belongs to, and which applies it."""
        return self.path.rpartition(".")[0]


@dataclass(frozen=True)
class Cut:
    """A network as trunk and head, which share its parameters and its mode."""

    layer: str
    trunk: nn.Module  # images (N, 3, H, W) -> (activation (N, C, h, w), *maps, *passed)
    head: Callable[[Tensor], tuple[Any, ...]]  # activation -> (outputs, *maps)
    trunk_gates: tuple[str, ...]
    head_gates: tuple[str, ...]
    pooled_linear: nn.Linear | None  # set if the head is just average pooling and this layer
    passed: tuple["Cut", ...] = ()  # cuts at earlier layers, whose activations come out as well
    places: Mapping[str, Place] = field(default_factory=dict)  # where each gate stands

    @property
    def cuts(self) -> tuple["Cut", ...]:
        """A cut for each layer that was asked for, in the network's order; this one is the last."""
        return (*self.passed, self)

    def run_trunk(self, images: Tensor) -> tuple[Tensor, Maps]:
        """Images (N, 3, H, W) -> activation (N, C, h, w), gate maps up to it. No gradient.

        The maps also hold the activations of passed layers, under the layers' names.
        """
        with torch.inference_mode():
            activation, *maps = self.trunk(images)
        names = (*self.trunk_gates, *(cut.layer for cut in self.passed))
        return activation, dict(zip(names, maps, strict=True))

    def places_for(self, images: Tensor) -> dict[str, Place]:
        """Its places with the shapes of their maps for images of this size (1, 3, H, W)."""
        if not self.places:
            return {}
        activation, maps = self.run_trunk(images)
        with torch.inference_mode():
            shapes = {**maps, **self.run_head(activation)[1]}
        return {
            name: replace(place, shape=tuple(shapes[name].shape[1:]))
            for name, place in self.places.items()
        }

    def run_head(self, activation: Tensor) -> tuple[Any, Maps]:
        """Activation (N, C, h, w) -> outputs and the maps of the gates behind the cut.

        A classifier's outputs are logits (N, classes). Differentiable in the activation if that
        requires a gradient.
        """
        outputs, *maps = self.head(activation)
        return outputs, dict(zip(self.head_gates, maps, strict=True))


def cut_at(network: nn.Module, layer: str | Sequence[str], between: Between | None = None) -> Cut:
    """Cut `network` behind the module named `layer`. The network itself is left as it is.

    Of several layers, it cuts behind the one that is last in the network; the others are `passed`.
    With `between`, the trunk takes the values of each of its gates after the images, and the head
    those of each of its own after the activation; `intervene.py` fills them in.
    Raises UnknownName if there is no such module, CannotCut if a path leads around its output.
    """
    tracer = Tracer(between)
    with TRACING:
        graph = tracer.trace(network)
    layers = [layer] if isinstance(layer, str) else list(dict.fromkeys(layer))
    for name in layers:
        if name not in tracer.outputs:
            raise UnknownName.of("layer", name, filter(None, tracer.outputs))
    order = {node: position for position, node in enumerate(graph.nodes)}
    *earlier, last = sorted(layers, key=lambda name: order[tracer.outputs[name]])
    passed = [_cut(network, graph, tracer.outputs, name) for name in earlier]
    return _cut(network, graph, tracer.outputs, last, passed)


def _cut(
    network: nn.Module,
    graph: fx.Graph,
    outputs: Mapping[str, fx.Node],
    layer: str,
    passed: Sequence[Cut] = (),
) -> Cut:
    """Cut the traced network in two behind the output of `layer`. Raises CannotCut."""
    cut = outputs[layer]
    paths = gate_paths(network, outputs)
    gates = {name: outputs[path] for name, path in paths.items()}
    places: dict[str, Place] = {}
    for name, path in paths.items():
        module = network.get_submodule(path)
        assert isinstance(module, Gate)
        places[name] = Place(_block_of(path, network), module.kind, module.paths, path=path)
    before = ancestors(cut)
    trunk_gates = {name: node for name, node in gates.items() if node in before}
    head_gates = {name: node for name, node in gates.items() if node not in before}
    further = [outputs[each.layer] for each in passed]
    trunk = subgraph(network, graph, None, [cut, *trunk_gates.values(), *further])
    logits = next(node for node in graph.nodes if node.op == "output").args[0]
    head = subgraph(network, graph, cut, [logits, *head_gates.values()])
    if head is None or trunk is None:
        raise CannotCut(
            f"Cannot cut behind layer '{layer}': a path from the image leads around it. "
            "Choose the output of a whole block."
        )
    return Cut(
        layer,
        trunk,
        head,
        tuple(trunk_gates),
        tuple(head_gates),
        _pooled_linear(head),
        tuple(passed),
        places,
    )


def gate_paths(network: nn.Module, outputs: Mapping[str, fx.Node]) -> dict[str, str]:
    """Where each gate that the traced network calls stands, by its name ("layer1.0.channel")."""
    paths: dict[str, str] = {}
    for path, module in network.named_modules():
        if isinstance(module, Gate) and path in outputs:
            name = f"{_block_of(path, network)}.{module.kind.name}"
            paths[path if name in paths else name] = path  # a second one of its kind in one block
    return paths


def _block_of(path: str, network: nn.Module) -> str:
    """The block that holds a gate; if the network names no blocks, the module around the gate."""
    holders = [block for block in blocks(network) if path.startswith(f"{block}.")]
    return holders[-1] if holders else path.rpartition(".")[0]


def ancestors(node: fx.Node) -> set[fx.Node]:
    """The node and all nodes from which it is computed."""
    found: set[fx.Node] = set()
    open_nodes = [node]
    while open_nodes:
        current = open_nodes.pop()
        if current not in found:
            found.add(current)
            open_nodes.extend(current.all_input_nodes)
    return found


def subgraph(
    network: nn.Module, graph: fx.Graph, start: fx.Node | None, outputs: list[fx.Node]
) -> nn.Module | None:
    """The part of the graph that computes `outputs` from the image or, if given, from `start`.

    None if it would still need the image although it should start at `start`.
    """
    wanted: set[fx.Node] = set()
    open_nodes = list(outputs)
    while open_nodes:
        node = open_nodes.pop()
        if node in wanted:
            continue
        wanted.add(node)
        if node is not start:
            open_nodes.extend(node.all_input_nodes)
    part = fx.Graph()
    copies = {} if start is None else {start: part.placeholder("activation")}  # its first input
    images = next(node for node in graph.nodes if node.op == "placeholder")
    for node in graph.nodes:
        if node in wanted and node is not start and node.op != "output":
            if start is not None and node is images:
                return None
            copies[node] = part.node_copy(node, lambda old: copies[old])
    part.output(tuple(copies[node] for node in outputs))
    return fx.GraphModule(network, part)


def _pooled_linear(head: nn.Module) -> nn.Linear | None:
    """The head's linear layer, if the head does only this: pool to 1 x 1, flatten, linear."""
    assert isinstance(head, fx.GraphModule)
    steps = [node for node in head.graph.nodes if node.op not in ("placeholder", "output")]
    if len(steps) != 3 or steps[0].op != "call_module" or steps[2].op != "call_module":
        return None
    pool = head.get_submodule(str(steps[0].target))
    linear = head.get_submodule(str(steps[2].target))
    if (
        isinstance(pool, nn.AdaptiveAvgPool2d)
        and pool.output_size in (1, (1, 1))
        and steps[1].target is torch.flatten
        and isinstance(linear, nn.Linear)
    ):
        return linear
    return None
