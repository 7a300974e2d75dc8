"""The detectors that travel with the project: measured, small, and right about a photo."""

from pathlib import Path

import pytest

import cbam
from cbam.cards.families import available, detectors
from cbam.training.detector_recipe import read_detector_recipe

ROOT = Path(__file__).parent.parent
NAMES = ["resnet50-animals", "resnet50-se-animals", "resnet50-cbam-animals"]
CARDS = detectors()


def test_a_family_of_three_is_bundled_that_differs_in_attention_alone():
    assert [*CARDS] == NAMES
    recipe = read_detector_recipe(ROOT / "recipes" / "animals.toml")
    for card, attention in zip(CARDS.values(), ("none", "se", "cbam"), strict=True):
        assert card.classifier == recipe.classifiers[attention]
        assert available()[card.classifier].attention == attention
        assert [*card.labels] == recipe.labels
        assert (card.kind, card.options) == (recipe.detector, recipe.detector_options)
        assert card.frame.size_px == recipe.size_px


@pytest.mark.parametrize("name", NAMES)
def test_each_is_small_and_measured(name: str):
    card = CARDS[name]
    assert sum(file.stat().st_size for file in card.folder.iterdir()) < 15e6
    boxes, maps = card.metrics["boxes"], card.metrics["heat_maps"]
    assert boxes["photos"] == 483
    assert boxes["map50"] > 0.6
    assert boxes["ap50"].keys() == {*card.labels}
    # The maps see more of the object than an even one; none can be wholly in its box.
    assert maps["energy_uniform"] < maps["energy_in_box"] < maps["energy_of_box"] < 1


def test_differences_are_on_the_cards_with_their_intervals():
    against = {
        name: [key for key in card.metrics if key.startswith("against_")]
        for name, card in CARDS.items()
    }
    assert [*against.values()] == [[], ["against_none"], ["against_none", "against_se"]]
    for card in CARDS.values():
        for key, values in card.metrics.items():
            if key.startswith("against_"):
                difference, low, high = values["map50"]
                other = CARDS[NAMES[0] if key.endswith("none") else NAMES[1]]
                mine, its = (each.metrics["boxes"]["map50"] for each in (card, other))
                assert low < difference < high
                assert difference == pytest.approx(mine - its, abs=2e-4)


def test_a_dog_is_found_where_it_is():
    photo = ROOT / "static" / "gallery" / "dog.jpg"
    found = cbam.load(NAMES[2]).detect(photo, maps=1)
    (dog, *others) = found.detections
    assert dog.label == "dog"
    assert dog.score > 0.5
    assert not [each for each in others if each.label == "cat" and each.score > dog.score]
    width, height = found.photo.size
    assert (dog.box[2] - dog.box[0]) * (dog.box[3] - dog.box[1]) > 0.1 * width * height
    assert found.heatmaps[0].map.max() > 0
