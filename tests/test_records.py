"""Growing by a file and a line: toys that nobody but their record knows work everywhere."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from app_fixtures import wait_until_ready
from carding import a_card
from fastapi.testclient import TestClient
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from app.cli import main as cli
from app.main import create_app
from app.settings import Settings
from cbam.attention import ATTENTION, PLAIN, Attention, Gate, Kind
from cbam.backbones import BACKBONES, Backbone, blocks
from cbam.cards.card import write_card
from cbam.images.preprocess import Preprocess
from cbam.model import Model, load
from cbam.sheets import attention_sheet, compare_sheet
from cbam.trace.cut import cut_at

LABELS = ("square", "disc", "stripe")


class VolumeGate(Gate):
    """A value for every channel at every place: (N, C, H, W)."""

    kind = Kind("volume", "CHW", "what and where", "has one value per channel and place.")

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.mix(x))


class Toy(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.full = VolumeGate(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.full(x)


class Steps(nn.Module):
    """A backbone whose blocks have names of their own."""

    def __init__(self, attention: str = PLAIN, num_classes: int = 3, **_: Any) -> None:
        super().__init__()
        self.up = nn.Conv2d(3, 6, 3, 4, 1)
        self.first = self._step(attention)
        self.second = self._step(attention)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classify = nn.Linear(6, num_classes)
        self.block_names = ["first", "second"]

    def _step(self, attention: str) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(6, 6, 3, 1, 1), ATTENTION[attention].make(6), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(self.up(x)))
        return self.classify(torch.flatten(self.pool(x), 1))


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line each."""
    monkeypatch.setitem(
        ATTENTION,
        "toy",
        Attention(Toy, "Toy", "a gate for everything", "One toys.", (VolumeGate.kind,), "Toying."),
    )
    monkeypatch.setitem(BACKBONES, "steps", Backbone(Steps, "Steps", "https://example.org"))


@pytest.fixture
def models(toys: None, tmp_path: Path) -> Path:
    """A family of toys on disk: plain and with the toy attention."""
    folder = tmp_path / "models"
    for attention in (PLAIN, "toy"):
        torch.manual_seed(1)
        name = f"steps-{attention}"
        card = a_card(
            name=name,
            family="toys",
            family_title="Toys",
            backbone="steps",
            attention=attention,
            labels=LABELS,
            preprocess=Preprocess(32),
            storage="float32",
            folder=folder / name,
        )
        write_card(card, card.network().state_dict())
    return folder


@pytest.fixture
def model(models: Path) -> Model:
    return load(models / "steps-toy")


@pytest.fixture
def client(models: Path) -> Iterator[TestClient]:
    app = create_app(Settings(models_folder=models, log_style="off", backend="eager"))
    with TestClient(app) as made:
        wait_until_ready(made)
        yield made


@pytest.fixture
def photo(make_photo: Callable[..., Image.Image], tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    make_photo().save(path)
    return path


def test_a_toy_is_cut_by_its_own_blocks_and_named_by_its_own_kind(model: Model):
    assert blocks(model.network) == ["first", "second"]
    cut = cut_at(model.network, "second")
    assert list(cut.places) == ["first.volume", "second.volume"]
    _, maps = cut.run_trunk(torch.randn(2, 3, 32, 32))
    assert maps["first.volume"].shape == (2, 6, 8, 8)


def test_a_toy_is_explained_with_its_whole_gate(model: Model, photo: Path):
    explanation = model.explain(photo, layer="first")
    gate = explanation.attention[1].gates["volume"]
    assert [block.block for block in explanation.attention] == ["first", "second"]
    assert gate.values.shape == (6, 8, 8)
    np.testing.assert_allclose(gate.vector, gate.values.mean(axis=(1, 2)))
    np.testing.assert_allclose(gate.plane, gate.values.mean(axis=0))
    assert explanation.attention[0].channel is None
    assert explanation.attention[0].spatial is None


def test_a_toy_is_drawn_on_the_sheets(model: Model, photo: Path):
    explanation = model.explain(photo)
    sheet = attention_sheet(explanation, tile_px=90)
    # Head, the plane over the view, the bars, words below each: one line, then two.
    assert sheet.size == (420, 48 + 90 + 23 + 60 + 38 + 10)
    pixels = np.asarray(sheet)
    assert len(np.unique(pixels[48:138, 10:100].reshape(-1, 3), axis=0)) > 50  # the view, coloured
    assert (pixels[161:221, 10:100] == (33, 145, 140)).all(axis=2).any()  # bars
    assert compare_sheet([explanation]).width > 600


def test_a_toy_is_in_the_api(client: TestClient, photo: Path):
    listed = client.get("/api/v1/models").json()["models"][1]
    assert (listed["title"], listed["phrase"]) == ("Toy-Steps", "a gate for everything")
    assert listed["gates"] == [vars(VolumeGate.kind)]
    assert listed["layers"] == listed["blocks"] == ["first", "second"]
    answer = client.post("/api/v1/explain", files={"image": photo.read_bytes()}).json()
    plain, toy = answer["results"]
    assert plain["attention"] == []
    block = toy["attention"][0]
    assert (block["block"], block["channel"], block["spatial"]) == ("first", None, None)
    assert block["volume"]["shape"] == [6, 8, 8]
    sheet = client.post(
        "/api/v1/attention", files={"image": photo.read_bytes()}, headers={"Accept": "image/png"}
    )
    assert sheet.headers["content-type"] == "image/png"


def test_a_toy_is_on_the_page(client: TestClient, photo: Path):
    page = client.post("/", files={"image": photo.read_bytes()}).text
    for words in ("Toy-Steps", "a gate for everything", "One toys.", "Toying.", "what and where"):
        assert words in page


def test_a_toy_is_listed_by_the_command(models: Path, monkeypatch: pytest.MonkeyPatch, photo: Path):
    monkeypatch.setattr("cbam.cards.families.models_folder", lambda: models)
    listed = CliRunner().invoke(cli.app, ["models", "list", "--markdown"]).output
    assert "| steps-toy | toy | 3 |" in listed
    said = CliRunner().invoke(cli.app, ["explain", str(photo)]).output
    assert "steps-toy" in said


def test_a_toy_is_trained_by_a_recipe(toys: None, make_photo: Callable[..., Any], tmp_path: Path):
    for number, label in enumerate(LABELS):
        (tmp_path / "data" / label).mkdir(parents=True)
        for seed in range(4):
            make_photo(4 * number + seed, 40, 40).save(tmp_path / "data" / label / f"{seed}.png")
    recipe = tmp_path / "toys.toml"
    labels = ", ".join(f'{label} = "{label}"' for label in LABELS)
    recipe.write_text(
        'family = "toys"\ntitle = "Toys"\nbackbone = "steps"\nattention = ["none", "toy"]\n'
        f'labels = {{ {labels} }}\ndata = "random"\nlicence = "MIT"\nbatch_size = 4\n'
        'precision = "no"\nwarmup_epochs = 0\nphases = [{ image_size_px = 32, epochs = 1 }]\n',
        encoding="utf-8",
    )
    arguments = ["train", str(recipe), "--data", str(tmp_path / "data"), "--workers", "0"]
    arguments += ["--runs", str(tmp_path / "runs"), "--models", str(tmp_path / "trained")]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    trained = load(tmp_path / "trained" / "steps-toy-toys")
    assert trained.explain(make_photo()).attention[1].gates["volume"].values.shape[0] == 6


def test_no_template_and_no_script_knows_a_kind_of_attention_by_its_name():
    root = Path(__file__).parent.parent
    files = [*(root / "templates").glob("*.html"), *(root / "static" / "js").rglob("*.js")]
    names = "|".join(name for name, record in ATTENTION.items() if record.gates)
    for file in files:
        assert not re.search(rf"[\"']({names})[\"']", file.read_text(encoding="utf-8")), file
