"""The fused trunk: what is rewritten, and that its outputs are the plain one's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.testing import assert_close

from cbam.attention import ATTENTION
from cbam.backbones import BACKBONES, blocks
from cbam.trace.cut import Cut, cut_at
from cbam.trace.rewrite import fuse

MakeNetwork = Callable[..., nn.Module]
ORDERS = ("channel-first", "spatial-first", "parallel")


def images(n: int = 2, side_px: int = 48) -> Tensor:
    torch.manual_seed(5)
    return torch.randn(n, 3, side_px, side_px).to(memory_format=torch.channels_last)


def trunk_of(network: nn.Module, layer: str | None = None) -> fx.GraphModule:
    trunk = cut_at(network, layer or blocks(network)[-1]).trunk
    assert isinstance(trunk, fx.GraphModule)
    return trunk


def called(trunk: fx.GraphModule) -> list[Any]:
    """Functions and kinds of modules in the order in which they run."""
    return [
        type(trunk.get_submodule(node.target)) if node.op == "call_module" else node.target
        for node in trunk.graph.nodes
        if node.op in ("call_module", "call_function", "call_method")
    ]


def assert_same(fused: nn.Module, plain: nn.Module, x: Tensor) -> None:
    with torch.inference_mode():
        found, expected = fused(x), plain(x)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        # Of the largest value: untrained networks without attention grow to thousands.
        assert (one - other).abs().max() <= 1e-5 * other.abs().max().clamp(min=1)


@pytest.mark.parametrize(
    ("backbone", "attention"),
    [
        *(("resnet18", attention) for attention in ATTENTION),
        *((backbone, "cbam") for backbone in BACKBONES if backbone != "resnet18"),
        ("resnet50", "none"),
        ("resnet50", "se"),
    ],
)
def test_activation_and_maps_are_the_plain_trunks(
    make_network: MakeNetwork, backbone: str, attention: str
):
    plain = trunk_of(make_network(attention, backbone))
    assert_same(fuse(plain), plain, images())


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("gates", ["both", "channel", "spatial"])
def test_every_order_of_the_gates_stays_what_it_is(
    make_network: MakeNetwork, order: str, gates: str
):
    plain = trunk_of(make_network(attention_options={"order": order, "gates": gates}))
    assert_same(fuse(plain), plain, images())


def test_no_norm_and_no_unjoined_sum_is_left(make_network: MakeNetwork):
    plain = called(trunk_of(make_network()))
    fused = called(fuse(trunk_of(make_network())))
    assert nn.BatchNorm2d in plain
    assert nn.BatchNorm2d not in fused
    assert fused.count(torch.addcmul) == 8  # the refined map and the identity of each block
    assert fused.count(torch.relu_) == 17  # the stem's and two a block
    assert len(fused) < len(plain)


def test_where_there_is_no_attention_a_sum_stays_a_sum(make_network: MakeNetwork):
    assert torch.addcmul not in called(fuse(trunk_of(make_network("none"))))


def test_the_network_and_its_trunk_stay_as_they_are(make_network: MakeNetwork):
    network = make_network()
    plain = trunk_of(network)
    x, steps = images(), called(plain)
    with torch.inference_mode():
        before = [output.clone() for output in plain(x)]
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    fuse(plain)(x)
    assert called(plain) == steps
    with torch.inference_mode():
        assert all(torch.equal(a, b) for a, b in zip(plain(x), before, strict=True))
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in weights.items())


def test_the_image_and_earlier_activations_are_not_overwritten(make_network: MakeNetwork):
    network = make_network()
    passing: Cut = cut_at(network, blocks(network))  # every block's activation comes out
    assert isinstance(passing.trunk, fx.GraphModule)
    x = images()
    before = x.clone()
    assert_same(fuse(passing.trunk), passing.trunk, x)
    assert torch.equal(x, before)


def test_a_relu_of_what_others_read_gets_a_buffer_of_its_own():
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            twice = x + x
            return torch.relu(twice), twice, torch.relu(x)

    fused = fuse(fx.symbolic_trace(Twice()))
    x = torch.tensor([-1.0, 2.0])
    rectified, twice, alone = fused(x)
    assert_close(rectified, torch.tensor([0.0, 4.0]))
    assert_close(twice, torch.tensor([-2.0, 4.0]))
    assert_close(alone, torch.tensor([0.0, 2.0]))
    assert_close(x, torch.tensor([-1.0, 2.0]))


def test_a_product_that_others_read_is_kept():
    class Refined(nn.Module):
        def forward(self, x: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
            refined = x * gate
            return refined + x, refined

    fused = fuse(fx.symbolic_trace(Refined()))
    assert torch.addcmul not in called(fused)
    assert_close(
        fused(torch.tensor(3.0), torch.tensor(0.5)), (torch.tensor(4.5), torch.tensor(1.5))
    )


def test_a_product_with_a_number_is_no_gate():
    class Halved(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 0.5 + x

    assert_close(fuse(fx.symbolic_trace(Halved()))(torch.tensor(2.0)), torch.tensor(3.0))


def test_a_square_is_joined_only_if_it_is_right():
    class Squared(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x + x

    assert_close(fuse(fx.symbolic_trace(Squared()))(torch.tensor(3.0)), torch.tensor(12.0))


def test_a_convolution_that_others_read_keeps_its_norm_apart():
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)
            nn.init.constant_(self.bn.bias, 7.0)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.bn(y) - y

    plain = fx.symbolic_trace(Branching().eval())
    x = images(1, 4)
    assert_close(fuse(plain)(x), plain(x))


def test_trunks_of_one_network_share_the_folded_weights(make_network: MakeNetwork):
    network = make_network()
    folded: dict[Any, nn.Module] = {}
    short, whole = (fuse(trunk_of(network, layer), folded) for layer in ("layer2.0", "layer4.1"))
    assert short.get_submodule("layer1.0.conv1") is whole.get_submodule("layer1.0.conv1")
    assert short.get_submodule("layer1.0.conv1") is not network.get_submodule("layer1.0.conv1")
