"""Networks of one's own as models: what they need to say, and what can then be asked."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision.transforms._presets import ImageClassification

import cbam
from cbam.errors import BadData, CannotCut, CannotInsert, UnknownName

LABELS = ("tench", "church", "parachute", "golf ball", "French horn")
MakePhoto = Callable[..., Image.Image]


def torchvisions() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], 5)


def vgg_like() -> nn.Module:
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU())
    return nn.Sequential(
        features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, len(LABELS))
    )


def photo() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_a_network_of_ones_own_is_explained_and_answers_as_it_did():
    network = torchvisions()
    model = cbam.wrap(network, 64, LABELS, name="my-resnet")
    found = model.explain(photo(), layer="layer3.0")
    assert (found.model, model.layers) == ("my-resnet", [f"layer{i}.0" for i in (1, 2, 3, 4)])
    assert found.heatmap.shape == (4, 4)
    with torch.no_grad():
        expected = network.eval()(model.card.preprocess(photo())[None]).softmax(1)[0]
    probabilities = {each.label: each.probability for each in found.predictions}
    assert probabilities == pytest.approx(
        dict(zip(LABELS, expected.tolist(), strict=True)), abs=1e-5
    )


def test_attention_that_was_inserted_is_shown():
    model = cbam.wrap(cbam.insert(torchvisions()), 64, LABELS)
    assert (model.card.attention, model.card.title) == ("cbam", "CBAM-ResNet")
    found = model.explain(photo())
    assert [block.block for block in found.attention] == model.layers
    assert found.attention[0].channel.shape == (64,)
    assert found.attention[0].spatial.shape == (16, 16)


def test_a_network_and_its_attended_copy_are_compared():
    plain = torchvisions()
    models = [
        cbam.wrap(plain, 64, LABELS, name="before"),
        cbam.wrap(cbam.insert(plain), 64, LABELS, name="after"),
    ]
    before, after = cbam.compare(models, photo(), cbam.Options(target="church"))
    assert (before.model, after.model) == ("before", "after")
    assert after.target.probability == pytest.approx(before.target.probability, abs=1e-5)
    np.testing.assert_allclose(after.heatmap, before.heatmap, rtol=1e-3, atol=1e-5)


def test_the_given_network_stays_as_it_is():
    network = torchvisions().train()
    cbam.wrap(network, 64, LABELS)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_network_without_residual_blocks_needs_layers():
    with pytest.raises(CannotInsert, match=r"layers=\['features'\]"):
        cbam.wrap(vgg_like(), 64, LABELS)
    found = cbam.wrap(vgg_like(), 64, LABELS, layers=["0"]).explain(photo())
    assert found.heatmap.shape == (15, 15)
    with pytest.raises(UnknownName, match="No layer 'body'"):
        cbam.wrap(vgg_like(), 64, LABELS, layers=["body"])
    with pytest.raises(CannotCut, match="whole block"):
        cbam.wrap(torchvisions(), 64, LABELS, layers=["layer4.0.conv1"])


PRESET = ImageClassification(crop_size=64, resize_size=80, mean=(0.5,) * 3, std=(0.2,) * 3)
TIMM = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.2,) * 3, "crop_pct": 0.8}


@pytest.mark.parametrize("given", [PRESET, TIMM], ids=["torchvision", "timm"])
def test_the_settings_of_others_are_understood(given: Any):
    found = cbam.wrap(torchvisions(), given, LABELS).card.preprocess
    assert (found.size_px, found.mean, found.std) == (64, (0.5,) * 3, (0.2,) * 3)
    assert found.resize_ratio == pytest.approx(1.25)
    assert found.fit == "crop"


def test_a_photo_is_prepared_as_torchvision_does():
    smooth = Image.fromarray(np.linspace(0, 255, 100 * 120 * 3).reshape(100, 120, 3).astype("u1"))
    ours = cbam.wrap(torchvisions(), PRESET, LABELS).card.preprocess(smooth)
    assert float((ours - PRESET(smooth)).abs().mean()) < 0.05


def test_timms_own_settings_fit():
    network = timm.create_model("resnet10t", num_classes=5)
    model = cbam.wrap(network, timm.data.resolve_model_data_config(network), LABELS)
    assert model.card.preprocess.size_px == network.default_cfg["input_size"][-1]


@pytest.mark.parametrize(
    ("preprocess", "labels", "reason"),
    [
        (64, LABELS[:3], r"\(1, 5\).*3 labels"),
        ("big", LABELS, "'big' does not say how"),
        ({"input_size": (3, 64, 64)}, LABELS, "does not say how"),
    ],
)
def test_what_does_not_fit_the_network_is_refused(preprocess: Any, labels: Any, reason: str):
    with pytest.raises(BadData, match=reason):
        cbam.wrap(torchvisions(), preprocess, labels)
