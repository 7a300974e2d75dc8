"""Gates that no longer answer the photo, against the same network changed by hooks."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from labelling import in_class_folder
from torch import Tensor
from typer.testing import CliRunner

from app.cli.main import app
from cbam.attention import ATTENTION, Gate
from cbam.cards.card import Card, read_card, write_card
from cbam.cards.reliance import reliance
from cbam.data.labelled import Labelled
from cbam.errors import BadData
from cbam.evaluate.card_metrics import measure_gates, measure_held_gates
from cbam.evaluate.gate_values import gate_values, seen
from cbam.evaluate.held_gates import (
    ALL,
    SINGLE_WAYS,
    WAYS,
    Answers,
    evenly,
    hold_kinds,
    hold_one_by_one,
)
from cbam.model import Model

PHOTOS = 9


@pytest.fixture(scope="module")
def photos(make_labelled: Callable[..., list[Labelled]]) -> list[Labelled]:
    return make_labelled(PHOTOS)


def lively(model: Model, photos: list[Labelled]) -> Model:
    """The same model with no favourite class, so that small changes change its answers."""
    with torch.inference_mode():
        logits = torch.cat([model.network(batch.images) for batch in seen(model, photos, [])])
    assert isinstance(model.network.fc, torch.nn.Linear)
    model.network.fc.bias.data -= logits.mean(dim=0)
    return model


@contextmanager
def saying(model: Model, given: dict[str, Tensor]) -> Iterator[None]:
    """The model's own modules say these maps while this lasts: the oracle, independent of fx."""
    with ExitStack() as stack:
        for path, module in model.network.named_modules():
            block, _, _ = path.rpartition(".attention.")
            if isinstance(module, Gate) and (name := f"{block}.{module.kind.name}") in given:
                handle = module.register_forward_hook(
                    lambda _, __, own, value=given[name]: value.expand_as(own)
                )
                stack.callback(handle.remove)
        yield


def hooked_answers(model: Model, photos: list[Labelled], names: list[str], way: str) -> list[int]:
    """Each photo's top class with these gates held, one photo at a time."""
    values = gate_values(model, photos, [])
    found = []
    for index, photo in enumerate(photos):
        means = {name: values.halves[1 - index % 2][name].mean[None] for name in names}
        given = {
            "mean": means,
            "number": {name: mean.mean().view(1, 1, 1, 1) for name, mean in means.items()},
            "open": {name: torch.ones(1, 1, 1, 1) for name in names},
        }[way]
        (batch,) = seen(model, [photo], [])
        with saying(model, given), torch.inference_mode():
            found.append(int(model.network(batch.images).argmax()))
    return found


@pytest.mark.parametrize("attention", ["cbam", "se"])
def test_held_gates_answer_as_the_network_with_hooks(
    attention: str, make_model: Callable[..., Model], photos: list[Labelled]
) -> None:
    model = lively(make_model(attention), photos)
    answers = hold_kinds(model, gate_values(model, photos, []))
    places = model.cut().places
    kinds = {"channel", "spatial", ALL} if attention == "cbam" else {"channel"}
    assert set(answers.held) == {(kind, way) for kind in kinds for way in WAYS}
    assert answers.own.tolist() == hooked_answers(model, photos, [], "mean")
    for (kind, way), top in answers.held.items():
        names = [name for name, place in places.items() if kind in (ALL, place.kind.name)]
        assert top.tolist() == hooked_answers(model, photos, names, way), (kind, way)
    assert len({tuple(top.tolist()) for top in answers.held.values()}) > 1  # it does something


@pytest.mark.parametrize("attention", [name for name, each in ATTENTION.items() if each.gates])
def test_gates_of_every_module_can_be_held(
    attention: str, make_model: Callable[..., Model], photos: list[Labelled]
) -> None:
    model = make_model(attention)
    places = model.cut().places
    values = gate_values(model, photos[:3], [])
    assert values.sums.keys() == places.keys()
    # Steps on the way to a gate are measured, but not held.
    kinds = {place.kind.name for place in places.values() if place.kind.use != "shown"}
    held = {kind for kind, _ in hold_kinds(model, values).held}
    assert held - {ALL} == kinds
    single = {name for name, _ in hold_one_by_one(model, values, 2).held}
    assert single == {name for name, place in places.items() if place.kind.use != "shown"}


def test_one_gate_at_a_time_answers_as_the_network_with_hooks(
    tiny_model: Model, photos: list[Labelled]
) -> None:
    lively(tiny_model, photos)
    answers = hold_one_by_one(tiny_model, gate_values(tiny_model, photos, []))
    places = tiny_model.cut().places
    assert set(answers.held) == {(name, way) for name in places for way in SINGLE_WAYS}
    for name in ("layer1.0.channel", "layer1.0.spatial", "layer2.0.channel", "layer4.1.spatial"):
        for way in SINGLE_WAYS:
            found = answers.held[name, way].tolist()
            assert found == hooked_answers(tiny_model, photos, [name], way), (name, way)
    assert len({tuple(top.tolist()) for top in answers.held.values()}) > 1  # it does something


def test_the_photos_judged_may_be_fewer_than_those_with_the_means(
    tiny_model: Model, photos: list[Labelled]
) -> None:
    values = gate_values(tiny_model, photos, [])
    every = hold_one_by_one(tiny_model, values)
    few = hold_one_by_one(tiny_model, values, 4)
    some = evenly(range(PHOTOS), 4)
    assert few.targets.tolist() == every.targets[some].tolist()
    for key, top in few.held.items():
        assert top.tolist() == every.held[key][some].tolist()


def test_some_of_the_photos_are_evenly_spread() -> None:
    assert evenly(range(9), 4) == [0, 2, 5, 8]
    assert evenly("abc", None) == evenly("abc", 5) == "abc"
    assert list(evenly("abc", 0)) == []


def test_changes_of_accuracy_by_hand() -> None:
    # Two of four right as it is; held, one of them is lost, and another photo's answer changes.
    own, held = np.array([0, 1, 0, 0]), np.array([0, 0, 1, 0])
    found = Answers(np.array([0, 1, 2, 2]), own, {("channel", "mean"): held}).metrics()
    assert found["top1"] == 0.5
    change, low, high = found["channel"]["mean"]
    assert change == -0.25
    assert low < change < high <= 0
    assert found["channel"]["changed"] == 0.5


@pytest.fixture
def folders(tmp_path: Path, photos: list[Labelled], tiny_card: Card) -> Path:
    """Some of the photos as <class folder>/<photo>."""
    return in_class_folder(photos[:4], tmp_path / "val", tiny_card.labels[0])


def test_the_command_writes_the_card_that_the_other_command_shows(
    tiny_card: Card, folders: Path
) -> None:
    command = ["evaluate", str(tiny_card.folder), "--gates", str(folders), "--hold", str(folders)]
    result = CliRunner().invoke(app, [*command, "--one-by-one", "2", "--write"])
    assert result.exit_code == 0, result.output
    assert "photos/s" in result.stderr
    metrics = read_card(tiny_card.folder).metrics
    assert (metrics["gates"]["photos"], metrics["gates_one_by_one"]["photos"]) == (4, 2)
    assert len(metrics["gates"]["all"]["mean"]) == 3
    assert metrics["gates"]["command"] == "cbam-lens evaluate --hold"
    shown = CliRunner().invoke(app, ["models", "gates", str(tiny_card.folder), "--markdown"])
    first, _, *rows = shown.stdout.splitlines()
    assert first.startswith("| gate | mean |")
    assert len(rows) == 16  # eight blocks with two gates each
    assert "not measured" not in shown.stdout


def test_a_model_without_gates_is_passed_over(
    make_model: Callable[..., Model], folders: Path
) -> None:
    plain = make_model("none")
    assert measure_gates(plain, folders) == ({}, {})
    assert measure_held_gates(plain, folders) == {}


def test_one_photo_is_too_few(tiny_model: Model, folders: Path) -> None:
    for extra in sorted((folders / tiny_model.card.labels[0]).iterdir())[1:]:
        extra.unlink()
    with pytest.raises(BadData, match="One photo"):
        measure_held_gates(tiny_model, folders)


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ([-0.117, -0.13, -0.1], "In this network the answer depends on"),
        ([-0.003, -0.005, -0.001], "hardly depends on"),  # surely a loss, but a small one
        ([0.013, 0.0, 0.02], "hardly depends on"),
        ([-0.02, -0.06, 0.02], "Too few photos were asked to tell whether"),
    ],
)
def test_a_sentence_says_whether_the_answer_depends_on_the_gates(
    interval: list[float], said: str, tiny_card: Card
) -> None:
    assert reliance(tiny_card) == ""  # not measured
    gates = {"photos": 1000, "top1": 0.5, "channel": {"mean": [0, 0, 0]}, "all": {"mean": interval}}
    card = write_card(replace(tiny_card, metrics={"gates": gates}))
    sentence = reliance(card)
    assert said in sentence
    assert f"{abs(interval[0]) * 100:.1f} points" in sentence
    assert "1,000 photos" in sentence
