"""Attention for a network that has none: into its residual blocks, before the add.

The blocks are found by what they compute. The network is traced once (torch.fx); where two branches
are added and one of them passes more convolutions than the other, that one is the residual branch,
and the gates stand at its end, behind its last norm: Woo et al. 2018, fig. 3. So it works on the
ResNets of torchvision, of timm and of this project, whatever their modules are called.
"""

import copy
import operator
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx, nn

from cbam.attention import ATTENTION, PLAIN, Gate, NoAttention
from cbam.attention.start import SPREAD, gates_in, liven, still
from cbam.backbones import blocks as known_blocks
from cbam.errors import CannotInsert, OptionClash, UnknownName
from cbam.trace.cut import TRACING, Tracer, ancestors

Start = Literal["exact", "lively"]
ADDS = (operator.add, operator.iadd, torch.add)
NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d)
LINEAR_IN_WEIGHT = (nn.BatchNorm2d, nn.GroupNorm, nn.Conv2d)  # these, not what inherits from them


@dataclass(frozen=True)
class Block:
    """A residual block: two branches that are added."""

    name: str  # the module that adds them, such as `layer1.0`; "" is the network itself
    layer: str  # the last norm or convolution of the residual branch
    channels: int
    dilation: int  # how much denser than by strides alone its output is sampled
    place: str  # a NoAttention behind the layer; empty: there is none


class _Tracer(Tracer):
    """A tracer that looks into no norm and no convolution, whoever wrote it, and into no gate."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (*NORMS, nn.Conv2d, Gate)) or super().is_leaf_module(
            m, module_qualified_name
        )


def insert(
    network: nn.Module,
    attention: str = "cbam",
    where: str | Sequence[str] = "blocks",
    start: Start = "exact",
    photos: Tensor | None = None,
    spread: float = SPREAD,
    **options: Any,
) -> nn.Module:
    """A copy of `network` with attention in its residual blocks, which `block_names` lists.

    The given network stays as it is. `attention` is a name in ATTENTION, `options` are its own,
    such as `reduction=`. `where` is "blocks", all of them, or names of blocks or of stages that
    hold some. The copy is an ordinary module: it can be trained, cut, explained, saved; gates that
    are inserted in the same way take its state dict. In this project's networks the gates take the
    place that `cbam.build` gives them; elsewhere, the layer before them becomes a sequence of
    itself and the gates (`bn2.layer`, `bn2.attention`).

    `start` says how the gates begin. "exact": still, and the layer before them makes up for their
    factor, so that the network computes what it did, up to rounding. "lively": they vary by
    `spread` (in logits) over `photos` (N, 3, H, W), some hundred as the network takes them, so that
    the function is nearly kept and the gates have something to learn from.

    Raises UnknownName for a name in no table, CannotInsert if the network has no such blocks, has
    gates there already or cannot be traced, or if the attention has no such start; OptionClash for
    "lively" without photos.
    """
    if attention not in ATTENTION:
        raise UnknownName.of("attention", attention, ATTENTION)
    if start not in get_args(Start):
        raise UnknownName.of("start of the gates", start, get_args(Start))
    if start == "lively" and attention != PLAIN and (photos is None or len(photos) < 2):
        raise OptionClash(
            "start='lively' takes the gates' first weights from photos: give photos=, a tensor "
            "(N, 3, H, W) of some hundred as the network takes them, or start='exact'."
        )
    found = residual_blocks(network)
    chosen = _chosen(found, where)
    changed = copy.deepcopy(network)
    vars(changed)["block_names"] = known_blocks(network) or [each.name for each in found]
    for block in chosen if attention != PLAIN else ():
        _put(changed, block, attention, options)
    if start == "lively" and photos is not None:
        _Livener(changed, spread).run(photos)
    return changed


def residual_blocks(network: nn.Module) -> tuple[Block, ...]:
    """The network's residual blocks, the first one first.

    A block is named after the module that adds its branches. Raises CannotInsert if there are none
    or if the network cannot be traced.
    """
    tracer = _Tracer()
    try:
        with TRACING:
            graph = tracer.trace(network)
    except Exception as error:  # torch.fx raises many kinds for code that it cannot follow
        raise CannotInsert(
            f"{type(network).__name__} cannot be traced by torch.fx: {error} Its forward must not "
            "decide anything by the values or sizes of tensors."
        ) from error
    places = {
        tracer.outputs[path]: path
        for path, module in network.named_modules()
        if isinstance(module, NoAttention) and path in tracer.outputs
    }
    calls = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    blocks: dict[str, Block] = {}
    for add in graph.nodes:
        branch = _residual_branch(network, add)
        layer = _last_layer(network, branch[0]) if branch else None
        if layer is None or calls.count(str(layer.target)) > 1:
            continue
        block = _block(network, add, layer, branch, places.get(layer, ""))
        blocks.setdefault(block.name, block)
    if not blocks and any(gates_in(network)):
        raise CannotInsert(
            f"All blocks of this {type(network).__name__} have gates already. Insert into the "
            "plain network."
        )
    if not blocks:
        raise CannotInsert(
            f"{type(network).__name__} has no residual block: nowhere is a branch that ends in a "
            "norm or a convolution added to a shorter one. ResNets and their kin have such blocks; "
            "into others, write the attention yourself: ATTENTION['cbam'].make(channels)."
        )
    return _as_dense_as_the_next(list(blocks.values()))


def _residual_branch(network: nn.Module, add: fx.Node) -> list[fx.Node]:
    """The nodes of the longer branch of a sum, the last one first; empty: this is no such sum."""
    summed = add.op == "call_function" and add.target in ADDS
    summed = summed or (add.op == "call_method" and add.target in ("add", "add_"))
    terms = [each for each in add.args if isinstance(each, fx.Node)]
    if not summed or len(terms) != 2 or len(add.args) != 2 or add.kwargs:
        return []
    order = {node: position for position, node in enumerate(add.graph.nodes)}
    reached = [ancestors(term) for term in terms]
    own = [reached[0] - reached[1], reached[1] - reached[0]]
    convolutions = [
        sum(isinstance(_module_of(network, node), nn.Conv2d) for node in nodes) for nodes in own
    ]
    if convolutions[0] == convolutions[1]:
        return []
    longer = convolutions.index(max(convolutions))
    return sorted(own[longer], key=order.__getitem__, reverse=True)


def _last_layer(network: nn.Module, node: fx.Node) -> fx.Node | None:
    """The norm or convolution whose output, perhaps through a dropout, is this node.

    None if anything else computes it, or if somebody else reads the layer's output.
    """
    while len(node.users) == 1:
        module = _module_of(network, node)
        if isinstance(module, (*NORMS, nn.Conv2d)):
            return node
        if module is None or len(node.all_input_nodes) != 1 or not _hands_on(module):
            return None
        (node,) = node.all_input_nodes
    return None


def _hands_on(module: nn.Module) -> bool:
    """Whether a module without weights hands on what it gets when it is not in training."""
    probe = torch.linspace(-1, 1, 16).view(1, 4, 2, 2)
    return not list(module.parameters()) and torch.equal(copy.copy(module).eval()(probe), probe)


def _block(
    network: nn.Module, add: fx.Node, layer: fx.Node, branch: Sequence[fx.Node], place: str
) -> Block:
    modules = [_module_of(network, node) for node in branch]
    last = network.get_submodule(str(layer.target))
    marker = network.get_submodule(place) if place else None
    holders = list(add.meta.get("nn_module_stack", {}).values())
    return Block(
        name=str(holders[-1][0]) if holders else "",
        layer=str(layer.target),
        channels=_channels(last),
        dilation=marker.dilation
        if isinstance(marker, NoAttention)
        else max(max(each.dilation) for each in modules if isinstance(each, nn.Conv2d)),
        place=place,
    )


def _channels(layer: nn.Module) -> int:
    for name in ("out_channels", "num_features", "num_channels"):
        if isinstance(channels := getattr(layer, name, None), int):
            return channels
    raise CannotInsert(f"{type(layer).__name__} does not say how many channels it has.")


def _as_dense_as_the_next(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """A dilated stage's first block has windows of the stage before, but its output is denser.

    So its gates take the dilation of the next block of the same stage.
    """
    found: list[Block] = []
    for block, following in zip(blocks, [*blocks[1:], blocks[-1]], strict=True):
        same_stage = block.channels == following.channels and not block.place
        dilation = max(block.dilation, following.dilation) if same_stage else block.dilation
        found.append(Block(**{**vars(block), "dilation": dilation}))
    return tuple(found)


def _chosen(found: Sequence[Block], where: str | Sequence[str]) -> list[Block]:
    if where == "blocks":
        return list(found)
    names = [where] if isinstance(where, str) else list(where)
    for name in names:
        if not any(_inside(block.name, name) for block in found):
            known = ["blocks", *(block.name for block in found)]
            raise UnknownName.of("block or stage", name, known)
    return [block for block in found if any(_inside(block.name, name) for name in names)]


def _inside(block: str, stage: str) -> bool:
    return block == stage or block.startswith(f"{stage}.")


def _put(network: nn.Module, block: Block, attention: str, options: dict[str, Any]) -> None:
    """Put fresh, still gates behind the block's layer, which makes up for their factor."""
    layer = network.get_submodule(block.layer)
    made = ATTENTION[attention].make(block.channels, **options)
    for gate in gates_in(made):
        gate.dilate(block.dilation)
    factor = still(made, block.channels)
    weight = next(iter(layer.parameters()), next(network.parameters()))
    made = made.to(weight.device, weight.dtype).train(network.training)
    steps: list[tuple[str, nn.Module]] = [("attention", made)]
    if type(layer) in LINEAR_IN_WEIGHT and isinstance(layer.weight, Tensor):
        with torch.no_grad():
            for parameter in (layer.weight, layer.bias):
                if isinstance(parameter, Tensor):
                    parameter.mul_(1 / factor)
    else:
        steps.insert(0, ("scale", Scale(block.channels, 1 / factor).to(weight)))
    if block.place and len(steps) == 1:
        network.set_submodule(block.place, made)
    else:
        network.set_submodule(block.layer, nn.Sequential(OrderedDict([("layer", layer), *steps])))


class Scale(nn.Module):
    """One factor a channel: (N, C, H, W) -> (N, C, H, W).

    For layers whose own weights cannot take it: norms with an activation, standardised weights.
    """

    def __init__(self, channels: int, factor: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels, 1, 1), factor))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class _Livener(fx.Interpreter):
    """Runs a network once and lets every gate on the way begin lively, from what it is given.

    So a gate sees what the gates before it, already lively, let through.
    """

    def __init__(self, network: nn.Module, spread: float) -> None:
        with TRACING:
            graph = _Tracer().trace(network)
        super().__init__(fx.GraphModule(network, graph))
        self.network = network
        self.spread = spread

    def run(self, *photos: Tensor, **_: Any) -> None:
        was_training = self.network.training
        self.network.eval()
        at = next(self.network.parameters())
        try:
            with torch.no_grad():
                super().run(*(each.to(at.device, at.dtype) for each in photos))
        finally:
            self.network.train(was_training)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.fetch_attr(target)
        if isinstance(module, Gate):
            liven(module, args[0], self.spread)
        return super().call_module(target, args, kwargs)


def _module_of(network: nn.Module, node: fx.Node) -> nn.Module | None:
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None
