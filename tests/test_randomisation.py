"""Maps of networks whose weights are made random, from the head to the stem."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import cbam
from cbam.backbones import BACKBONES
from cbam.evaluate.randomisation import (
    randomise,
    rank_correlation,
    similarity,
    ssim,
    stages,
    strip,
)
from cbam.model import Model
from cbam.slices import Done, finished, next_slice


def test_ranks_are_compared_not_values() -> None:
    one = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert rank_correlation(one, one**3) == pytest.approx(1)
    assert rank_correlation(one, -one) == pytest.approx(-1)
    # Ranks 1 2 3 4 and 2 1 3 4: 1 - 6 (1 + 1) / (4 (16 - 1)) = 0.8.
    assert rank_correlation(one, np.array([[2.0, 1.0], [3.0, 4.0]])) == pytest.approx(0.8)
    assert rank_correlation(one, np.ones((2, 2))) is None


def test_structural_similarity_by_hand() -> None:
    flat = np.full((32, 32), 0.5, np.float32)
    assert ssim(flat, flat) == pytest.approx(1)
    # Flat pictures differ in brightness alone: (2ab + c1) / (a^2 + b^2 + c1).
    assert ssim(flat, flat / 2) == pytest.approx((0.25 + 1e-4) / (0.3125 + 1e-4))
    noise = np.random.default_rng(0).random((32, 32)).astype(np.float32)
    assert ssim(noise, 1 - noise) < 0


def test_the_scale_of_a_map_does_not_matter() -> None:
    heat = np.random.default_rng(0).random((6, 6)).astype(np.float32)
    found = similarity(heat, heat * 7)
    assert (found.rank_correlation, found.ssim) == (pytest.approx(1), pytest.approx(1))
    assert similarity(heat, heat * 0).rank_correlation is None


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_stages_of_every_backbone_hold_all_weights_once(backbone: str) -> None:
    with torch.device("meta"):
        network = cbam.build(backbone, attention="cbam", width=8)
    found = stages(network)
    modules = [each for _, stage in found for each in stage]
    held = [id(value) for each in modules for value in each.parameters(recurse=False)]
    held += [id(value) for each in modules for value in each.buffers(recurse=False)]
    assert sorted(held) == sorted(map(id, (*network.parameters(), *network.buffers())))
    assert 5 <= len(found) <= 6
    assert found[0][0] in ("fc", "classifier")
    assert len({name for name, _ in found}) == len(found)


def test_weights_become_random_by_the_seed_and_norms_pass_on() -> None:
    conv, again, other = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
    before = torch.get_rng_state()
    for each, seed in ((conv, 1), (again, 1), (other, 2)):
        randomise(each, torch.Generator().manual_seed(seed))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(conv.weight, again.weight)
    assert not torch.equal(conv.weight, other.weight)
    assert conv.bias is not None
    assert not conv.bias.any()
    assert float(conv.weight.detach().std()) == pytest.approx((2 / (8 * 9)) ** 0.5, rel=0.2)
    norm = nn.BatchNorm2d(4).eval()
    norm.running_mean, norm.running_var = torch.ones(4), torch.full((4,), 9.0)
    randomise(norm, torch.Generator())
    image = torch.randn(1, 4, 3, 3)
    assert torch.allclose(norm(image).detach(), image, atol=1e-4)


def test_the_strip_goes_from_head_to_stem_and_leaves_the_model_alone(
    make_model: Callable[..., Model], make_photo: Callable[..., Image.Image]
) -> None:
    model = make_model("cbam")
    photo = make_photo()
    explanation = model.explain(photo, target=2)
    work, count = strip(model, explanation), 1
    while not isinstance(state := next_slice(work), Done):
        count += 1
    found = state.result
    assert [each.stage for each in found.stages] == [
        *("fc", "layer4", "layer3", "layer2", "layer1", "conv1, bn1")
    ]
    assert count == len(found.stages)
    for each in found.stages:
        assert each.map.shape == explanation.heatmap.shape
        assert each.similarity == similarity(explanation.heatmap, each.map)
    assert found.original is explanation.heatmap
    again = model.explain(photo, target=2)
    assert np.array_equal(again.heatmap, explanation.heatmap)
    twin = finished(strip(model, explanation))
    assert all(
        np.array_equal(one.map, two.map) for one, two in zip(found.stages, twin.stages, strict=True)
    )
    other = finished(strip(model, explanation, seed=1))
    assert not np.array_equal(other.stages[0].map, found.stages[0].map)


def test_a_map_that_ignores_the_head_stays_when_the_head_is_random(
    make_model: Callable[..., Model], make_photo: Callable[..., Image.Image]
) -> None:
    model = make_model("cbam")
    explanation = model.explain(make_photo(), target=2, method="eigencam")
    found = finished(strip(model, explanation))
    assert found.stages[0].similarity.rank_correlation == pytest.approx(1)
    assert found.stages[-1].similarity.rank_correlation != pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "finercam", "versus": 1},
        {"layer": "layer3.1,layer4.1"},
        {"gates": "*.channel=off"},
    ],
)
def test_the_same_question_is_asked_of_random_networks(
    make_model: Callable[..., Model],
    make_photo: Callable[..., Image.Image],
    options: dict[str, str],
) -> None:
    model = make_model("cbam")
    explanation = model.explain(make_photo(), target=2, **options)
    found = finished(strip(model, explanation))
    network = model.network_copy()
    random = torch.Generator().manual_seed(0)
    for module in stages(network)[0][1]:
        randomise(module, random)
    expected = Model(model.card, network).explain(make_photo(), target=2, **options)
    assert np.allclose(found.stages[0].map, expected.heatmap)
