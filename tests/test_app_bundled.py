"""The service as it comes: the bundled models on the bundled photos."""

from collections.abc import Iterator

import pytest
from app_fixtures import wait_until_ready
from fastapi.testclient import TestClient

from app.main import bundled, create_app
from app.routes.pages import gallery
from app.settings import Settings

pytest_plugins = ["app_fixtures"]

FAMILY = ["resnet18-imagenette", "resnet18-se-imagenette", "resnet18-cbam-imagenette"]


@pytest.fixture(scope="module")
def service() -> Iterator[TestClient]:
    """The app with the models that travel with it."""
    with TestClient(create_app(Settings())) as client:
        wait_until_ready(client, limit_s=60)
        yield client


def test_the_bundled_family_is_plain_se_and_cbam_with_measured_cards(service: TestClient) -> None:
    answer = service.get("/api/v1/models").json()
    (family,) = [each for each in answer["families"] if each["default"]]
    assert family["models"] == FAMILY
    for model in answer["models"]:
        if model["name"] in FAMILY:
            assert len(model["classes"]) == 10
            assert model["licence"]
            assert model["data"]
            assert 0.8 < model["metrics"]["val"]["top1"] <= 1


def test_the_page_before_a_photo_is_chosen_shows_what_they_make_of_the_first(
    service: TestClient,
) -> None:
    page = service.get("/")
    assert page.status_code == 200
    for name in FAMILY:
        assert f'class="model-column" data-model="{name}"' in page.text


def test_every_gallery_photo_is_answered_with_live_maps_and_gates(service: TestClient) -> None:
    static = bundled("static")
    for item in gallery(static):
        data = (static / "gallery" / item["file"]).read_bytes()
        files = {"image": (item["file"], data)}
        answer = service.post("/api/v1/explain", files=files).json()
        assert [result["model"] for result in answer["results"]] == FAMILY
        plain, se, with_cbam = answer["results"]
        assert plain["heatmaps"][0]["map"]["max"] > 0, "its own top class has some evidence"
        assert plain["attention"] == []
        for block in [*se["attention"], *with_cbam["attention"]]:
            assert max(block["channel"]) - min(block["channel"]) > 0.01
        spreads = [
            block["spatial"]["max"] - block["spatial"]["min"] for block in with_cbam["attention"]
        ]
        assert max(spreads) > 0.01, "trained spatial gates prefer some places"


def test_they_name_what_they_know(service: TestClient) -> None:
    """Near relatives of their classes: a church tower, a fish of the tench's size."""
    static = bundled("static")
    for file, label in (("bell-tower.jpg", "church"), ("perch.jpg", "tench")):
        data = (static / "gallery" / file).read_bytes()
        answer = service.post("/api/v1/predict", files={"image": (file, data)}).json()
        said = [result["predictions"][0]["label"] for result in answer["results"]]
        assert said.count(label) >= 2, (file, said)
