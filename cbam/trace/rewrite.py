"""Rewrite a traced trunk so that it passes over memory less often; its outputs stay the same.

For inference only. Outputs differ from the plain form's by rounding (about 1e-6 of an activation).
Each pass below looks for one pattern in the graph, whatever the network or its attention.
"""

import operator
from collections.abc import Callable, MutableMapping

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cbam.attention import CBAM
from cbam.trace.cut import Between, traced

# (convolution, norm) -> both in one; kept by the caller, so that several trunks share the weights
Folded = MutableMapping[tuple[nn.Module, nn.Module], nn.Module]
Change = Callable[[fx.GraphModule], None]  # in place


def fuse(trunk: fx.GraphModule, folded: Folded | None = None, *first: Change) -> fx.GraphModule:
    """The same trunk in fewer passes. The given trunk and its modules stay as they are.

    Expects eval mode: a folded norm no longer learns. Changes in `first` come before those that
    every network gets.
    """
    return rewritten(trunk, folded, *first, join_products_with_sums, reuse_buffers)


def rewritten(trunk: fx.GraphModule, folded: Folded | None, *changes: Change) -> fx.GraphModule:
    """A copy of the trunk with its norms folded, then each change applied in turn."""
    copy = fx.GraphModule(trunk, _copy(trunk.graph))
    fold_norms(copy, {} if folded is None else folded)
    for change in changes:
        change(copy)
    copy.graph.lint()
    copy.recompile()
    return copy.eval()


def _copy(graph: fx.Graph) -> fx.Graph:
    copy = fx.Graph()
    output = copy.graph_copy(graph, {})
    copy.output(output)
    return copy


def fold_norms(module: fx.GraphModule, folded: Folded) -> None:
    """`norm(conv(x))` -> a convolution with the norm's scale and shift in its weights."""
    for norm_node in list(module.graph.nodes):
        conv_node = _only_input(norm_node)
        if conv_node is None or len(conv_node.users) != 1:
            continue
        norm, conv = _module_of(module, norm_node), _module_of(module, conv_node)
        if not (isinstance(norm, nn.BatchNorm2d) and isinstance(conv, nn.Conv2d)):
            continue
        if (conv, norm) not in folded:
            both = fuse_conv_bn_eval(conv, norm).requires_grad_(False)
            folded[conv, norm] = both.to(memory_format=torch.channels_last)
        module.add_submodule(str(conv_node.target), folded[conv, norm])
        norm_node.replace_all_uses_with(conv_node)
        module.graph.erase_node(norm_node)


def share_weights(folded: Folded) -> None:
    """Let convolutions have the weights that they got when their norms were folded away.

    One copy in memory in place of two. What the given modules compute together stays the same, in
    training, too: a norm keeps its strength, and its statistics follow the convolution's new scale.
    """
    with torch.no_grad():
        for (conv, norm), both in folded.items():
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(both, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            assert both.bias is not None
            strength = norm.weight.abs().clamp(min=norm.eps**0.5)
            conv.weight = both.weight
            if conv.bias is not None:
                conv.bias.zero_()
            norm.running_mean = norm.bias - both.bias
            norm.running_var = strength.square() - norm.eps
            norm.weight.copy_(strength)


def join_products_with_sums(module: fx.GraphModule) -> None:
    """`x * gate + identity` -> addcmul: one pass, and the product is never stored."""
    for add in list(module.graph.nodes):
        if not _calls(add, operator.add, torch.add) or len(add.args) != 2 or add.kwargs:
            continue
        product, other = add.args
        if not _joinable(product):
            product, other = other, product
        if not _joinable(product):
            continue
        with module.graph.inserting_before(add):
            joined = module.graph.call_function(torch.addcmul, (other, *product.args))
        add.replace_all_uses_with(joined)
        module.graph.erase_node(add)
        module.graph.erase_node(product)


def reuse_buffers(module: fx.GraphModule) -> None:
    """`relu(x)` overwrites x if nothing else reads x: one buffer less to read and to write."""
    for node in list(module.graph.nodes):
        if _calls(node, torch.relu) and _fresh(module, node.args[0]):
            node.target = torch.relu_


def replace_gates(
    module: fx.GraphModule,
    gates: Callable[..., nn.Module],
    overwritten: bool,
    between: Between | None = None,
) -> None:
    """Replace CBAM in its usual form by one call of `gates`, made from its layers.

    It is found by comparison with CBAM's own graph; other forms, such as the ablations, stay as
    they are. `overwritten`: the call destroys its input, so this is done only where the input is a
    convolution's output that nothing else reads. `between`: what the module was traced with; the
    values that it takes for the two gates are further arguments of the call.
    """
    usual = traced(CBAM(16).eval(), between)
    fold_norms(usual, {})
    (like_refined,) = next(node for node in usual.graph.nodes if node.op == "output").args
    like_scaled, like_spatial = like_refined.args
    like_x, like_channel = like_scaled.args
    like_values = [n for n in usual.graph.nodes if n.op == "placeholder" and n is not like_x]
    for refined in list(module.graph.nodes):
        found: dict[fx.Node, fx.Node] = {}
        if not _alike(usual, like_refined, module, refined, found):
            continue
        x = found[like_x]
        values = [found[each] for each in like_values]
        outputs = [found[like] for like in (like_scaled, like_channel, like_spatial)]
        inside = set(found.values())
        kept = {refined, *outputs[1:], *values} | (set() if overwritten else {x})
        lost = inside - kept
        if not all(inside.issuperset(node.users) for node in lost) or (
            overwritten and not isinstance(_module_of(module, x), nn.Conv2d)
        ):
            continue
        layers = {str(like.target): _module_of(module, node) for like, node in found.items()}
        made = gates(*(layers[name] for name in ("channel.mlp.0", "channel.mlp.2", "spatial.conv")))
        name = f"{x.name}_gates"
        module.add_submodule(name, made)
        with module.graph.inserting_after(x):
            call = module.graph.call_module(name, (x, *values))
        with module.graph.inserting_after(call):
            for index, old in enumerate(outputs):
                new = module.graph.call_function(operator.getitem, (call, index))
                old.replace_all_uses_with(new)
    module.graph.eliminate_dead_code()


def _alike(
    pattern: fx.GraphModule,
    like: fx.Node,
    module: fx.GraphModule,
    node: fx.Node,
    found: dict[fx.Node, fx.Node],
) -> bool:
    """Whether `node` is computed as `like` is; `found` maps the pattern's nodes to ours."""
    if like in found or like.op == "placeholder":
        return found.setdefault(like, node) is node
    layer, like_layer = _module_of(module, node), _module_of(pattern, like)
    if like.op != node.op or type(layer) is not type(like_layer) or like.kwargs != node.kwargs:
        return False
    if like_layer is None and like.target != node.target:
        return False
    for other, others in list(found.items()):  # a layer used twice there is used twice here
        if like_layer is not None and (other.target == like.target) != (
            others.target == node.target
        ):
            return False
    found[like] = node
    inputs, like_inputs = node.all_input_nodes, like.all_input_nodes
    return (
        fx.map_arg(node.args, lambda _: None) == fx.map_arg(like.args, lambda _: None)
        and len(inputs) == len(like_inputs)
        and all(
            _alike(pattern, one, module, other, found)
            for one, other in zip(like_inputs, inputs, strict=True)
        )
    )


def _only_input(node: fx.Node) -> fx.Node | None:
    inputs = node.all_input_nodes
    return inputs[0] if node.op == "call_module" and len(inputs) == 1 else None


def _module_of(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return module.get_submodule(str(node.target)) if node.op == "call_module" else None


def _calls(node: object, *functions: Callable[..., Tensor]) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in functions


def _joinable(node: object) -> bool:
    """Whether this is a product of two tensors with only one reader."""
    return (
        isinstance(node, fx.Node)
        and _calls(node, operator.mul, torch.mul)
        and len(node.users) == 1
        and len(node.all_input_nodes) == 2
    )


def _fresh(module: fx.GraphModule, node: object) -> bool:
    """Whether this is a new tensor (a convolution, sum or product; no view) with one reader."""
    if not isinstance(node, fx.Node) or len(node.users) != 1:
        return False
    return isinstance(_module_of(module, node), nn.Conv2d) or _calls(
        node, torch.addcmul, operator.add, operator.mul, torch.add, torch.mul
    )
