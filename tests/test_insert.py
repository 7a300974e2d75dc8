"""Attention into networks that have none: which blocks are found, and how the gates begin."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.testing import assert_close

import cbam
from cbam.attention import CBAM, SE, ChannelGate, NoAttention, SpatialGate
from cbam.attention.start import gates_in, liven, still
from cbam.backbones import blocks
from cbam.errors import CannotInsert, OptionClash, UnknownName
from cbam.trace.cut import cut_at
from cbam.trace.insert import Scale, insert, residual_blocks

MakeNetwork = Callable[..., nn.Module]
LAYERS = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]  # ResNet-18
SMALL: dict[str, Callable[[], nn.Module]] = {
    "torchvision resnet18": lambda: torchvision.models.resnet18(width_per_group=64, num_classes=5),
    "torchvision resnext": lambda: torchvision.models.ResNet(
        torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], 5, groups=4, width_per_group=8
    ),
    "torchvision wide": lambda: torchvision.models.ResNet(
        torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], 5, width_per_group=96
    ),
    "torchvision regnet": lambda: torchvision.models.regnet_x_400mf(num_classes=5),
    "torchvision mobilenet": lambda: torchvision.models.mobilenet_v2(num_classes=5, width_mult=0.5),
    "timm resnet": lambda: timm.create_model("resnet10t", num_classes=5),
    "timm resnetv2": lambda: timm.models.resnetv2.ResNetV2(
        [1, 1, 1, 1], (16, 32, 64, 128), 5, norm_layer=timm.layers.BatchNormAct2d
    ),
    "timm standardised": lambda: timm.models.resnetv2.ResNetV2(
        [1, 1, 1, 1], (128, 128, 256, 256), 5, conv_layer=timm.layers.StdConv2d
    ),
    "timm group norm": lambda: timm.models.ResNet(
        timm.models.resnet.BasicBlock, (1, 1, 1, 1), 5, norm_layer=timm.layers.GroupNorm
    ),
    "ours": lambda: cbam.build("resnet50", num_classes=5, width=8),
}  # fmt: skip
FOUND = {  # how many, and the last one's name; counted in the networks' definitions
    "torchvision resnet18": (8, "layer4.1"),
    "torchvision resnext": (4, "layer4.0"),
    "torchvision wide": (4, "layer4.0"),
    "torchvision regnet": (22, "trunk_output.block4.block4-11"),
    "torchvision mobilenet": (10, "features.16"),  # the strided ones and the last add nothing
    "timm resnet": (4, "layer4.0"),
    "timm resnetv2": (4, "stages.3.blocks.0"),
    "timm standardised": (4, "stages.3.blocks.0"),
    "timm group norm": (4, "layer4.0"),
    "ours": (16, "layer4.2"),
}


def images(count: int = 2, size: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def as_if_trained(network: nn.Module) -> nn.Module:
    """In eval mode, with norms that do something: fresh ones may multiply a branch by zero."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    return network.eval()


@pytest.fixture(scope="module")
def small() -> Callable[[str], nn.Module]:
    made: dict[str, nn.Module] = {}

    def make(name: str) -> nn.Module:
        if name not in made:
            made[name] = as_if_trained(SMALL[name]())
        return copy.deepcopy(made[name])

    return make


@pytest.mark.parametrize("name", SMALL)
def test_the_blocks_are_found_and_the_function_is_kept(name: str, small: Any):
    plain = small(name)
    attended = insert(plain)
    count, last = FOUND[name]
    assert (len(blocks(attended)), blocks(attended)[-1]) == (count, last)
    assert sum(isinstance(module, CBAM) for module in attended.modules()) == count
    with torch.no_grad():
        expected, found = plain(images()), attended(images())
    assert expected.std() > 0  # a network that says nothing would keep its function, too
    assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", SMALL)
def test_the_gates_stand_at_the_end_of_the_residual_branch(name: str, small: Any):
    """Fully open, they multiply the branch by 4, as if all its last layers were 4 times larger."""
    attended = insert(small(name))
    for module in attended.modules():
        if isinstance(module, CBAM):  # sigmoid(20) is 1 up to rounding
            nn.init.constant_(module.channel.mlp[2].bias, 10.0)
            nn.init.constant_(module.spatial.bn.bias, 20.0)
    plain = small(name)
    for block in residual_blocks(plain):
        layer = plain.get_submodule(block.layer)
        plain.set_submodule(block.layer, nn.Sequential(layer, Scale(block.channels, 4.0)))
    with torch.no_grad():
        expected, found = plain(images()), attended(images())
    assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_every_gate_is_found_by_a_cut_and_its_map_is_an_output(small: Any):
    cut = cut_at(insert(small("torchvision resnet18")), "layer4.1")
    assert list(cut.places) == [f"{b}.{kind}" for b in LAYERS for kind in ("channel", "spatial")]
    _, maps = cut.run_trunk(images())
    assert maps["layer1.0.channel"].shape == (2, 64, 1, 1)
    assert maps["layer1.0.spatial"].shape == (2, 1, 8, 8)
    assert all(torch.equal(each, torch.full_like(each, 0.5)) for each in maps.values())


def test_the_given_network_stays_as_it_is(small: Any):
    plain = small("torchvision resnet18").train()
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    names = [name for name, _ in plain.named_modules()]
    attended = insert(plain, start="lively", photos=images(8))
    assert attended.training
    assert [name for name, _ in plain.named_modules()] == names
    assert all(torch.equal(before[key], value) for key, value in plain.state_dict().items())
    assert plain.training
    assert not blocks(plain)


def test_in_this_projects_networks_the_gates_take_their_own_place(make_network: MakeNetwork):
    attended = insert(make_network("none"))
    built = make_network("cbam")
    assert attended.state_dict().keys() == built.state_dict().keys()
    built.load_state_dict(attended.state_dict())
    with torch.no_grad():
        assert torch.equal(built(images()), attended(images()))


def test_a_state_dict_goes_from_one_inserted_network_to_another(small: Any):
    one = insert(small("timm resnet"), start="lively", photos=images(8))
    other = insert(timm.create_model("resnet10t", num_classes=5)).eval()
    other.load_state_dict(one.state_dict())
    with torch.no_grad():
        assert torch.equal(one(images()), other(images()))


def test_the_dilation_of_a_stage_is_that_of_its_gates():
    """As in `cbam.build`, and found by the convolutions in torchvision's networks."""
    dilated = {"replace_stride_with_dilation": [False, True, True], "num_classes": 5}
    built = cbam.build("resnet50", attention="cbam", width=8, **dilated)
    ours = insert(cbam.build("resnet50", width=8, **dilated))
    theirs = insert(torchvision.models.resnet50(weights=None, **dilated))
    expected, *found = (
        [module.conv.dilation for module in network.modules() if isinstance(module, SpatialGate)]
        for network in (built, ours, theirs)
    )
    assert expected == [(1, 1)] * 7 + [(2, 2)] * 6 + [(4, 4)] * 3
    assert found == [expected, expected]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("blocks", LAYERS),
        ("layer4", ["layer4.0", "layer4.1"]),
        (["layer1.1", "layer3"], ["layer1.1", "layer3.0", "layer3.1"]),
    ],
)
def test_attention_goes_where_it_is_asked_for(make_network: MakeNetwork, where: Any, expected: Any):
    attended = insert(make_network("none"), where=where)
    assert list(dict.fromkeys(p.block for p in cut_at(attended, "layer4.1").places.values())) == (
        expected
    )
    assert blocks(attended) == LAYERS


def test_options_reach_the_attention(make_network: MakeNetwork):
    attended = insert(make_network("none"), "cbam", where="layer4", reduction=4, kernel=3)
    module = attended.get_submodule("layer4.1.attention")
    assert module.channel.mlp[0].out_features == 16  # 64 / 4
    assert module.spatial.conv.kernel_size == (3, 3)


def test_inserting_no_attention_gives_a_copy_that_knows_its_blocks(small: Any):
    plain = small("torchvision resnet18")
    found = insert(plain, "none")
    assert blocks(found) == LAYERS
    assert found.state_dict().keys() == plain.state_dict().keys()


def test_a_lively_start_varies_by_the_spread_around_the_half(small: Any):
    photos = images(64, seed=1)
    torch.manual_seed(0)
    attended = insert(small("torchvision resnet18"), start="lively", photos=photos, spread=0.4)
    _, maps = cut_at(attended, "layer4.1").run_trunk(photos)
    for name, value in maps.items():
        logits = torch.logit(value)
        assert abs(float(logits.mean())) < 0.05, name
        if name.endswith("channel"):  # of every channel, over the photos
            spread = logits.std(dim=0)
            assert_close(spread, torch.full_like(spread, 0.4), rtol=0.02, atol=0.02)
        else:
            assert float(logits.std()) == pytest.approx(0.4, rel=0.05), name


def test_the_less_lively_the_start_the_better_the_function_is_kept(small: Any):
    plain, photos = small("torchvision resnet18"), images(32, seed=1)
    with torch.no_grad():
        expected = plain(photos)
        found = [
            insert(plain, start="lively", photos=photos, spread=spread)(photos)
            for spread in (0.01, 0.1, 1.0)
        ]
    small_one, usual, large = (float((each - expected).norm()) for each in found)
    assert small_one < usual < large
    assert small_one < 0.1 * float((expected - expected.mean(0)).norm())


def test_hidden_units_of_a_lively_channel_gate_are_on_for_some_photos_and_off_for_others():
    gate, features = ChannelGate(32, reduction=4), images(50, 6).repeat(1, 11, 1, 1)[:, :32]
    features = features + torch.randn(50, 32, 1, 1) + 100  # far from zero, as pooled features are
    liven(gate, features, 0.3)
    on = (gate.mlp[0](features.mean((2, 3))) > 0).float().mean(0)
    assert 0.1 < on.min() <= on.max() < 0.9


def test_features_that_do_not_vary_leave_a_gate_finite():
    gate = ChannelGate(8, reduction=2)
    liven(gate, torch.ones(5, 8, 4, 4), 0.3)
    assert all(torch.isfinite(parameter).all() for parameter in gate.parameters())


@pytest.mark.parametrize(
    ("module", "factor"),
    [
        (CBAM(32), 0.25),
        (CBAM(32, order="parallel"), 0.25),
        (CBAM(32, squeeze="conv"), 0.25),
        (CBAM(32, gates="spatial"), 0.5),
        (SE(32), 0.5),
        (NoAttention(), 1.0),
    ],
    ids=["cbam", "parallel", "conv", "spatial", "se", "none"],
)
def test_still_attention_is_a_factor(module: nn.Module, factor: float):
    assert still(module, 32) == factor
    x = torch.randn(3, 32, 7, 7)
    assert_close(module.eval()(x), factor * x)


class Unsteady(nn.Module):
    """Attention that no zero makes constant."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x.mean(dim=(2, 3), keepdim=True))


def test_attention_that_cannot_be_still_is_refused():
    with pytest.raises(CannotInsert, match="Unsteady cannot begin still"):
        still(Unsteady(), 8)


def flat_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class ByValue(nn.Module):
    """A network whose path depends on the photo."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (flat_network, "Sequential has no residual block"),
        (ByValue, "ByValue cannot be traced"),
        (
            lambda: cbam.build("resnet18", attention="se", width=8),
            "blocks of this ResNet have gates already",
        ),
    ],
)
def test_networks_without_a_place_are_refused_with_the_reason(network: Any, reason: str):
    with pytest.raises(CannotInsert, match=reason):
        insert(network())


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"attention": "magic"}, UnknownName, "No attention 'magic'"),
        ({"start": "wild"}, UnknownName, "exact, lively"),
        ({"where": "layer7"}, UnknownName, "No block or stage 'layer7'.*layer4.1"),
        ({"start": "lively"}, OptionClash, "photos="),
        ({"start": "lively", "photos": torch.zeros(1, 3, 32, 32)}, OptionClash, "photos="),
    ],
)
def test_options_that_do_not_work_are_refused_with_what_would(
    make_network: MakeNetwork, options: dict[str, Any], error: type[Exception], reason: str
):
    with pytest.raises(error, match=reason):
        insert(make_network("none"), **options)


class WithDropout(nn.Module):
    """A block of one's own: two convolutions, a dropout before the add, the add out of place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.dropout = nn.Dropout(0.5)
        self.shortcut = nn.Conv2d(3, 6, 1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.second(torch.relu(self.first(x)))
        return torch.add(self.shortcut(x), self.dropout(self.norm(inner)))


def test_a_block_of_ones_own_is_found_behind_its_dropout():
    network = nn.Sequential(WithDropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    (found,) = residual_blocks(network)
    assert (found.name, found.layer, found.channels) == ("0", "0.norm", 6)


def test_gates_that_were_inserted_learn(small: Any):
    attended = insert(small("torchvision resnet18"), start="lively", photos=images(16)).train()
    attended(images(4)).square().sum().backward()
    for gate in gates_in(attended):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in gate.parameters())
