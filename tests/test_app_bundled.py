"""The service as it comes: the bundled models on the bundled photos."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from app_fixtures import wait_until_ready
from fastapi.testclient import TestClient
from PIL import Image

from app.cli import explain
from app.inference import engine
from app.main import bundled as bundled_folder
from app.main import create_app
from app.routes.pages import gallery
from app.settings import Settings
from cbam.cards.families import available
from cbam.model import Model

pytest_plugins = ["app_fixtures"]

FAMILIES = {
    name: [f"{backbone}-{name}", f"{backbone}-se-{name}", f"{backbone}-cbam-{name}"]
    for backbone, name in (("resnet50", "imagenet"), ("resnet18", "tiny-imagenet"))
}
DEFAULT = "imagenet"
STATIC = bundled_folder("static")


@pytest.fixture(scope="module")
def service(bundled: Callable[[str], Model]) -> Iterator[TestClient]:
    """The app with the models that travel with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "load", lambda folder, backend: bundled(folder.name))
        with TestClient(create_app(Settings())) as client:
            wait_until_ready(client, limit_s=120)
            yield client


@pytest.fixture(scope="module")
def answers(service: TestClient) -> dict[str, dict[str, Any]]:
    """What each family says of each photo of the gallery: family -> file -> answer."""
    found: dict[str, dict[str, Any]] = {family: {} for family in FAMILIES}
    for item in gallery(STATIC):
        data = (STATIC / "gallery" / item["file"]).read_bytes()
        for family in FAMILIES:
            files = {"image": (item["file"], data)}
            answer = service.post("/api/v1/explain", files=files, data={"family": family})
            assert answer.status_code == 200, answer.text
            found[family][item["file"]] = answer.json()
    return found


def test_the_bundled_families_are_plain_se_and_cbam_with_measured_cards(
    service: TestClient,
) -> None:
    answer = service.get("/api/v1/models").json()
    assert {family["name"]: family["models"] for family in answer["families"]} == FAMILIES
    assert [family["name"] for family in answer["families"] if family["default"]] == [DEFAULT]
    for model in answer["models"]:
        assert len(model["classes"]) == {"tiny-imagenet": 200, "imagenet": 1000}[model["family"]]
        assert model["licence"]
        assert model["data"]
        least = {"tiny-imagenet": 0.3, "imagenet": 0.6}[model["family"]]
        assert least < model["metrics"]["val"]["top1"] <= 1


def test_the_command_line_and_the_service_have_one_default_family(
    bundled: Callable[[str], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain, "load", lambda folder, backend: bundled(folder.name))
    assert [model.name for model in explain.default_family()] == FAMILIES[DEFAULT]


def test_the_page_before_a_photo_is_chosen_shows_what_they_make_of_the_first(
    service: TestClient,
) -> None:
    page = service.get("/")
    assert page.status_code == 200
    for name in FAMILIES[DEFAULT]:
        assert f'class="model-column" data-model="{name}"' in page.text


def test_the_page_of_a_family_of_a_thousand_classes_does_not_list_them(
    service: TestClient,
) -> None:
    page = service.get("/", params={"photo": "coffee.jpg", "versus": "cup", "method": "finercam"})
    assert page.status_code == 200
    assert re.search(r'<input[^>]* name="versus"[^>]* value="cup"', page.text), re.findall(
        r'<[^>]*name="versus"[^>]*>', page.text
    )
    labels = service.get("/api/v1/models").json()["models"][0]["classes"]
    options = re.findall(r"<option[^>]*>([^<]*)</option>", page.text)
    assert sum(option in labels for option in options) < 60
    assert len(labels) == 1000
    assert sum(f">{label}<" in page.text or f", {label}" in page.text for label in labels) < 60


@pytest.mark.parametrize("family", FAMILIES)
def test_every_gallery_photo_is_answered_with_live_maps_and_gates(
    answers: dict[str, dict[str, Any]], family: str
) -> None:
    for answer in answers[family].values():
        assert [result["model"] for result in answer["results"]] == FAMILIES[family]
        plain, se, with_cbam = answer["results"]
        assert plain["heatmaps"][0]["map"]["max"] > 0, "its own top class has some evidence"
        assert plain["attention"] == []
        for block in [*se["attention"], *with_cbam["attention"]]:
            assert max(block["channel"]) - min(block["channel"]) > 0.01
        spreads = [
            block["spatial"]["max"] - block["spatial"]["min"] for block in with_cbam["attention"]
        ]
        assert max(spreads) > 0.01, "trained spatial gates prefer some places"


def test_the_gallery_says_who_misses_what_it_shows(answers: dict[str, dict[str, Any]]) -> None:
    found: dict[str, list[str]] = {}
    for item in gallery(STATIC):
        for family in FAMILIES:
            for result in answers[family][item["file"]]["results"]:
                card = available()[result["model"]]
                right = {card.word(label) for label in item["shows"] if label in card.labels}
                if right and result["words"][0]["word"] not in right:
                    found.setdefault(item["file"], []).append(result["model"])
    said = {item["file"]: item["missed_by"] for item in gallery(STATIC) if "missed_by" in item}
    assert said == found


def test_the_gallery_shows_what_it_says() -> None:
    items = list(gallery(STATIC))
    labels = {label for card in available().values() for label in card.labels}
    assert [label for item in items for label in item["shows"] if label not in labels] == []
    assert len(items) >= 20
    assert sum(not item["shows"] for item in items) >= 2, "some show no class at all"
    files = [path for path in (STATIC / "gallery").iterdir() if path.suffix == ".jpg"]
    assert {path.name for path in files} == {item["file"] for item in items}
    assert sum(path.stat().st_size for path in files) < 4_000_000
    for path in files:
        with Image.open(path) as photo:
            assert max(photo.size) <= 1280, path.name


def test_a_cat_is_a_cat(answers: dict[str, dict[str, Any]]) -> None:
    """Whatever its breed."""
    cats = {"tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"}
    for file in ("cat.jpg", "tabby.jpg"):
        for result in answers[DEFAULT][file]["results"]:
            assert result["predictions"][0]["label"] in cats, (file, result["model"])
            likely = [each for each in result["predictions"] if each["label"] in cats]
            assert sum(each["probability"] for each in likely) > 0.5, (file, result["model"])
