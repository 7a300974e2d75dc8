"""Temperatures, thresholds for photos of other things, and what is shown of both."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cbam.cards.card import Card, write_card
from cbam.data.labelled import other_photos
from cbam.errors import BadCard, BadData, MissingFile
from cbam.evaluate.calibration import (
    OWN_FLAGGED,
    calibrate,
    calibration_error,
    chance_error,
    tell_strangers,
    temperature,
)
from cbam.evaluate.card_metrics import Measured, _fit_threshold, measure_model
from cbam.explain.explanation import Prediction
from cbam.explain.verdict import Verdict, counted, either, verdict_on
from cbam.model import Model


def overconfident(photos: int, by: float, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Logits (photos, classes), `by` times too large, and classes drawn by the true ones."""
    random = torch.Generator().manual_seed(7)
    logits = 2 * torch.randn(photos, classes, generator=random)
    targets = torch.multinomial(logits.softmax(dim=1), 1, generator=random)[:, 0]
    return logits * by, targets


def test_calibration_is_the_gap_between_being_sure_and_being_right() -> None:
    # Two photos, each answered with 0.9 for class 0; one of them is right: |0.5 - 0.9| = 0.4.
    scores = torch.log(torch.tensor([[0.9, 0.1], [0.9, 0.1]]))
    assert calibration_error(scores, torch.tensor([0, 1])) == pytest.approx(0.4, abs=1e-6)
    # 0.9 and right, 0.6 and wrong, in bins of their own: (0.1 + 0.6) / 2.
    scores = torch.log(torch.tensor([[0.9, 0.1], [0.6, 0.4]]))
    assert calibration_error(scores, torch.tensor([0, 1])) == pytest.approx(0.35, abs=1e-6)
    # Always sure and always right: no gap.
    sure = torch.tensor([[100.0, 0.0], [0.0, 100.0]])
    assert calibration_error(sure, torch.tensor([0, 1])) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("by", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_made_logits_too_large(by: float) -> None:
    logits, targets = overconfident(6000, by)
    assert temperature(logits, targets) == pytest.approx(by, rel=0.06)


def test_a_temperature_is_judged_on_photos_that_it_was_not_fitted_on() -> None:
    logits, targets = overconfident(4000, 3.0)
    found = calibrate(logits, targets)
    assert found.photos == 4000
    assert found.before > 0.15
    assert found.after < 0.03
    assert calibration_error(logits, targets) == found.before  # nothing was changed
    # Halves of which one is always right and one always wrong: fitting on the photos that are
    # judged would give each half a small error; the other half's temperature cannot.
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    scores = torch.tensor([[1.0, 0.0]]).repeat(100, 1)
    halves = torch.zeros(100, dtype=torch.long)
    halves[order[:50]] = 1
    assert calibrate(scores, halves).after > 0.4


def test_what_chance_alone_adds_to_the_error_is_told() -> None:
    # Exact probabilities: what calibration_error finds on fresh draws is what chance_error says.
    logits, _ = overconfident(200, 1.0)
    by_chance, up_to = chance_error(logits)
    random = torch.Generator().manual_seed(1)
    errors = [
        calibration_error(logits, torch.multinomial(logits.softmax(1), 1, generator=random)[:, 0])
        for _ in range(200)
    ]
    assert by_chance == pytest.approx(sum(errors) / len(errors), rel=0.08)
    assert sum(error > up_to for error in errors) / len(errors) == pytest.approx(0.05, abs=0.05)
    assert chance_error(logits.repeat(25, 1))[0] < by_chance / 3  # 25 times the photos: a fifth
    assert chance_error(torch.tensor([[100.0, 0.0]])) == (0, 0)  # always right: no chance in it


def test_one_photo_is_too_few_to_fit_and_judge() -> None:
    with pytest.raises(BadData, match="halves"):
        calibrate(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))


def test_the_threshold_flags_one_in_twenty_of_the_models_own_photos() -> None:
    random = torch.Generator().manual_seed(3)
    own = torch.randn(4000, 3, generator=random).cumsum(dim=1) + 6
    other = torch.randn(500, 3, generator=random).cumsum(dim=1) + 4
    found = tell_strangers(own, other)
    assert (found.photos, found.other_photos) == (4000, 500)
    assert float((own.amax(dim=1) < found.known_from).float().mean()) == pytest.approx(
        OWN_FLAGGED, abs=0.002
    )
    assert found.own_flagged == pytest.approx(OWN_FLAGGED, abs=0.01)
    assert found.others_flagged == float((other.amax(dim=1) < found.known_from).double().mean())
    assert found.others_flagged > 2 * OWN_FLAGGED


def test_the_auc_by_hand() -> None:
    # Largest logits 3, 2 against 2, 1: of four pairs three in order and one tie, (3 + 0.5) / 4.
    own, other = torch.tensor([[3.0], [2.0]]), torch.tensor([[2.0], [1.0]])
    assert tell_strangers(own, other).auc == pytest.approx(3.5 / 4)


def test_the_cards_temperature_is_in_every_probability_and_in_no_map(
    tiny_model: Model, make_photo: Callable[..., Image.Image]
) -> None:
    photo = make_photo()
    warm = Model(replace(tiny_model.card, temperature=2.0), tiny_model.network)
    plain, scaled = (each.explain(photo, "church") for each in (tiny_model, warm))
    (logits,) = tiny_model.network(tiny_model.card.preprocess(photo)[None])
    expected = (logits / 2).softmax(dim=0)
    for each in (*scaled.predictions, *scaled.words, scaled.target):
        assert each.probability == pytest.approx(float(expected[each.index]), abs=1e-5)
    assert scaled.target.probability != pytest.approx(plain.target.probability, abs=1e-3)
    np.testing.assert_array_equal(scaled.heatmap, plain.heatmap)


def test_a_photo_is_flagged_if_its_largest_logit_is_below_the_cards_threshold(
    tiny_model: Model, make_photo: Callable[..., Image.Image]
) -> None:
    photo = make_photo()
    largest = float(tiny_model.network(tiny_model.card.preprocess(photo)[None]).max())
    for known_from, flagged in ((largest + 0.01, True), (largest - 0.01, False), (None, False)):
        card = replace(tiny_model.card, known_from=known_from, temperature=3.0)
        assert Model(card, tiny_model.network).explain(photo).none_of_these is flagged


def test_a_card_keeps_its_temperature_and_threshold(tiny_card: Card) -> None:
    assert (tiny_card.temperature, tiny_card.known_from) == (1.0, None)
    written = write_card(replace(tiny_card, temperature=0.8, known_from=7.25))
    assert (written.temperature, written.known_from) == (0.8, 7.25)
    with pytest.raises(BadCard, match="temperature"):
        write_card(replace(tiny_card, temperature=0.0))


@pytest.fixture
def photos(tmp_path: Path, tiny_model: Model) -> Path:
    """`val`: twelve photos of two classes; `others`: four photos, some in a folder."""
    names = [f"val/{label}/{index}" for label in tiny_model.card.labels[:2] for index in range(6)]
    for seed, name in enumerate((*names, "others/a", "others/b", "others/deep/c", "others/deep/d")):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((64, 64)).save(path)
    return tmp_path


def test_what_was_fitted_goes_on_the_card(photos: Path, tiny_model: Model) -> None:
    assert len(other_photos(photos / "others")) == 4
    found = measure_model(
        tiny_model, photos / "val", None, None, None, photos / "others", with_temperature=True
    )
    calibration, strangers = (found.metrics[name] for name in ("calibration", "none_of_these"))
    assert calibration["before"] == found.metrics["val"]["calibration_error"]
    assert (strangers["photos"], strangers["other_photos"]) == (12, 4)
    assert found.fitted["temperature"] == calibration["temperature"]
    assert calibration["command"]
    assert strangers["command"]
    with pytest.raises(MissingFile, match="No photos in"):
        other_photos(photos / "nothing")


@pytest.mark.parametrize(("lower", "useful"), [(0.0, False), (3.0, True)])
def test_a_threshold_that_tells_nothing_is_not_put_on_the_card(lower: float, useful: bool) -> None:
    own = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    measured = Measured()
    _fit_threshold(measured, own, own - lower)
    assert measured.metrics["none_of_these"]["other_photos"] == 400
    assert (measured.fitted["known_from"] is not None) == useful


@pytest.mark.parametrize(
    ("tops", "flags", "headline", "warning"),
    [
        ([("cat", 0.9), ("cat", 0.2)], [False, True], "Both say cat", ""),
        (
            [("cat", 0.9), ("cat", 0.2), ("cat", 0.2)],
            [True, True, False],
            "All three say cat",
            "This may be none of the 1,000 classes that they know.",
        ),
        ([("cat", 0.5), ("dog", 0.4)], [False] * 2, "They disagree: cat or dog?", ""),
        ([("a", 0.4), ("b", 0.4), ("c", 0.4)], [False] * 3, "They are not sure: a, b or c?", ""),
        ([("a", 0.4), ("a", 0.4)], [False] * 2, "They are not sure: perhaps a", ""),
        (
            [("a", 0.4)],
            [True],
            "It is not sure: perhaps a",
            "This may be none of the 1,000 classes that it knows.",
        ),
        ([("a", 0.6)], [False], "It says a", ""),
    ],
)
def test_the_verdict_in_one_sentence(
    tops: list[tuple[str, float]], flags: list[bool], headline: str, warning: str
) -> None:
    found: Verdict = verdict_on([Prediction(0, *top) for top in tops], flags)
    assert found.headline == headline
    assert found.warning(1000) == warning
    assert found.none_of_these is bool(warning)


def test_numbers_and_choices_in_words() -> None:
    numbers = {0: "no", 3: "three", 12: "twelve", 13: "13", 1000: "1,000"}
    assert [counted(number) for number in numbers] == [*numbers.values()]
    assert [either(each) for each in (("a",), ("a", "b"), ("a", "b", "c"))] == [
        "a",
        "a or b",
        "a, b or c",
    ]
