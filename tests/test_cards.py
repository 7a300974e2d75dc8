"""Model folders: stored and loaded unharmed, or refused with the reason."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from torch.testing import assert_close

import cbam
from cbam.cards.card import Card, load_network, read_card, write_card
from cbam.cards.int8 import QUANTISE_FROM, SCALE, quantise, widen
from cbam.errors import BadCard, UnknownName
from cbam.images.preprocess import Preprocess
from cbam.model import Model
from cbam.trace.cut import cut_at
from cbam.trace.rewrite import fuse, share_weights

MakePhoto = Callable[..., Image.Image]
MakeNetwork = Callable[..., nn.Module]

LABELS = ("tench", "church", "parachute", "golf ball", "French horn")


def card_in(folder: Path, **changes: Any) -> Card:
    values: dict[str, Any] = {
        "name": "resnet18-cbam-tiny",
        "family": "tiny",
        "family_title": "Tiny: five kinds of things",
        "backbone": "resnet18",
        "attention": "cbam",
        "labels": LABELS,
        "folders": ("n1", "n2", "n3", "n4", "n5"),
        "preprocess": Preprocess(64, "stretch", (0.5, 0.4, 0.3), (0.25, 0.25, 0.25), 1.125),
        "licence": "MIT",
        "data": "none",
        "recipe": "tiny.toml",
        "weights_sha256": "0" * 64,
        "storage": "int8 per output channel",
        "backbone_options": {"width": 8},
        "attention_options": {"kernel": 3},
        "metrics": {"tiny-val": {"top1": 0.5, "images": 10}},
        "folder": folder,
    }
    return Card(**{**values, **changes})


@pytest.fixture
def folder(tmp_path: Path, make_network: MakeNetwork) -> Path:
    """A model's folder that is in order."""
    network = make_network("cbam", attention_options={"kernel": 3})
    write_card(card_in(tmp_path / "model"), network.state_dict())
    return tmp_path / "model"


def edited(folder: Path, old: str, new: str) -> Path:
    text = (folder / "card.toml").read_text(encoding="utf-8")
    assert old in text
    (folder / "card.toml").write_text(text.replace(old, new), encoding="utf-8")
    return folder


def test_int8_keeps_every_value_within_half_a_step_of_its_channels_scale():
    torch.manual_seed(0)
    weight = torch.randn(16, QUANTISE_FROM // 16, 3, 3) * torch.logspace(-4, 2, 16).view(
        16, 1, 1, 1
    )
    stored = quantise({"conv.weight": weight})
    assert stored["conv.weight"].dtype == torch.int8
    scale = stored[f"conv.weight{SCALE}"]
    assert_close(scale, weight.abs().amax(dim=(1, 2, 3)) / 127)
    found = widen(stored)
    assert set(found) == {"conv.weight"}
    assert found["conv.weight"].shape == weight.shape
    error = (found["conv.weight"] - weight).abs().amax(dim=(1, 2, 3))
    assert (error <= scale / 2 * 1.001).all()
    assert error.max() > 0  # it was rounded indeed


def test_int8_by_hand():
    # A row's largest value becomes 127, half of it 63.5, which rounds to the even 64.
    weight = torch.tensor([[2.0, 1.0, 0.0, -2.0]]).repeat(4, QUANTISE_FROM // 16)
    levels = quantise({"fc.weight": weight})["fc.weight"]
    assert levels[0, :4].tolist() == [127, 64, 0, -127]


def test_small_tensors_and_vectors_stay_exact():
    torch.manual_seed(0)
    weights = {
        "small": torch.randn(3, QUANTISE_FROM // 3),
        "vector": torch.randn(2 * QUANTISE_FROM),
        "count": torch.tensor(7),
    }
    stored = quantise(weights)
    assert set(stored) == set(weights)
    for name, value in widen(stored).items():
        assert torch.equal(value, weights[name])
        assert value.dtype == weights[name].dtype
    assert f"large{SCALE}" in quantise({"large": torch.randn(2, QUANTISE_FROM // 2)})


def test_a_channel_of_zeros_stays_zero():
    torch.manual_seed(0)
    weight = torch.randn(4, QUANTISE_FROM)
    weight[2] = 0
    stored = quantise({"w": weight})
    assert stored[f"w{SCALE}"].min() > 0  # nothing is divided by zero
    found = widen(stored)["w"]
    assert not found[2].any()
    assert found[1].any()
    assert found.isfinite().all()


def test_storing_does_not_touch_the_weights_given():
    torch.manual_seed(0)
    weight = torch.randn(4, QUANTISE_FROM)
    then = weight.clone()
    small = torch.randn(3)
    stored = quantise({"w": weight, "small": small})
    stored["small"].zero_()
    assert torch.equal(weight, then)
    assert small.abs().max() > 0


def test_a_card_comes_back_as_it_was_written(tmp_path: Path):
    card = card_in(tmp_path / "model")
    assert write_card(card) == card
    assert read_card(tmp_path / "model") == card


def test_a_card_of_few_words_comes_back_too(tmp_path: Path):
    card = card_in(tmp_path, folders=(), backbone_options={}, attention_options={}, metrics={})
    assert write_card(card) == card


def test_a_stored_network_answers_nearly_as_before(folder: Path, make_network: MakeNetwork):
    before = make_network("cbam", attention_options={"kernel": 3})
    after = load_network(read_card(folder))
    assert not any(module.training for module in after.modules())
    assert not any(parameter.requires_grad for parameter in after.parameters())
    expected = widen(quantise(before.state_dict()))
    for name, value in after.state_dict().items():
        assert torch.equal(value, expected[name])
        assert value.dtype == expected[name].dtype
    images = torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        one, other = before(images).softmax(1), after(images).softmax(1)
    assert (one - other).abs().max() < 0.02


def test_writing_a_card_names_its_weights(folder: Path):
    data = (folder / "weights.safetensors").read_bytes()
    assert read_card(folder).weights_sha256 == hashlib.sha256(data).hexdigest()


def test_new_words_on_a_card_keep_its_weights(folder: Path):
    card = read_card(folder)
    write_card(dataclasses.replace(card, metrics={"tiny-val": {"top1": 0.75}}))
    again = read_card(folder)
    assert again.metrics == {"tiny-val": {"top1": 0.75}}
    assert again.weights_sha256 == card.weights_sha256
    load_network(again)


def test_a_folder_loads_as_a_model(folder: Path, make_photo: MakePhoto):
    model = cbam.load(folder)
    explanation = model.explain(make_photo(), target="church")
    assert (model.name, explanation.model) == ("resnet18-cbam-tiny", "resnet18-cbam-tiny")
    assert len(explanation.attention) == 8


def test_a_loaded_model_holds_its_weights_once(folder: Path, make_photo: MakePhoto):
    model = cbam.load(folder)
    model.explain(make_photo(), layer="layer3.0")
    held = {each.untyped_storage().data_ptr() for each in model._network.parameters()}
    for cut in (model.cut(), model.cut(("layer3.0",))):
        run = [module for module in cut.trunk.modules() if isinstance(module, nn.Conv2d)]
        assert len(run) > 10
        assert {conv.weight.untyped_storage().data_ptr() for conv in run} <= held


@pytest.mark.parametrize("training", [False, True])
def test_a_loaded_models_network_still_is_the_stored_one(folder: Path, training: bool):
    stored, loaded = load_network(read_card(folder)), cbam.load(folder).network
    assert stored.state_dict().keys() == loaded.state_dict().keys()
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        one, other = stored.train(training)(images), loaded.train(training)(images)
    assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_norms_that_shut_a_channel_or_turn_it_over_are_shared_too(make_network: MakeNetwork):
    network = make_network("none")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight[0] = 0
                module.weight[1] = -0.7
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = network(images)
        folded: dict[Any, Any] = {}
        trunk = fuse(cut_at(network, "layer4.1").trunk, folded)
        activation = trunk(images)[0]
        share_weights(folded)
        assert_close(network(images), expected, atol=1e-4, rtol=1e-4)
        assert_close(trunk(images)[0], activation)
    assert len(folded) == 20  # every convolution of a ResNet-18, three of them projections
    assert all(both.weight is conv.weight for (conv, _), both in folded.items())


@pytest.mark.parametrize("where", [0, 100, -1])
def test_a_flipped_byte_in_the_weights_is_found(folder: Path, where: int):
    path = folder / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadCard, match=r"resnet18-cbam-tiny.*not the ones.*damaged"):
        load_network(read_card(folder))


def test_truncated_weights_are_found(folder: Path):
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadCard, match="damaged"):
        load_network(read_card(folder))


def test_missing_weights_are_named(folder: Path):
    (folder / "weights.safetensors").unlink()
    with pytest.raises(BadCard, match=r"'resnet18-cbam-tiny' has no weights.*weights\.safetensors"):
        load_network(read_card(folder))


def test_weights_that_are_no_safetensors_are_refused_though_the_card_names_them(folder: Path):
    data = b"these are no weights"
    (folder / "weights.safetensors").write_bytes(data)
    edited(folder, read_card(folder).weights_sha256, hashlib.sha256(data).hexdigest())
    with pytest.raises(BadCard, match="do not fit"):
        load_network(read_card(folder))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("labels", ["tench\nchurch\n", "a\nb\nc\nd\ne\nf\n", ""])
def test_labels_that_the_weights_do_not_fit_are_refused(folder: Path, labels: str):
    (folder / "labels.txt").write_text(labels, encoding="utf-8")
    with pytest.raises(BadCard):
        load_network(read_card(folder))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('attention = "cbam"', 'attention = "se"'),
        ('backbone = "resnet18"', 'backbone = "resnet34"'),
        ("width = 8", "width = 16"),
        ("width = 8", "breadth = 8"),
        ("kernel = 3", "kernel = 7"),
        ("kernel = 3", "kernal = 3"),
    ],
)
def test_weights_of_another_network_are_refused(folder: Path, old: str, new: str):
    with pytest.raises(BadCard, match="do not fit"):
        load_network(read_card(edited(folder, old, new)))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('licence = "MIT"', 'license = "MIT"', "licen[cs]e"),  # unknown key
        ('licence = "MIT"', "", "licence"),  # missing key
        ('licence = "MIT"', "licence = 3", "licence"),
        ('licence = "MIT"', "licence = ", "Invalid value"),  # no TOML
        ('attention = "cbam"', 'attention = "cbm"', "no attention 'cbm', known: none, se, cbam"),
        ('backbone = "resnet18"', 'backbone = "resnet19"', "no backbone 'resnet19'"),
        ("size_px = 64", "", "size_px"),
        ("size_px = 64", "size_px = 64\nsize = 3", "size"),
        ("size_px = 64", 'size_px = "large"', "size_px"),
        ('fit = "stretch"', 'fit = "squash"', "squash"),
    ],
)
def test_a_card_that_is_not_in_order_is_refused_with_the_reason(
    folder: Path, old: str, new: str, reason: str
):
    with pytest.raises(BadCard, match=reason) as caught:
        read_card(edited(folder, old, new))
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["card.toml", "labels.txt"])
def test_a_missing_or_unreadable_file_is_named(folder: Path, name: str):
    (folder / name).write_bytes(b"\xff\xfe not UTF-8 \x80")
    with pytest.raises(BadCard):
        read_card(folder)
    (folder / name).unlink()
    with pytest.raises(BadCard, match=name):
        read_card(folder)


@pytest.mark.parametrize(
    ("target", "index"),
    [(0, 0), (4, 4), ("3", 3), (" 2 ", 2), ("church", 1), ("CHURCH", 1), ("french horn", 4)],
)
def test_a_class_is_found_by_index_digits_or_label(tmp_path: Path, target: int | str, index: int):
    assert card_in(tmp_path).classes(target) == (index,)


@pytest.mark.parametrize("target", [5, -1, "5", "-1", "zebra", "", "1.0", "²"])
def test_an_unknown_class_is_refused_with_those_that_there_are(tmp_path: Path, target: int | str):
    with pytest.raises(UnknownName, match=r"0 tench, 1 church.*4 French horn\.$"):
        card_in(tmp_path).classes(target)


def test_of_very_many_classes_the_first_are_named(tmp_path: Path):
    card = card_in(tmp_path, labels=tuple(f"kind {i}" for i in range(1000)), folders=())
    with pytest.raises(UnknownName, match=r"19 kind 19, \.\.\. up to 999\.$") as caught:
        card.classes("x" * 10_000)
    assert len(str(caught.value)) < 1000


def test_cards_come_by_family_plain_se_cbam(tmp_path: Path):
    for family in ("zoo", "aviary"):
        for attention in ("cbam", "none", "se"):
            name = f"resnet18-{attention}-{family}"
            write_card(card_in(tmp_path / name, name=name, family=family, attention=attention))
    assert list(cbam.available(tmp_path)) == [
        f"resnet18-{attention}-{family}"
        for family in ("aviary", "zoo")
        for attention in ("none", "se", "cbam")
    ]


def test_one_bad_card_in_a_folder_of_models_is_named(folder: Path):
    assert list(cbam.available(folder.parent)) == ["resnet18-cbam-tiny"]
    edited(folder, 'family = "tiny"', "")
    with pytest.raises(BadCard, match=str(folder)):
        cbam.available(folder.parent)


# The models that come with the project.
BUNDLED = cbam.available()


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_model_loads_and_names_its_family(name: str, bundled: Callable[[str], Model]):
    card = BUNDLED[name]
    assert card.folder.name == name == card.name
    assert card.family
    assert card.family_title
    assert card.licence
    assert card.data
    assert card.name.endswith(card.family)
    assert len(set(card.labels)) == len(card.labels) > 1
    model = bundled(name)
    assert model.card == card
    assert model.layers


def test_bundled_models_of_a_family_know_the_same_classes_in_the_same_way():
    for card in BUNDLED.values():
        first = next(each for each in BUNDLED.values() if each.family == card.family)
        assert (card.labels, card.preprocess) == (first.labels, first.preprocess)


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_models_grad_cam_is_the_packages(
    name: str, bundled: Callable[[str], Model], make_photo: MakePhoto
):
    model, hooked = bundled(name), load_network(BUNDLED[name])
    size = model.card.preprocess.size_px
    block = hooked.get_submodule(model.layers[-1]).requires_grad_(True)  # the rest stays frozen
    painted = 0
    for seed in range(3):
        photo = make_photo(seed, width=320, height=240)
        batch = model.card.preprocess(photo).unsqueeze(0)
        maps = {each.index: each.map for each in model.explain(photo, top_k=1000).heatmaps}
        for target in sorted(maps)[:3]:
            with GradCAM(hooked, [block]) as cam:
                expected = cam(batch, [ClassifierOutputTarget(target)])
            found = scale_cam_image(scale_cam_image(maps[target][None], (size, size)))
            np.testing.assert_allclose(found, expected, atol=1e-4)
            painted += bool(expected.max() > 0.9)
    assert painted  # not a comparison of zeros
