"""Wide ResNets, ResNeXts, MobileNets and VGG-16: as printed, with attention where it belongs."""

from collections.abc import Callable

import pytest
import torch
import torchvision
from building import without_weights
from torch import nn
from torch.testing import assert_close

import cbam
from cbam.attention import ATTENTION
from cbam.backbones import BACKBONES, blocks
from cbam.errors import UnknownName
from cbam.trace.cut import cut_at

MakeNetwork = Callable[..., nn.Module]
OTHERS = [name for name in BACKBONES if name not in ("resnet18", "resnet34", "resnet50")]


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "vgg16", "vgg16_bn"],
)
def test_torchvisions_state_dict_has_our_keys_and_shapes(name: str):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, weights=None).state_dict()
    ours = without_weights(name).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in theirs.items()
    }


def test_resnext_gives_torchvisions_logits():
    torch.manual_seed(0)
    theirs = torchvision.models.resnext50_32x4d(weights=None).eval()
    ours = cbam.build("resnext50_32x4d").eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert_close(ours(images), theirs(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", [False, True])
def test_vgg_computes_what_torchvisions_layers_do(norm: bool):
    """At an eighth of the width: torchvision's own features, our weights."""
    from torchvision.models.vgg import VGG, make_layers

    plan = [8, 8, "M", 16, 16, "M", *[32] * 3, "M", *[64] * 3, "M", *[64] * 3, "M"]
    with torch.device("meta"):  # its classifier is large
        theirs = VGG(make_layers(plan, batch_norm=norm), num_classes=5, init_weights=False).eval()
        theirs.classifier[0] = nn.Linear(64 * 49, 512)
        theirs.classifier[3] = nn.Linear(512, 512)
        theirs.classifier[6] = nn.Linear(512, 5)
    torch.manual_seed(0)
    ours = cbam.build("vgg16", num_classes=5, width=8, norm=norm).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True, assign=True)
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        assert_close(ours(images), theirs(images), atol=1e-5, rtol=1e-5)


def test_a_wide_resnet_widens_its_stages_and_keeps_its_stem():
    for name, planes in (("wide_resnet18_x1.5", 96), ("wide_resnet18_x2.0", 128)):
        network = without_weights(name)
        assert network.conv1.out_channels == 64
        stages = (network.layer1, network.layer2, network.layer3, network.layer4)
        assert [stage[0].conv1.out_channels for stage in stages] == [
            planes * 2**n for n in range(4)
        ]


def test_a_resnexts_middle_convolutions_have_32_groups():
    network = without_weights("resnext101_32x4d")
    convs = [network.get_submodule(block).conv2 for block in blocks(network)]
    assert len(convs) == 33
    assert {conv.groups for conv in convs} == {32}
    assert (convs[0].in_channels, convs[-1].in_channels) == (128, 1024)


@pytest.mark.parametrize(("name", "channels"), [("mobilenet_x1.0", 32), ("mobilenet_x0.7", 22)])
def test_mobilenet_has_27_places_for_attention(name: str, channels: int):
    network = without_weights(name, "cbam")
    places = [module for module in network.modules() if isinstance(module, cbam.attention.CBAM)]
    assert len(places) == len(blocks(network)) == 27
    assert network.features[0].conv.out_channels == channels  # int(0.7 x 32)
    strides = [unit.conv.stride[0] for unit in network.features]
    assert [place for place, stride in enumerate(strides) if stride == 2] == [0, 3, 7, 11, 23]


@pytest.mark.parametrize("attention", ["none", "cbam", "bam"])
@pytest.mark.parametrize("name", OTHERS)
def test_every_backbone_is_cut_behind_any_block_and_shows_its_gates(
    make_network: MakeNetwork, name: str, attention: str
):
    network = make_network(attention, name)
    names = blocks(network)
    images = torch.randn(2, 3, 40, 48)
    cut = cut_at(network, [names[len(names) // 2], names[-1]])
    activation, maps = cut.run_trunk(images)
    with torch.inference_mode():
        logits, _ = cut.run_head(activation)
        expected = network(images)
    assert expected.isfinite().all()
    assert_close(logits, expected)
    kinds = ATTENTION[attention].gates
    wanted = [f"{block}.{kind.name}" for block in names for kind in kinds]
    assert [gate for gate in maps if gate in cut.places] == wanted


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_says_where_its_attention_is_and_has_it_there(name: str):
    assert BACKBONES[name].placement
    network = without_weights(name, "se")
    for block in blocks(network):
        parts = network.get_submodule(block).modules()
        assert sum(isinstance(part, cbam.attention.SE) for part in parts) == 1


@pytest.mark.parametrize("name", ["mobilenet_x1.0", "vgg16"])
def test_an_unknown_attention_is_refused(name: str):
    with pytest.raises(UnknownName, match="'bum'"):
        cbam.build(name, attention="bum")
