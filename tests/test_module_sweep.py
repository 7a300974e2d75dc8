"""Every attention of the table is trained by a recipe, explained, drawn, sent and evaluated."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from app_fixtures import wait_until_ready
from carding import a_card
from fastapi.testclient import TestClient
from PIL import Image
from torch import nn
from torch.testing import assert_close

from app.main import create_app
from app.settings import Settings
from cbam.attention import ATTENTION
from cbam.cards.card import write_card
from cbam.evaluate.mean_gates import logits_with_mean_gates, mean_gates
from cbam.images.preprocess import Preprocess
from cbam.model import Model
from cbam.sheets import attention_sheet
from cbam.trace.cut import cut_at
from cbam.training.data import InMemory
from cbam.training.loop import train
from cbam.training.recipe import Recipe, write_model

MakeModel = Callable[..., Model]
MakePhoto = Callable[..., Image.Image]
WITH_GATES = [name for name, record in ATTENTION.items() if record.gates]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, make_photo: MakePhoto) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for number, label in enumerate(("square", "disc")):
        (root / label).mkdir()
        for seed in range(4):
            make_photo(4 * number + seed, 40, 40).save(root / label / f"{seed}.png")
    return root


@pytest.mark.parametrize("attention", WITH_GATES)
def test_it_trains_by_a_recipe_and_what_was_trained_is_a_model(
    attention: str, photos: Path, make_photo: MakePhoto, tmp_path: Path
):
    recipe = Recipe(
        family="toys",
        title="Toys",
        labels={"square": "square", "disc": "disc"},
        data="none",
        licence="MIT",
        attention=[attention],
        backbone_options={"width": 8},
        batch_size=4,
        precision="no",
        warmup_epochs=0,
        phases=[{"image_size_px": 32, "epochs": 1}],  # two steps
    )
    trained = train(recipe, attention, InMemory(photos, list(recipe.labels)), tmp_path, workers=0)
    assert np.isfinite(trained.loss)
    card = write_model(recipe, attention, trained.weights, tmp_path / "models", "toys.toml")
    assert card.attention == attention
    assert 0 < card.network().eval()(torch.zeros(1, 3, 32, 32)).abs().sum() < np.inf


@pytest.mark.parametrize("attention", WITH_GATES)
def test_its_gates_are_explained_and_drawn_in_their_shapes(
    attention: str, make_model: MakeModel, make_photo: MakePhoto
):
    explanation = make_model(attention).explain(make_photo(), layer="layer2.0")
    block = explanation.attention[2]  # layer2.0: 16 channels of 8 x 8 cells
    for kind in ATTENTION[attention].gates:
        gate = block.gates[kind.name]
        sizes = {"C": 16, "H": 8, "W": 8}
        assert gate.values.shape == tuple(sizes[axis] for axis in kind.axes)
        low, high = gate.span
        assert low <= gate.values.mean() <= high
        assert low <= gate.base <= high
    sheet = np.asarray(attention_sheet(explanation, tile_px=60))
    bars = (sheet == (33, 145, 140)).all(axis=2).any()
    assert bars == any("C" in kind.axes for kind in ATTENTION[attention].gates)


@pytest.fixture(scope="module")
def client(
    tmp_path_factory: pytest.TempPathFactory, make_network: Callable[..., nn.Module]
) -> Iterator[TestClient]:
    """A service with a family of every attention."""
    folder = tmp_path_factory.mktemp("models")
    for attention in ATTENTION:
        card = a_card(
            backbone_options={"width": 8},
            attention=attention,
            labels=("a", "b", "c", "d", "e"),
            preprocess=Preprocess(32),
            storage="float32",
            folder=folder / f"tiny-{attention}",
        )
        write_card(card, make_network(attention).state_dict())
    app = create_app(Settings(models_folder=folder, log_style="off", backend="eager"))
    with TestClient(app) as made:
        wait_until_ready(made)
        yield made


@pytest.fixture
def photo(make_photo: MakePhoto, tmp_path: Path) -> bytes:
    make_photo().save(tmp_path / "photo.png")
    return (tmp_path / "photo.png").read_bytes()


def test_the_api_says_what_each_gate_is_and_sends_it_whole(client: TestClient, photo: bytes):
    listed = client.get("/api/v1/models").json()["models"]
    assert [model["attention"] for model in listed] == list(ATTENTION)
    for model in listed:
        assert model["gates"] == [vars(kind) for kind in ATTENTION[model["attention"]].gates]
    answer = client.post("/api/v1/explain", files={"image": photo}).json()
    for model, result in zip(listed, answer["results"], strict=True):
        kinds = ATTENTION[model["attention"]].gates
        assert len(result["attention"]) == (8 if kinds else 0)
        for kind in kinds:
            sent = result["attention"][0][kind.name]  # 8 channels of 8 x 8 cells
            if kind.axes == "C":
                assert len(sent) == 8
            else:
                assert sent["shape"] == [8] * len(kind.axes)


def test_the_page_says_of_each_gate_what_it_is_for(client: TestClient, photo: bytes):
    page = client.post("/", files={"image": photo}).text
    for record in ATTENTION.values():
        assert record.phrase in page
        for kind in record.gates:
            assert f"The {kind.title} {kind.says[:20]}" in page
    gc = page[page.index('class="gates" data-model="tiny-gc"') :]
    gc = gc[: gc.index("</section>")]
    assert "What GC did" in gc  # it has no gates
    assert gc.count("added, not multiplied") == 8
    assert gc.count("a step on the way") == 8
    assert 'data-line="0.0"' in gc
    simam = page[page.index('class="gates" data-model="tiny-simam"') :]
    simam = simam[: simam.index("</section>")]
    assert 'data-span="0.62246 1.0"' in simam
    assert "data-line" not in simam
    assert "are above" not in simam


@pytest.mark.parametrize("attention", ATTENTION)
def test_held_at_their_means_gates_say_nothing_about_one_photo(
    make_network: Callable[..., nn.Module], attention: str
):
    network = make_network(attention, seed=2)
    images = torch.randn(6, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        own = network(images)
    alone = logits_with_mean_gates(network, [images[:1]])
    assert_close(alone, own[:1], atol=1e-3, rtol=1e-3)  # the mean of one photo is its own map
    held = logits_with_mean_gates(network, [images[:4], images[4:]])
    assert held.shape == own.shape
    if attention == "none":
        assert_close(held, own)
    else:
        assert (held - own).abs().max() > 1e-3


def test_mean_gates_are_the_means_of_those_that_are_applied(
    make_network: Callable[..., nn.Module],
):
    cut = cut_at(make_network("bam"), "layer4.1")
    images = torch.randn(5, 3, 40, 40)
    means = mean_gates(cut, [images[:3], images[3:]])
    assert list(means) == [name for name in cut.places if name.endswith(".volume")]
    _, maps = cut.run_trunk(images)
    first = maps["layer1.0.volume"].mean(dim=0, keepdim=True)
    assert_close(means["layer1.0.volume"], first)
