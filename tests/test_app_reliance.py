"""The page and the API say whether a network needs its gates, if that was measured."""

from dataclasses import replace
from pathlib import Path

from app_fixtures import encoded, photo, wait_until_ready, write_family
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from cbam.cards.card import read_card, write_card
from cbam.cards.reliance import reliance

pytest_plugins = ["app_fixtures"]


def test_what_was_measured_of_the_gates_is_said_below_them(tmp_path: Path) -> None:
    folder = write_family(tmp_path) / "tiny-cbam"
    gates = {"photos": 40, "top1": 0.5, "all": {"mean": [-0.1, -0.2, -0.05]}}
    card = write_card(replace(read_card(folder), metrics={"gates": gates}))
    sentence = reliance(card)
    assert sentence
    with TestClient(create_app(Settings(models_folder=tmp_path))) as client:
        wait_until_ready(client)
        models = client.get("/api/v1/models").json()["models"]
        said = {each["name"]: each["reliance"] for each in models}
        assert said == {"tiny-none": "", "tiny-se": "", "tiny-cbam": sentence}
        page = client.post("/", files={"image": ("a.jpg", encoded(photo()))}).text
    _, _, cbam = page.partition('<section class="gates" data-model="tiny-cbam"')
    cbam, _, se = cbam.partition('<section class="gates" data-model="tiny-se"')
    assert sentence in cbam
    assert "reliance" not in se  # not measured, so nothing is said
