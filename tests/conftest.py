"""What many tests need: tiny networks with lively weights, models around them, and photos."""

import functools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

# One thread for each pass, in all threads of this process and in those that tests start: for tiny
# networks, more mostly wait for each other. OpenMP reads it once, when PyTorch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
from building import lively
from carding import a_card
from PIL import Image
from torch import nn

import cbam
from cbam.cards.card import Card, write_card
from cbam.data.labelled import Labelled
from cbam.images.preprocess import Preprocess
from cbam.model import Model

# Services of the tests run in PyTorch, so that their answers are the same to the bit on every
# machine and none of them compiles anything. test_backends.py and test_app_engine.py test "auto".
os.environ.setdefault("CBAM_LENS_BACKEND", "eager")

LABELS = ("tench", "church", "parachute", "golf ball", "French horn")


@pytest.fixture(scope="session")
def make_network() -> Callable[..., nn.Module]:
    """A tiny network in eval mode, as good as trained: `make_network("se", seed=3)`."""

    def make(
        attention: str = "cbam", backbone: str = "resnet18", seed: int = 0, **options: Any
    ) -> nn.Module:
        torch.manual_seed(seed)
        options = {"width": 8, "num_classes": len(LABELS), **options}
        return lively(cbam.build(backbone, attention=attention, **options))

    return make


@pytest.fixture(scope="session")
def make_model(make_network: Callable[..., nn.Module]) -> Callable[..., Model]:
    """A tiny network with a card: `make_model("cbam", size_px=64)`."""

    def make(
        attention: str = "cbam",
        size_px: int = 64,
        labels: tuple[str, ...] = LABELS,
        fit: Any = "stretch",
        backend: str = "eager",
        **options: Any,
    ) -> Model:
        card = a_card(
            attention=attention,
            family_title="Tiny networks",
            labels=labels,
            preprocess=Preprocess(size_px, fit),
            data="none: random weights",
            storage="float32",
        )
        network = make_network(attention, num_classes=len(labels), **options)
        return Model(card, network, backend)

    return make


@pytest.fixture(scope="session")
def bundled() -> Callable[[str], Model]:
    """A model that comes with the project, by name; each is loaded once a run."""
    return functools.cache(cbam.load)


@pytest.fixture(scope="session")
def make_photo() -> Callable[..., Image.Image]:
    """A smooth random RGB picture: `make_photo(seed, width, height)`."""

    def make(seed: int = 0, width: int = 90, height: int = 70) -> Image.Image:
        blobs = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        return Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC)

    return make


@pytest.fixture(scope="session")
def make_labelled(
    tmp_path_factory: pytest.TempPathFactory, make_photo: Callable[..., Image.Image]
) -> Callable[..., list[Labelled]]:
    """Small photos on disk, with a class and the same boxes each: `make_labelled(9, box)`."""

    def make(count: int, *boxes: tuple[float, float, float, float]) -> list[Labelled]:
        folder = tmp_path_factory.mktemp("photos")
        found = []
        for index in range(count):
            path = folder / f"{index}.png"
            make_photo(index, 48, 40).save(path)
            found.append(Labelled(path.name, path, index % len(LABELS), boxes))
        return found

    return make


@pytest.fixture
def tiny_model(make_model: Callable[..., Model]) -> Model:
    """A tiny CBAM network with a card, in memory."""
    return make_model("cbam")


@pytest.fixture
def tiny_card(tiny_model: Model, tmp_path: Path) -> Card:
    """The same as a folder on disk that a test may spoil."""
    card = replace(tiny_model.card, backbone_options={"width": 8}, folder=tmp_path / "models" / "m")
    return write_card(card, tiny_model.network.state_dict())
