"""The service as it comes: the bundled models on the bundled photos."""

from collections.abc import Iterator

import pytest
from app_fixtures import wait_until_ready
from fastapi.testclient import TestClient

from app.cli.explain import default_family
from app.main import bundled, create_app
from app.routes.pages import gallery
from app.settings import Settings

pytest_plugins = ["app_fixtures"]

FAMILIES = {
    name: [f"resnet18-{name}", f"resnet18-se-{name}", f"resnet18-cbam-{name}"]
    for name in ("tiny-imagenet", "imagenette")
}
DEFAULT = "tiny-imagenet"


@pytest.fixture(scope="module")
def service() -> Iterator[TestClient]:
    """The app with the models that travel with it."""
    with TestClient(create_app(Settings())) as client:
        wait_until_ready(client, limit_s=60)
        yield client


def test_the_bundled_families_are_plain_se_and_cbam_with_measured_cards(
    service: TestClient,
) -> None:
    answer = service.get("/api/v1/models").json()
    assert {family["name"]: family["models"] for family in answer["families"]} == FAMILIES
    assert [family["name"] for family in answer["families"] if family["default"]] == [DEFAULT]
    for model in answer["models"]:
        assert len(model["classes"]) == {"tiny-imagenet": 200, "imagenette": 10}[model["family"]]
        assert model["licence"]
        assert model["data"]
        least = {"tiny-imagenet": 0.3, "imagenette": 0.8}[model["family"]]
        assert least < model["metrics"]["val"]["top1"] <= 1


def test_the_command_line_and_the_service_have_one_default_family() -> None:
    assert [model.name for model in default_family()] == FAMILIES[DEFAULT]


def test_the_page_before_a_photo_is_chosen_shows_what_they_make_of_the_first(
    service: TestClient,
) -> None:
    page = service.get("/")
    assert page.status_code == 200
    for name in FAMILIES[DEFAULT]:
        assert f'class="model-column" data-model="{name}"' in page.text


@pytest.mark.parametrize("family", FAMILIES)
def test_every_gallery_photo_is_answered_with_live_maps_and_gates(
    service: TestClient, family: str
) -> None:
    static = bundled("static")
    for item in gallery(static):
        data = (static / "gallery" / item["file"]).read_bytes()
        files = {"image": (item["file"], data)}
        answer = service.post("/api/v1/explain", files=files, data={"family": family}).json()
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


def test_the_gallery_says_who_misses_what_it_shows(service: TestClient) -> None:
    static = bundled("static")
    classes = {
        model["name"]: model["classes"] for model in service.get("/api/v1/models").json()["models"]
    }
    found: dict[str, list[str]] = {}
    for item in gallery(static):
        data = (static / "gallery" / item["file"]).read_bytes()
        for family in FAMILIES:
            answer = service.post(
                "/api/v1/predict", files={"image": (item["file"], data)}, data={"family": family}
            ).json()
            for result in answer["results"]:
                right = set(item["shows"]) & set(classes[result["model"]])
                if right and result["predictions"][0]["label"] not in right:
                    found.setdefault(item["file"], []).append(result["model"])
    said = {item["file"]: item["missed_by"] for item in gallery(static) if "missed_by" in item}
    assert said == found


def test_the_ten_classes_family_names_relatives_of_what_it_knows(service: TestClient) -> None:
    """A church tower, a fish of the tench's size."""
    static = bundled("static")
    for file, label in (("bell-tower.jpg", "church"), ("perch.jpg", "tench")):
        data = (static / "gallery" / file).read_bytes()
        answer = service.post(
            "/api/v1/predict",
            files={"image": (file, data)},
            data={"family": "imagenette"},
        ).json()
        said = [result["predictions"][0]["label"] for result in answer["results"]]
        assert said.count(label) >= 2, (file, said)
