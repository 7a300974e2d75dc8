"""The backbones: torchvision's weights, the paper's sizes, any input, nothing in place."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from building import without_weights
from torch import nn
from torch.testing import assert_close

import cbam
from cbam.attention import ATTENTION
from cbam.backbones import BACKBONES, blocks
from cbam.errors import OptionClash, UnknownName

MakeNetwork = Callable[..., nn.Module]


RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvisions_weights_load_strictly_and_give_the_same_logits(name: str):
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None).eval()
    ours = cbam.build(name).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert_close(ours(images), theirs(images), atol=1e-5, rtol=1e-5)


DILATED = [(False, False, True), (False, True, True), (True, False, True)]


@pytest.mark.parametrize("dilated", DILATED, ids=str)
def test_a_dilated_network_gives_torchvisions_logits(dilated: tuple[bool, bool, bool]):
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(
        weights=None, replace_stride_with_dilation=list(dilated)
    ).eval()
    ours = cbam.build("resnet50", replace_stride_with_dilation=dilated).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        assert_close(ours(images), theirs(images), atol=1e-5, rtol=1e-5)


def last_stage(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What a network's last stage puts out."""
    seen: list[torch.Tensor] = []
    handle = network.layer4.register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.inference_mode():
        network(images)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("stride_in", ["3x3", "1x1"])
@pytest.mark.parametrize("attention", ["none", "cbam"])
def test_where_both_look_a_dilated_stage_sees_what_the_strided_one_sees(
    make_network: MakeNetwork, attention: str, stride_in: str
):
    # Spatial gates alone: a channel gate pools over all places, of which there are more.
    options: dict[str, Any] = {"stride_in": stride_in}
    if attention == "cbam":
        options["attention_options"] = {"gates": "spatial"}
    strided = make_network(attention, "resnet50", **options)
    dilated = make_network(
        attention, "resnet50", replace_stride_with_dilation=(False, False, True), **options
    )
    images = torch.randn(2, 3, 160, 144)
    few, many = last_stage(strided, images), last_stage(dilated, images)
    assert (few.shape[2:], many.shape[2:]) == ((5, 5), (10, 9))
    scale = few.abs().max()  # untrained networks without attention grow to thousands
    assert_close(many[:, :, ::2, ::2] / scale, few / scale, atol=1e-5, rtol=0)


def test_basic_blocks_are_not_dilated_as_in_torchvision():
    with pytest.raises(OptionClash, match=r"bottleneck.*ResNet-50"):
        cbam.build("resnet18", replace_stride_with_dilation=(False, False, True))
    with pytest.raises(NotImplementedError):
        torchvision.models.resnet18(replace_stride_with_dilation=[False, False, True])


@pytest.mark.parametrize("given", [(), (True,), (False, False, False, True)])
def test_dilation_is_said_for_three_stages(given: tuple[bool, ...]):
    with pytest.raises(UnknownName, match="three of true and false"):
        cbam.build("resnet50", replace_stride_with_dilation=given)


def test_the_stride_is_in_the_3x3_unless_asked_otherwise():
    block = without_weights("resnet50").get_submodule("layer2.0")
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))
    block = without_weights("resnet50", stride_in="1x1").get_submodule("layer2.0")
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("size", [(65, 97), (32, 32), (64, 40)])
def test_images_of_any_size_give_logits(
    make_network: MakeNetwork, attention: str, name: str, size: tuple[int, int]
):
    logits = make_network(attention, name, num_classes=5)(torch.randn(2, 3, *size))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


@pytest.mark.parametrize(("stem", "cells"), [("imagenet", 16), ("small", 64)])
def test_the_small_stem_keeps_small_images_large(make_network: MakeNetwork, stem: str, cells: int):
    network = make_network(stem=stem)
    shapes = []
    network.layer1.register_forward_hook(lambda module, args, out: shapes.append(out.shape))
    network(torch.randn(1, 3, 64, 64))
    assert shapes == [(1, 8, cells, cells)]


def test_width_scales_every_stage(make_network: MakeNetwork):
    network = make_network(width=12)
    assert [network.get_submodule(f"layer{s}.0").conv1.out_channels for s in (1, 2, 3, 4)] == [
        12, 24, 48, 96,
    ]  # fmt: skip


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_nothing_is_done_in_place(make_network: MakeNetwork, attention: str, name: str):
    seen: list[tuple[str, torch.Tensor, torch.Tensor]] = []
    network = make_network(attention, name)
    for path, module in network.named_modules():
        module.register_forward_hook(
            lambda module, args, output, path=path: seen.append((path, output, output.clone()))
        )
    network(torch.randn(1, 3, 48, 48))
    changed = [
        path for path, output, then in seen if output._version != 0 or not torch.equal(output, then)
    ]
    assert len(seen) > 50
    assert changed == []


@pytest.mark.parametrize("name", RESNETS)
def test_blocks_are_named_in_order(name: str):
    depths = {"resnet18": (2, 2, 2, 2), "resnet101": (3, 4, 23, 3)}.get(name, (3, 4, 6, 3))
    expected = [f"layer{s + 1}.{i}" for s, depth in enumerate(depths) for i in range(depth)]
    assert blocks(without_weights(name)) == expected


@pytest.mark.parametrize("attention", ["se", "cbam"])
@pytest.mark.parametrize("name", BACKBONES)
def test_every_block_has_its_attention(name: str, attention: str):
    network = without_weights(name, attention)
    kinds = {type(network.get_submodule(f"{block}.attention")) for block in blocks(network)}
    assert [kind.__name__.lower() for kind in kinds] == [attention]


def test_attention_options_reach_every_block(make_network: MakeNetwork):
    network = make_network(attention_options={"kernel": 3, "order": "parallel"})
    for block in blocks(network):
        module = network.get_submodule(f"{block}.attention")
        assert (module.order, module.spatial.conv.kernel_size) == ("parallel", (3, 3))


def test_attention_refines_the_convolutions_before_the_add(make_network: MakeNetwork):
    network = make_network()
    block = network.get_submodule("layer1.0")
    x = torch.randn(1, 8, 10, 10)
    out = torch.relu(block.bn1(block.conv1(x)))
    out = block.attention(block.bn2(block.conv2(out)))
    assert_close(block(x), torch.relu(out + x))


def test_an_unknown_backbone_is_refused_with_those_that_there_are():
    with pytest.raises(UnknownName) as caught:
        cbam.build("resnet19")
    assert "'resnet19'" in str(caught.value)
    assert all(name in str(caught.value) for name in BACKBONES)


def test_an_unknown_attention_is_refused_with_those_that_there_are():
    with pytest.raises(UnknownName) as caught:
        cbam.build("resnet18", attention="bum")
    assert "'bum'" in str(caught.value)
    assert all(name in str(caught.value) for name in ATTENTION)


@pytest.mark.parametrize(
    ("option", "known"),
    [
        ("stem", "imagenet, small"),
        ("stride_in", "3x3, 1x1"),
        ("placement", "block, late, conv, stage, own"),
    ],
)
def test_an_unknown_stem_or_stride_is_refused_with_those_that_there_are(option: str, known: str):
    with pytest.raises(UnknownName, match=f"'huge'.*{known}"):
        cbam.build("resnet18", **{option: "huge"})


def test_the_authors_place_is_an_option_and_the_fair_one_the_default():
    fair = blocks(without_weights("resnet18", "bam"))
    own = blocks(without_weights("resnet18", "bam", placement="own"))
    assert fair == blocks(without_weights("resnet18"))
    assert [name for name in own if name not in fair] == [
        "layer1.attention",
        "layer2.attention",
        "layer3.attention",
    ]
    same = without_weights("resnet18", "cbam", placement="own").state_dict()
    assert same.keys() == without_weights("resnet18", "cbam").state_dict().keys()


def test_an_unknown_attention_option_is_refused():
    with pytest.raises(UnknownName, match="'lp'"):
        cbam.build("resnet18", attention="cbam", attention_options={"pool": "lp"}, width=8)
