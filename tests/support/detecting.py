"""A tiny family of detectors on disk, with weights that nobody trained.

A test file that only reads them uses `pytest_plugins = ["detecting"]`. PYTEST_DONT_REWRITE: see
app_fixtures.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from carding import a_card
from PIL import Image, ImageDraw

from cbam.backbones import build
from cbam.cards.card import Card, write_card
from cbam.cards.detector import (
    DetectorCard,
    frozen_network,
    head_weights,
    write_detector_card,
)
from cbam.detectors import FCOS
from cbam.images.frame import Frame

LABELS = ("red", "blue")
OPTIONS = {"channels": 32, "convs": 1}


def tiny_classifier(folder: Path, attention: str = "cbam") -> Card:
    """A ResNet-18 of 16 channels with random weights, as a model in `folder`."""
    torch.manual_seed(0)
    card = a_card(
        attention=attention,
        backbone_options={"width": 16},
        folder=folder / f"tiny-{attention}",
    )
    network = build("resnet18", attention=attention, num_classes=3, width=16)
    return write_card(card, network.state_dict())


def tiny_detector(
    folder: Path, attention: str = "cbam", classifier: Card | None = None
) -> DetectorCard:
    """A detector that stands on a classifier in `folder`, by default on `tiny_classifier`."""
    classifier = classifier or tiny_classifier(folder, attention)
    torch.manual_seed(1)
    network = FCOS(frozen_network(classifier, {}), len(LABELS), **OPTIONS)  # type: ignore[arg-type]
    torch.nn.init.normal_(network.head.classification_head.cls_logits.weight, std=0.3)
    torch.nn.init.constant_(network.head.classification_head.cls_logits.bias, 0.0)
    card = DetectorCard(
        name=f"tiny-{attention}-things",
        family="things",
        family_title="Things",
        kind="fcos",
        classifier=classifier.name,
        classifier_sha256=classifier.weights_sha256,
        labels=LABELS,
        frame=Frame(64),
        licence="MIT",
        data="none",
        recipe="none",
        weights_sha256="",
        storage="int8",
        options=OPTIONS,
        folder=folder / f"tiny-{attention}-things",
    )
    return write_detector_card(card, head_weights(network))


def tiny_family(folder: Path) -> list[DetectorCard]:
    """A plain, an SE and a CBAM detector."""
    return [tiny_detector(folder, attention) for attention in ("none", "se", "cbam")]


@pytest.fixture(scope="session")
def tiny_detectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with the three detectors and their classifiers."""
    folder = tmp_path_factory.mktemp("detectors")
    tiny_family(folder)
    return folder


def squares(path: Path, count: int, complete: Sequence[bool] | None = None) -> Path:
    """A parquet file of photos with one red or blue square each, and boxes.csv beside it."""
    draw = torch.Generator().manual_seed(0)
    rows, boxes = [], []
    for number in range(count):
        x, y = (int(torch.randint(0, 40, (), generator=draw)) for _ in "xy")
        photo = Image.new("RGB", (96, 64), (90, 90, 90))
        ImageDraw.Draw(photo).rectangle((x, y, x + 23, y + 23), fill=LABELS[number % 2])
        buffer = io.BytesIO()
        photo.save(buffer, "PNG")
        whole = True if complete is None else complete[number]
        rows.append({"name": f"{number}.png", "complete": whole, "image": buffer.getvalue()})
        box = (x / 96, y / 64, (x + 24) / 96, (y + 24) / 64)
        boxes.append(
            {"name": f"{number}.png", "class": LABELS[number % 2]}
            | dict(zip(("x0", "y0", "x1", "y1"), box, strict=True))
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    with path.with_name("boxes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["name", "class", "x0", "y0", "x1", "y1"])
        writer.writeheader()
        writer.writerows(boxes)
    return path
