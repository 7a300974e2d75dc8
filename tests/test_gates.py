"""The gates against numbers worked out on paper."""

import pytest
import torch
from torch.testing import assert_close

from cbam.attention import ChannelGate, SpatialGate
from cbam.errors import UnknownName

# Two channels of 2 x 2.       mean  max
TWO = torch.tensor(
    [[[[1.0, 2.0], [3.0, 6.0]],  # 3     6
      [[0.0, -4.0], [0.0, 0.0]]]]  # -1    0
)  # fmt: skip


def channel_gate(pool: str = "both", first_bias: float = 0.5) -> ChannelGate:
    """hidden = relu(a + 2 b + first_bias); logits = (hidden + 0.1, -hidden / 2 + 0.2)."""
    gate = ChannelGate(2, reduction=2, pool=pool)
    first, _, second = gate.mlp
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 2.0]]))
        first.bias.fill_(first_bias)
        second.weight.copy_(torch.tensor([[1.0], [-0.5]]))
        second.bias.copy_(torch.tensor([0.1, 0.2]))
    return gate


def spatial_gate(max_taps: dict[tuple[int, int], float], mean_taps: dict[tuple[int, int], float]):
    """A 3x3 gate with these taps (row, column), and a norm that takes 2 off."""
    gate = SpatialGate(kernel=3).eval()
    with torch.no_grad():
        gate.conv.weight.zero_()
        for plane, taps in enumerate((max_taps, mean_taps)):
            for (row, column), value in taps.items():
                gate.conv.weight[0, plane, row, column] = value
        # (x - 1) / sqrt(4) * 2 - 1 = x - 2
        gate.bn.running_mean.fill_(1.0)
        gate.bn.running_var.fill_(4.0 - gate.bn.eps)
        gate.bn.weight.fill_(2.0)
        gate.bn.bias.fill_(-1.0)
    return gate


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        # avg: hidden = 3 - 2 + 0.5 = 1.5; logits (1.6, -0.55)
        ("avg", (1.6, -0.55)),
        # max: hidden = 6 + 0 + 0.5 = 6.5; logits (6.6, -3.05)
        ("max", (6.6, -3.05)),
        # both: the sum of the two, so the second bias counts twice
        ("both", (8.2, -3.6)),
    ],
)
def test_the_channel_gate_equals_the_formula_by_hand(pool: str, expected: tuple[float, float]):
    found = channel_gate(pool)(TWO)
    assert found.shape == (1, 2, 1, 1)
    assert_close(found[0, :, 0, 0], torch.sigmoid(torch.tensor(expected)))


def test_the_channel_gates_hidden_layer_is_cut_off_at_zero_before_the_sum():
    # avg: 3 - 2 - 2 = -1 -> 0: logits (0.1, 0.2); max: 6 - 2 = 4: (4.1, -1.8); sum (4.2, -1.6)
    found = channel_gate("both", first_bias=-2.0)(TWO)
    assert_close(found[0, :, 0, 0], torch.sigmoid(torch.tensor([4.2, -1.6])))


# max over the channels    mean over them
# 3 2                      2 1
# 3 4                      1 4
PLANES = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[3.0, 0.0], [-1.0, 4.0]]]])
CENTRE = (1, 1)


def test_the_spatial_gate_equals_the_formula_by_hand():
    # 1 max + 0.5 mean - 2: 3 + 1 - 2, 2 + .5 - 2, 3 + .5 - 2, 4 + 2 - 2
    found = spatial_gate({CENTRE: 1.0}, {CENTRE: 0.5})(PLANES)
    assert found.shape == (1, 1, 2, 2)
    assert_close(found[0, 0], torch.sigmoid(torch.tensor([[2.0, 0.5], [1.5, 4.0]])))


def test_the_planes_are_stacked_as_max_then_mean():
    # With the weights swapped, 0.5 max + 1 mean - 2: another map.
    found = spatial_gate({CENTRE: 0.5}, {CENTRE: 1.0})(PLANES)
    assert_close(found[0, 0], torch.sigmoid(torch.tensor([[1.5, 0.0], [0.5, 4.0]])))


def test_the_spatial_gate_pads_with_zeros_and_keeps_the_size():
    # The tap right of the centre of the max plane: each cell sees its right neighbour, the
    # last column zero. Minus 2.
    found = spatial_gate({(1, 2): 1.0}, {})(PLANES)
    assert_close(found[0, 0], torch.sigmoid(torch.tensor([[0.0, -2.0], [2.0, -2.0]])))


def test_a_learned_squeeze_replaces_the_pooling():
    gate = SpatialGate(kernel=3, squeeze="conv", channels=2).eval()
    with torch.no_grad():
        gate.squeeze.weight.copy_(torch.tensor([1.0, -1.0]).view(1, 2, 1, 1))
        gate.conv.weight.zero_()
        gate.conv.weight[0, 0, 1, 1] = 1.0
        gate.bn.weight.fill_(1.0)
        gate.bn.running_var.fill_(1.0 - gate.bn.eps)
    # first channel minus second
    expected = torch.tensor([[-2.0, 2.0], [4.0, 0.0]])
    assert_close(gate(PLANES)[0, 0], torch.sigmoid(expected))


@pytest.mark.parametrize("squeeze", ["pool", "conv"])
@pytest.mark.parametrize("training", [True, False])
def test_an_untrained_spatial_gate_is_exactly_one_half(squeeze: str, training: bool):
    torch.manual_seed(0)
    gate = SpatialGate(squeeze=squeeze, channels=4).train(training)
    found = gate(torch.randn(2, 4, 9, 5))
    assert torch.equal(found, torch.full((2, 1, 9, 5), 0.5))


@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize("squeeze", ["pool", "conv"])
def test_a_spatial_map_is_as_large_as_its_input(kernel: int, squeeze: str):
    torch.manual_seed(0)
    gate = SpatialGate(kernel, squeeze, channels=4)
    assert gate(torch.randn(2, 4, 5, 8)).shape == (2, 1, 5, 8)


@pytest.mark.parametrize("pool", ["avg", "max", "both"])
def test_a_channel_map_has_one_value_a_channel_between_0_and_1(pool: str):
    torch.manual_seed(0)
    found = ChannelGate(32, pool=pool)(torch.randn(3, 32, 5, 8))
    assert found.shape == (3, 32, 1, 1)
    assert found.min() > 0
    assert found.max() < 1


@pytest.mark.parametrize(
    ("channels", "reduction", "hidden"), [(64, 16, 4), (2048, 16, 128), (64, 4, 16), (8, 16, 1)]
)
def test_the_hidden_layer_has_channels_by_reduction_units_but_at_least_one(
    channels: int, reduction: int, hidden: int
):
    gate = ChannelGate(channels, reduction)
    assert gate.mlp[0].weight.shape == (hidden, channels)
    assert gate.mlp[2].weight.shape == (channels, hidden)


def test_parameter_counts_are_the_papers():
    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    # 64 -> 4 -> 64 with biases: 64 * 4 + 4 + 4 * 64 + 64
    assert count(ChannelGate(64)) == 580
    # 2 x 7 x 7 without a bias, and the norm's weight and bias
    assert count(SpatialGate()) == 98 + 2
    assert count(SpatialGate(kernel=3)) == 18 + 2
    # 64 -> 1 squeeze, then 1 x 7 x 7
    assert count(SpatialGate(squeeze="conv", channels=64)) == 64 + 49 + 2


@pytest.mark.parametrize("pool", ["lp", "", None])
def test_an_unknown_pooling_is_refused_with_those_that_there_are(pool: object):
    with pytest.raises(UnknownName, match="avg, max, both"):
        ChannelGate(8, pool=pool)  # type: ignore[arg-type]


def test_an_unknown_squeeze_is_refused_with_those_that_there_are():
    with pytest.raises(UnknownName, match="'lse'.*pool, conv"):
        SpatialGate(squeeze="lse")  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", [0, 2, 8])
def test_an_even_kernel_is_refused(kernel: int):
    with pytest.raises(UnknownName, match="3, 7"):
        SpatialGate(kernel=kernel)


def test_a_learned_squeeze_asks_for_the_number_of_channels():
    with pytest.raises(ValueError, match="channels="):
        SpatialGate(squeeze="conv")


def test_a_dilated_spatial_gate_sees_what_it_saw_with_features_twice_as_dense():
    torch.manual_seed(0)
    gate = SpatialGate().eval()
    torch.nn.init.ones_(gate.bn.weight)
    dense = torch.randn(2, 4, 13, 10)
    with torch.no_grad():
        expected = gate(dense[:, :, ::2, ::2])
        gate.dilate(2)
        found = gate(dense)
    assert found.shape == (2, 1, 13, 10)
    assert_close(found[:, :, ::2, ::2], expected)


def test_a_dilated_channel_gate_is_the_same():
    torch.manual_seed(0)
    gate = ChannelGate(8)
    x = torch.randn(2, 8, 5, 5)
    expected = gate(x)
    gate.dilate(2)
    assert torch.equal(gate(x), expected)
