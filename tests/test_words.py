"""Everyday words: what people type and say, for several classes at once."""

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from app_fixtures import wait_until_ready
from asking import explain
from fastapi.testclient import TestClient
from PIL import Image
from torch.testing import assert_close

from app.main import create_app
from app.settings import Settings
from cbam.cards.card import write_card
from cbam.cards.words import grouped, words
from cbam.errors import OptionClash, UnknownName
from cbam.explain.question import Options, resolve
from cbam.explain.targets import AnyOf
from cbam.model import Model

# tabby, Siamese cat, tench, toaster, tiger cat
FOLDERS = ("n02123045", "n02123597", "n01440764", "n04442312", "n02123159")
LABELS = ("tabby", "Siamese cat", "tench", "toaster", "tiger cat")
CATS = (0, 1, 4)


@pytest.fixture
def models(make_model: Callable[..., Model]) -> list[Model]:
    """Plain and CBAM, of classes that have words."""
    found = [
        make_model(name, labels=LABELS, seed=seed) for seed, name in enumerate(("none", "cbam"))
    ]
    return [Model(replace(each.card, folders=FOLDERS), each.network) for each in found]


def test_a_model_says_words_that_mean_several_of_its_classes(models: list[Model]):
    assert grouped(FOLDERS) == {"cat": CATS, "fish": (2,)}
    card = models[0].card
    assert card.words == {"cat": CATS, "tench": (2,), "toaster": (3,)}
    assert [card.word(label) for label in LABELS] == ["cat", "cat", "tench", "toaster", "cat"]


def test_every_word_is_of_a_wordnet_id_and_written_as_people_do():
    assert len(words()) > 400
    for folder, word in words().items():
        assert folder[0] == "n"
        assert len(folder) == 9
        assert word == word.strip().lower()


def test_classes_that_share_a_label_are_said_as_one(models: list[Model]):
    card = replace(models[0].card, labels=("tabby", "Siamese cat", "crane", "crane", "tiger cat"))
    assert card.words == {"cat": CATS, "crane": (2, 3)}
    assert card.word_of.tolist() == [0, 0, 1, 1, 0]
    assert card.classes("crane") == (2,)


@pytest.mark.parametrize(
    ("target", "classes"),
    [
        ("cat", CATS),
        (" CAT ", CATS),
        ("Tabby", (0,)),
        ("n02123597", (1,)),
        (3, (3,)),
        ("fish", (2,)),
    ],
)
def test_a_class_is_found_by_word_label_wordnet_id_and_index(
    models: list[Model], target: str | int, classes: tuple[int, ...]
):
    assert models[0].card.classes(target) == classes


def test_a_label_goes_before_a_word(models: list[Model]):
    labels = ("tabby", "Cat", "tench", "toaster", "tiger cat")
    card = replace(models[0].card, labels=labels)
    assert card.classes("cat") == (1,)


def test_an_unknown_word_is_refused(models: list[Model]):
    with pytest.raises(UnknownName, match="'dog'.*0 tabby"):
        resolve(models, Options("dog"))


def test_the_log_of_the_summed_probability_by_hand():
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]]))
    assert_close(AnyOf((0, 2))(logits), torch.log(torch.tensor([0.8, 0.75])))


def test_a_words_probability_is_the_sum_of_its_classes(models: list[Model], make_photo):
    for each in explain(models, make_photo(), Options("cat")):
        of = {one.index: one.probability for one in each.predictions}
        assert each.target.label == "cat"
        assert each.target.indices == CATS
        assert each.target.probability == pytest.approx(sum(of[index] for index in CATS), abs=1e-6)
        assert of[each.target.index] == max(of[index] for index in CATS)
        assert {word.label for word in each.words} == {"cat", "tench", "toaster"}
        assert sum(word.probability for word in each.words) == pytest.approx(1, abs=1e-5)
        chances = [word.probability for word in each.words]
        assert chances == sorted(chances, reverse=True)


@pytest.mark.parametrize("layer", ["layer4.1", "layer3.0"])
def test_a_words_map_is_grad_cam_of_the_log_of_its_probability(
    models: list[Model], make_photo: Callable[..., Image.Image], layer: str
):
    photo = make_photo()
    for model in models:
        found = model.explain(photo, "cat", layer=layer)
        cut = model.cut((layer,))
        leaf = cut.run_trunk(model.card.preprocess(photo)[None])[0].clone().requires_grad_()
        chances = cut.run_head(leaf)[0].softmax(dim=1)[0, list(CATS)]
        (gradient,) = torch.autograd.grad(chances.sum().log(), leaf)
        weighed = (gradient.mean(dim=(2, 3), keepdim=True) * leaf).sum(dim=1).relu()
        np.testing.assert_allclose(found.heatmap, weighed[0].detach().numpy(), rtol=1e-3, atol=1e-6)
        assert found.heatmaps[0].label == "cat"


def test_the_maps_of_single_classes_still_come_free(models: list[Model], make_photo):
    of_cat, of_tench = (models[1].explain(make_photo(), target) for target in ("cat", "tench"))
    free = {each.label: each.map for each in of_cat.heatmaps[1:]}
    assert set(free) == set(LABELS)
    np.testing.assert_allclose(free["tench"], of_tench.heatmap, rtol=1e-5)


@pytest.mark.parametrize("method", ["finercam", "shapleycam"])
def test_methods_of_one_class_say_so(models: list[Model], method: str):
    with pytest.raises(OptionClash, match="one class; 'cat' means 3: name one, such as 'tabby'"):
        resolve(models, Options("cat", method))


def test_a_word_is_not_contrasted_with_a_class_of_its_own(models: list[Model]):
    with pytest.raises(OptionClash, match="'tabby' cannot be contrasted with itself"):
        resolve(models, Options("tabby", "finercam", versus="cat"))


def test_the_bundled_words_travel_with_the_package():
    assert (Path(__file__).parent.parent / "cbam" / "cards" / "words.tsv").is_file()


@pytest.fixture
def client(models: list[Model], tmp_path: Path) -> Iterator[TestClient]:
    """The service with a family whose classes have words."""
    for each in models:
        folder = tmp_path / "models" / each.name
        card = replace(each.card, backbone_options={"width": 8}, folder=folder)
        write_card(card, each.network.state_dict())
    app = create_app(Settings(models_folder=tmp_path / "models", log_style="off", backend="eager"))
    with TestClient(app) as made:
        wait_until_ready(made)
        yield made


def test_the_api_answers_about_a_word_and_in_words(client: TestClient, make_photo):
    buffer = io.BytesIO()
    make_photo().save(buffer, "PNG")
    files = {"image": buffer.getvalue()}
    answer = client.post("/api/v1/explain", files=files, data={"target": "Cat"}).json()
    assert answer["target"]["label"] == "cat"
    assert answer["target"]["indices"] == list(CATS)
    for result in answer["results"]:
        chances = {each["index"]: each["probability"] for each in result["predictions"]}
        of_cat = sum(chances[index] for index in CATS)
        assert result["target_probability"] == pytest.approx(of_cat, abs=1e-6)
        assert result["heatmaps"][0]["label"] == "cat"
        (cat,) = (word for word in result["words"] if word["word"] == "cat")
        assert cat["probability"] == pytest.approx(of_cat, abs=1e-6)
    plain = client.post("/api/v1/explain", files=files).json()
    assert plain["target"]["indices"] == []  # the API's default stays a class


def test_the_page_speaks_in_words(client: TestClient, make_photo):
    buffer = io.BytesIO()
    make_photo().save(buffer, "PNG")
    for target in ("cat", "tabby", ""):
        page = client.post("/", files={"image": buffer.getvalue()}, data={"target": target})
        assert page.status_code == 200
        if target:
            assert f'data-target="{target}"' in page.text
    answer = client.post("/api/v1/explain", files={"image": buffer.getvalue()}).json()
    tops = [result["words"][0]["word"] for result in answer["results"]]
    assert f'data-target="{tops[0]}"' in page.text  # without a target, the first one's top word
