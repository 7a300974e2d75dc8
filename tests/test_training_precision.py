"""`precision = "auto"`: the faster one, measured once for a family and kept by a resumed run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from test_training import COLOURS, Killed, dataset, kill_after, photos, recipe  # noqa: F401

from cbam.training import loop, precision
from cbam.training.data import InMemory
from cbam.training.precision import chosen_precision, images_per_s
from cbam.training.recipe import Recipe

SLOW_BF16 = {"bf16": 65.0, "no": 137.0}
SLOW_FLOAT32 = {"bf16": 137.0, "no": 65.0}
AUTO = {"precision": "auto", "phases": [{"image_size_px": 32, "epochs": 2}]}


@pytest.fixture(autouse=True)
def other_precisions_may_be_used() -> Iterator[None]:
    """Accelerate keeps one precision for the whole process."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def measured(monkeypatch: pytest.MonkeyPatch, speeds: dict[str, float]) -> list[str]:
    """Let the measurement find these speeds; of which members it was asked."""
    asked: list[str] = []

    def measure(recipe: Recipe, attention: str, device: torch.device) -> dict[str, float]:
        asked.append(attention)
        return speeds

    monkeypatch.setattr(precision, "images_per_s", measure)
    return asked


def test_auto_is_what_a_recipe_has_by_default() -> None:
    assert Recipe.model_fields["precision"].default == "auto"


@pytest.mark.parametrize(("speeds", "faster"), [(SLOW_BF16, "no"), (SLOW_FLOAT32, "bf16")])
def test_the_faster_one_is_taken_and_both_speeds_are_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    speeds: dict[str, float],
    faster: str,
) -> None:
    measured(monkeypatch, speeds)
    assert chosen_precision(recipe(**AUTO), "none", tmp_path / "a", None) == faster
    said = capsys.readouterr().out
    assert f"bf16 {speeds['bf16']:.0f} images/s" in said
    assert f"float32 {speeds['no']:.0f} images/s" in said
    assert f"precision {'float32' if faster == 'no' else faster}," in said


def test_the_first_members_choice_holds_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = recipe(**AUTO)
    asked = measured(monkeypatch, SLOW_BF16)
    assert chosen_precision(given, "none", tmp_path / "plain", None) == "no"
    asked_later = measured(monkeypatch, SLOW_FLOAT32)
    assert chosen_precision(given, "se", tmp_path / "se", None) == "no"
    assert "float32, as in" in capsys.readouterr().out
    assert (asked, asked_later) == (["none"], [])
    kept = json.loads((tmp_path / "squares-precision.json").read_text())
    assert kept == {"precision": "no", "images_per_s": SLOW_BF16}
    other = recipe(**AUTO, family="circles")
    assert chosen_precision(other, "none", tmp_path / "circles", None) == "bf16"


def test_a_checkpoints_choice_goes_before_all_else_and_becomes_the_familys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = measured(monkeypatch, SLOW_BF16)
    assert chosen_precision(recipe(**AUTO), "none", tmp_path / "a", "bf16") == "bf16"
    assert chosen_precision(recipe(**AUTO), "se", tmp_path / "b", None) == "bf16"
    assert not asked


def test_a_precision_that_the_recipe_names_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = measured(monkeypatch, SLOW_BF16)
    assert chosen_precision(recipe(precision="bf16"), "none", tmp_path / "a", None) == "bf16"
    assert not asked
    assert not list(tmp_path.iterdir())


def test_a_resumed_training_keeps_the_precision_that_it_began_with(
    dataset: InMemory,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = recipe(**AUTO)
    used: list[str] = []
    accelerator = loop.Accelerator

    def watched(mixed_precision: str) -> Any:
        used.append(mixed_precision)
        return accelerator(mixed_precision=mixed_precision)

    monkeypatch.setattr(loop, "Accelerator", watched)
    measured(monkeypatch, SLOW_FLOAT32)
    with monkeypatch.context() as patch:
        kill_after(patch, 18)  # in the second epoch of 12 photos
        with pytest.raises(Killed):
            loop.train(given, "cbam", dataset, tmp_path / "run", workers=0)
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["precision"] == "bf16"
    (tmp_path / "squares-precision.json").unlink()
    asked = measured(monkeypatch, SLOW_BF16)  # another machine would choose otherwise
    loop.train(given, "cbam", dataset, tmp_path / "run", workers=0)
    assert used == ["bf16", "bf16"]
    assert not asked


# Seconds of each step, in turn bf16 and float32. The first of each is not timed.
@pytest.mark.parametrize(
    ("seconds", "speeds"),
    [
        ([4, 4, 4, 2, 2, 1, 2, 4], {"bf16": 2.0, "no": 4.0}),  # of 4 photos a batch
        ([16, 4, 8, 2], {"bf16": 0.5, "no": 2.0}),  # more steps would take too long
    ],
)
def test_speeds_are_those_of_the_fastest_step_in_each_precision(
    monkeypatch: pytest.MonkeyPatch, seconds: list[float], speeds: dict[str, float]
) -> None:
    now, lasting = [0.0], iter(seconds)
    usual = torch.optim.SGD.step

    def step(self: torch.optim.SGD, *given: Any) -> Any:
        now[0] += next(lasting)
        return usual(self, *given)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    assert images_per_s(recipe(), "cbam", torch.device("cpu"), lambda: now[0]) == speeds
    assert next(lasting, None) is None


def test_measuring_leaves_the_random_numbers_as_they_were() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    images_per_s(recipe(), "none", torch.device("cpu"))
    assert torch.equal(torch.rand(4), expected)
