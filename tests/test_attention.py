"""CBAM and SE: their formulas, and timm's implementations as oracles."""

import pytest
import torch
from building import lively
from torch import Tensor
from torch.testing import assert_close

from cbam.attention import ATTENTION, CBAM, SE, ChannelGate, Gate, SpatialGate
from cbam.errors import UnknownName


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 32, 9, 11)


def cbam_with(**options: object) -> CBAM:
    torch.manual_seed(0)
    return lively(CBAM(32, **options))  # type: ignore[return-value,arg-type]


def test_channel_first_asks_the_spatial_gate_about_what_the_channel_gate_left(x: Tensor):
    module = cbam_with()
    after_channel = x * module.channel(x)
    assert_close(module(x), after_channel * module.spatial(after_channel))


def test_spatial_first_asks_the_channel_gate_about_what_the_spatial_gate_left(x: Tensor):
    module = cbam_with(order="spatial-first")
    after_spatial = x * module.spatial(x)
    assert_close(module(x), after_spatial * module.channel(after_spatial))


def test_parallel_asks_both_gates_about_the_same_input(x: Tensor):
    module = cbam_with(order="parallel")
    assert_close(module(x), x * module.channel(x) * module.spatial(x))


def test_the_three_orders_give_three_results(x: Tensor):
    results = [cbam_with(order=o)(x) for o in ("channel-first", "spatial-first", "parallel")]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (results[one] - results[other]).abs().max() > 1e-3


@pytest.mark.parametrize("order", ["channel-first", "spatial-first", "parallel"])
def test_one_gate_alone_is_its_product_and_the_other_is_not_there(x: Tensor, order: str):
    channel = cbam_with(gates="channel", order=order)
    assert channel.spatial is None
    assert_close(channel(x), x * channel.channel(x))
    spatial = cbam_with(gates="spatial", order=order)
    assert spatial.channel is None
    assert_close(spatial(x), x * spatial.spatial(x))


def test_options_reach_the_gates():
    module = CBAM(32, reduction=4, pool="max", squeeze="conv", kernel=3)
    assert module.channel.mlp[0].out_features == 8
    assert module.channel.pool == "max"
    assert module.spatial.squeeze.in_channels == 32
    assert module.spatial.conv.kernel_size == (3, 3)


@pytest.mark.parametrize("option", ["order", "gates", "pool", "squeeze"])
def test_an_unknown_option_is_refused(option: str):
    with pytest.raises(UnknownName, match="'sideways'"):
        CBAM(32, **{option: "sideways"})


def test_cbam_equals_timms_with_mapped_weights(x: Tensor):
    from timm.layers.cbam import CbamModule

    ours = cbam_with()
    theirs = CbamModule(32, rd_ratio=1 / 16, mlp_bias=True).eval()
    first, _, second = ours.channel.mlp
    conv, norm = theirs.spatial.conv.conv, theirs.spatial.conv.bn
    with torch.no_grad():
        for conv_1x1, linear in ((theirs.channel.fc1, first), (theirs.channel.fc2, second)):
            conv_1x1.weight.copy_(linear.weight[:, :, None, None])
            conv_1x1.bias.copy_(linear.bias)
        conv.weight.copy_(ours.spatial.conv.weight[:, [1, 0]])  # timm stacks [mean, max]
        norm.load_state_dict(ours.spatial.bn.state_dict())
        assert_close(ours(x), theirs(x), atol=1e-6, rtol=0)
        conv.weight.copy_(ours.spatial.conv.weight)
        assert (ours(x) - theirs(x)).abs().max() > 1e-3  # so the order matters here


def test_se_equals_timms_with_mapped_weights(x: Tensor):
    from timm.layers import SEModule

    torch.manual_seed(0)
    ours, theirs = SE(32), SEModule(32, rd_ratio=1 / 16, rd_divisor=1)
    first, _, second = ours.channel.mlp
    with torch.no_grad():
        for conv_1x1, linear in ((theirs.fc1, first), (theirs.fc2, second)):
            conv_1x1.weight.copy_(linear.weight[:, :, None, None])
            conv_1x1.bias.copy_(linear.bias)
        assert_close(ours(x), theirs(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ATTENTION)
def test_every_attention_keeps_the_shape_and_its_input(name: str, x: Tensor):
    before = x.clone()
    module = lively(ATTENTION[name].make(32))
    assert module(x).shape == x.shape
    assert torch.equal(x, before)


def test_no_attention_is_the_identity(x: Tensor):
    assert ATTENTION["none"].make(32)(x) is x


@pytest.mark.parametrize("name", ATTENTION)
def test_every_record_names_the_gates_that_its_module_has(name: str):
    module = ATTENTION[name].make(32)
    gates = [part for part in module.modules() if isinstance(part, Gate)]
    assert tuple(gate.kind for gate in gates) == ATTENTION[name].gates


def test_the_kinds_of_gates_say_along_what_they_vary(x: Tensor):
    assert [(kind.name, kind.axes) for kind in ATTENTION["cbam"].gates] == [
        ("channel", "C"),
        ("spatial", "HW"),
    ]
    assert ChannelGate(32)(x).shape == (len(x), 32, 1, 1)
    assert SpatialGate()(x).shape == (len(x), 1, *x.shape[2:])
