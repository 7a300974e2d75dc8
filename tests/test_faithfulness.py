"""Deletion, insertion, average drop and ROAD: by hand, and beside the grad-cam package."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cbam.errors import BadOption, OptionClash, UnknownName
from cbam.evaluate import faithfulness
from cbam.evaluate.card_metrics import Measured
from cbam.evaluate.examine import Exam, Examined, examine, examine_all
from cbam.evaluate.faithfulness import (
    FILLS,
    Confidence,
    Curves,
    Order,
    Trial,
    area,
    confidence,
    curves,
    ranks,
    replaced,
    road,
    score_of,
)
from cbam.evaluate.faithfulness_metrics import faithfulness_against, measure_faithfulness
from cbam.explain.explanation import Explanation
from cbam.model import Model
from cbam.render import enlarged, scaled
from cbam.slices import Done, finished, next_slice

SIDE = 16


def picture(seed: int = 0) -> Tensor:
    return torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def left_half(images: Tensor) -> Tensor:
    """A network that knows one thing: how bright the left half is, from 0 to 1."""
    return images[:, :, :, : SIDE // 2].mean(dim=(1, 2, 3))


def bright_left() -> Tensor:
    image = torch.zeros(3, SIDE, SIDE)
    image[:, :, : SIDE // 2] = 1
    return image


LEFT = np.array([[1.0, 1.0, 0.0, 0.0]], dtype=np.float32).repeat(4, axis=0)


def test_the_area_is_the_mean_height_by_trapezoids() -> None:
    assert area(np.array([1.0, 0.0, 0.0], np.float32)) == 0.25
    assert area(np.ones(5, np.float32)) == 1.0


def test_pixels_go_in_the_order_of_the_map_and_ties_in_that_of_another() -> None:
    order = ranks(np.array([[0.0, 3.0], [1.0, 2.0]]), 2, np.zeros((2, 2)))
    assert order.tolist() == [[3, 0], [2, 1]]
    flat = ranks(np.zeros((2, 2)), 2, np.array([[1.0, 2.0], [4.0, 3.0]]))
    assert flat.tolist() == [[3, 2], [0, 1]]
    image = replaced(torch.zeros(3, 2, 2), torch.ones(3, 2, 2), order, 0.5)
    assert image[0].tolist() == [[0, 1], [0, 1]]


def test_a_map_of_what_the_network_looks_at_falls_early_and_rises_early() -> None:
    trial = Trial(steps=4, fill="mean", orders=3)
    found = finished(curves(left_half, bright_left(), LEFT, trial))
    # Half is bright. Each quarter of the pixels, all on the left, takes half of the way to 0.5.
    assert found.map.deletion.tolist() == pytest.approx([1, 0.75, 0.5, 0.5, 0.5])
    assert found.map.insertion.tolist() == pytest.approx([0.5, 0.75, 1, 1, 1])
    assert found.map.deletion_area == pytest.approx(0.625)
    assert found.map.insertion_area == pytest.approx(0.875)
    assert (found.deletion_beats, found.insertion_beats) == (3, 3)
    wrong = finished(curves(left_half, bright_left(), LEFT[:, ::-1], trial))
    assert wrong.map.deletion.tolist() == pytest.approx([1, 1, 1, 0.75, 0.5])
    assert (wrong.deletion_beats, wrong.insertion_beats) == (0, 0)


def test_a_random_order_backwards_is_its_own_insertion() -> None:
    found = finished(curves(left_half, picture(), LEFT, Trial(steps=5, orders=4)))
    for each in found.random:
        assert each.insertion.tolist() == each.deletion[::-1].tolist()
    assert len({each.deletion_area for each in found.random}) == 4


def test_the_overall_score_is_the_difference_of_the_areas() -> None:
    def order(deletion: list[float], insertion: list[float]) -> Order:
        return Order(np.array(deletion, np.float32), np.array(insertion, np.float32))

    good, flat = order([1, 0, 0], [0, 1, 1]), order([1, 1], [1, 1])
    assert (good.overall, flat.overall) == (0.5, 0)
    random = tuple(order([1, h, 0], [0, h, 1]) for h in (0.0, 0.5, 1.0))  # areas h / 2 + 1 / 4
    found = Curves(Trial(), good, flat, random, True).random_overall
    assert found == pytest.approx((-0.25, -0.25, 0.5))
    assert Curves(Trial(), good, flat, random[:1], True).random_overall == ()


def test_the_same_seed_gives_the_same_orders_and_no_random_state_is_used() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    first, again, other = (
        finished(curves(left_half, picture(), LEFT, Trial(steps=3, orders=2, seed=seed)))
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    for one, two in zip(first.random, again.random, strict=True):
        assert one.deletion.tolist() == two.deletion.tolist()
    assert first.random[0].deletion.tolist() != other.random[0].deletion.tolist()


def test_a_map_without_evidence_is_a_random_order() -> None:
    found = finished(curves(left_half, picture(), LEFT * 0, Trial(steps=3, orders=1)))
    assert not found.evidence
    assert len(set(found.map.deletion.tolist())) > 1


@pytest.mark.parametrize("fill", FILLS)
def test_fills_are_blind_to_details_and_keep_colours(fill: str) -> None:
    image = picture()
    filled = FILLS[fill](image)
    assert filled.shape == image.shape
    assert float(filled.std()) < float(image.std())
    assert filled.mean(dim=(1, 2)).tolist() == pytest.approx(
        image.mean(dim=(1, 2)).tolist(), abs=0.2
    )


def test_a_slice_is_never_larger_than_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faithfulness, "BATCH", 3)
    sizes: list[int] = []

    def counting(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return left_half(images)

    work = curves(counting, picture(), LEFT, Trial(steps=3, orders=1))
    shares: list[float] = []
    while not isinstance(state := next_slice(work), Done):
        shares.append(state)
    assert sum(sizes) == 2 + 5 * 2  # both ends; five orders of two steps
    assert max(sizes) == 3
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] < 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"steps": 1}, "steps is 1"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"orders": -1}, "orders is -1"),
        ({"orders": True}, "orders is True"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_trial_out_of_range_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadOption, match=said):
        Trial(**given)


def test_an_unknown_fill_is_refused() -> None:
    with pytest.raises(UnknownName, match="blur, mean"):
        Trial(fill="noise")


def test_the_drop_is_the_share_that_is_lost() -> None:
    assert Confidence(0.8, 0.2).drop == pytest.approx(0.75)
    assert not Confidence(0.8, 0.2).increase
    assert (Confidence(0.2, 0.8).drop, Confidence(0.2, 0.8).increase) == (0.0, True)


def as_package(score: Callable[[Tensor], Tensor]) -> tuple[torch.nn.Module, list[Any]]:
    """A score as the grad-cam package wants it: a model, and what to take of its output."""

    class Network(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return score(images)[:, None]

    return Network(), [lambda output: output[0]]


def test_drop_and_increase_are_those_of_the_grad_cam_package() -> None:
    from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence

    heat = np.random.default_rng(0).random((4, 4)).astype(np.float32)
    mask = scaled(enlarged(heat, SIDE, SIDE))
    ups = set()
    for image in (picture(), -picture()):

        def score(images: Tensor) -> Tensor:
            return left_half(images).sigmoid()

        mine = confidence(score, image, heat)
        network, targets = as_package(score)
        theirs = DropInConfidence()(image[None], mask[None], targets, network)
        assert mine.drop * mine.whole == pytest.approx(float(theirs[0]), abs=1e-6)
        up = IncreaseInConfidence()(image[None], mask[None], targets, network)
        assert mine.increase == bool(up[0])
        ups.add(mine.increase)
    assert ups == {True, False}


def test_road_is_that_of_the_grad_cam_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer, ROADCombined

    heat = np.random.default_rng(1).random((4, 4)).astype(np.float32)
    image = picture(3)

    def score(images: Tensor) -> Tensor:  # not linear, so that every pixel counts
        return (images * picture(9)).mean(dim=(1, 2, 3)).mul(20).sigmoid()

    mask = scaled(enlarged(heat, SIDE, SIDE))
    network, targets = as_package(score)
    theirs = ROADCombined(percentiles=[20, 50, 80])
    # Its noise cannot be chosen from outside.
    monkeypatch.setattr(NoisyLinearImputer.__init__, "__defaults__", (0.0, None))
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # it hands tensors to NumPy
        expected = float(theirs(image[None], mask[None], targets, network)[0])
    assert road(score, image, heat, noise=0) == pytest.approx(expected, abs=1e-5)
    assert abs(expected) > 1e-3


def test_road_leaves_the_callers_random_numbers_alone() -> None:
    heat = np.random.default_rng(1).random((4, 4)).astype(np.float32)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = road(left_half, picture(), heat, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert road(left_half, picture(), heat, seed=1) == first
    assert road(left_half, picture(), heat, seed=2) != first


def test_road_of_a_map_without_evidence_is_nothing() -> None:
    assert road(left_half, picture(), LEFT * 0) == pytest.approx(0, abs=0.05)


@pytest.fixture(scope="module")
def asked(make_model: Callable[..., Model], make_photo: Callable[..., Image.Image]) -> Any:
    model = make_model("cbam")
    return model, model.explain(make_photo(), target=1)


def test_the_score_is_the_probability_of_the_target(asked: tuple[Model, Explanation]) -> None:
    model, explanation = asked
    image = model.card.preprocess(explanation.photo)
    (found,) = score_of(model, explanation)(image[None]).tolist()
    assert found == pytest.approx(explanation.target.probability, abs=1e-6)
    changed = model.explain(explanation.photo, target=1, gates="*=off")
    (found,) = score_of(model, changed)(image[None]).tolist()
    assert found == pytest.approx(changed.target.probability, abs=1e-6)
    assert found != pytest.approx(explanation.target.probability, abs=1e-6)


def test_an_exam_is_made_of_its_parts(asked: tuple[Model, Explanation]) -> None:
    model, explanation = asked
    trial = Trial(steps=3, orders=2)
    exam = Exam(trial, randomisation=True, box=(0, 0, 45, 70))
    work, shares = examine(model, explanation, exam), []
    while not isinstance(state := next_slice(work), Done):
        shares.append(state)
    found = state.result
    assert shares == sorted(shares)
    assert None not in (found.curves, found.strip)
    assert found.curves is not None
    assert found.box is not None
    alone = finished(
        curves(
            score_of(model, explanation),
            model.card.preprocess(explanation.photo),
            explanation.heatmap,
            trial,
        )
    )
    assert found.curves.map.deletion.tolist() == alone.map.deletion.tolist()
    assert found.curves.map.deletion[0] == pytest.approx(explanation.target.probability, abs=1e-6)
    assert found.box.uniform_energy == pytest.approx(0.5, abs=0.01)
    assert len(found.verdict.split(". ")) == 3
    (nothing,) = finished(examine_all([model], [explanation], Exam()))
    assert (nothing.curves, nothing.strip, nothing.box, nothing.verdict) == (None, None, None, "")


def test_a_method_of_very_many_passes_has_no_strip(asked: tuple[Model, Explanation]) -> None:
    model, explanation = asked
    costly = Explanation(**{**vars(explanation), "method": "scorecam"})
    with pytest.raises(OptionClash, match="gradcam"):
        finished(examine(model, costly, Exam(randomisation=True)))


def order(deletion: float, insertion: float) -> Order:
    falls, rises = ([sure] * 3 for sure in (deletion, insertion))
    return Order(np.array(falls, np.float32), np.array(rises, np.float32))


@pytest.mark.parametrize(
    ("mine", "centre", "said"),
    [
        (order(0.2, 0.8), order(0.3, 0.7), "beats all 3 random orders in the two tests, and"),
        (order(0.2, 0.8), order(0.1, 0.9), "but the photo's centre in neither."),
        (order(0.2, 0.8), order(0.1, 0.7), "but the photo's centre in only one."),
        (order(0.6, 0.4), order(0.3, 0.7), "not clearly better than chance: it beats 0 and 0 of 3"),
        (order(0.05, 0.8), order(0.3, 0.7), "gives this class only 5.0%"),
    ],
)
def test_the_verdict_says_what_the_curves_came_to(
    asked: tuple[Model, Explanation], mine: Order, centre: Order, said: str
) -> None:
    found = Curves(Trial(), mine, centre, (order(0.5, 0.5),) * 3, True)
    assert said in Examined(asked[1], found, None, None).verdict


@pytest.fixture
def photos(tmp_path: Path, make_photo: Callable[..., Image.Image]) -> Path:
    for label in ("tench", "church"):
        (tmp_path / label).mkdir()
        for seed in range(2):
            make_photo(seed).save(tmp_path / label / f"{seed}.png")
    return tmp_path


def test_a_models_faithfulness_stands_beside_orders_that_know_nothing(
    photos: Path, make_model: Callable[..., Model]
) -> None:
    trial = Trial(steps=3, orders=1)
    mine, other = (
        measure_faithfulness(make_model(each), photos, trial=trial) for each in ("cbam", "se")
    )
    about = mine.metrics["faithfulness"]
    assert (about["photos"], about["steps"], about["fill"]) == (4, 3, "blur")
    assert about["command"] == "cbam-lens evaluate --faithfulness"
    random = mine.metrics["faithfulness_baseline"]["random"]
    change, low, high = mine.metrics["faithfulness_against_random"]["deletion"]
    assert change == pytest.approx(about["deletion"] - random, abs=2e-4)
    assert change == pytest.approx(-about["deletion_gain"], abs=2e-4)
    assert low <= change <= high
    assert set(mine.metrics["faithfulness_against_centre"]) == {
        *("deletion", "insertion", "what", "command")
    }
    against = faithfulness_against(other, {"cbam": mine})["faithfulness_against_cbam"]
    assert set(about) >= set(against) - {"what"}
    assert faithfulness_against(other, {"none": Measured()}) == {}
    few = measure_faithfulness(make_model("se"), photos, count=2, trial=trial)
    assert few.metrics["faithfulness"]["photos"] == 2
