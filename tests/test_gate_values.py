"""What the gates say over many photos, against numbers from the whole set at once."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from labelling import in_class_folder
from safetensors.torch import load_file
from torch.testing import assert_close
from typer.testing import CliRunner

from app.cli.main import app
from cbam.attention import ChannelGate
from cbam.cards.card import Card, read_card, write_card
from cbam.data.labelled import Labelled
from cbam.errors import BadCard, BadData
from cbam.evaluate.gate_values import (
    BATCH,
    Sums,
    area_under_curve,
    closeness,
    gate_values,
    seen,
)
from cbam.model import Model, load

PHOTOS = BATCH + 5  # more than a batch, and an odd number


@pytest.fixture(scope="module")
def photos(make_labelled: Callable[..., list[Labelled]]) -> list[Labelled]:
    """Photos with a box each in their left upper part."""
    return make_labelled(PHOTOS, (0.0, 0.0, 0.4, 0.6))


def all_maps(model: Model, photos: list[Labelled]) -> dict[str, torch.Tensor]:
    """Every gate's maps of all photos."""
    batches = [model.cut().run_trunk(batch.images)[1] for batch in seen(model, photos, [])]
    return {name: torch.cat([maps[name] for maps in batches]) for name in batches[0]}


def test_sums_by_hand() -> None:
    # Two photos, three channels: the first stands still, the last moves by 0.5 around 0.5.
    maps = torch.tensor([[0.2, 0.9, 0.0], [0.2, 0.7, 1.0]]).view(2, 3, 1, 1)
    values = Sums.of(maps, ChannelGate.kind).values()
    assert values["mean"] == pytest.approx((0.2 + 0.8 + 0.5) / 3)
    assert values["over_photos"] == pytest.approx((0 + 0.1 + 0.5) / 3)
    assert values["saturated"] == pytest.approx(2 / 6)  # 0.0 and 1.0
    assert values["dead"] == pytest.approx(1 / 3)
    within = (np.std([0.2, 0.9, 0.0]) + np.std([0.2, 0.7, 1.0])) / 2
    assert values["within_photo"] == pytest.approx(within)


def test_a_value_is_saturated_near_an_end_of_its_gates_range() -> None:
    maps = torch.tensor([[0.5, 1.02, 1.5, 1.98]]).view(1, 4, 1, 1)
    from_1_to_2 = replace(ChannelGate.kind, lowest=1.0, highest=2.0)
    assert Sums.of(maps, from_1_to_2).saturated == 0.75  # below its range counts, too
    assert Sums.of(maps, replace(ChannelGate.kind, lowest=None)).saturated == 0.0


def test_sums_in_batches_are_those_of_all_photos_at_once(
    tiny_model: Model, photos: list[Labelled]
) -> None:
    found = gate_values(tiny_model, photos, [])
    maps = all_maps(tiny_model, photos)
    assert found.sums.keys() == maps.keys() == tiny_model.cut().places.keys()
    for name, values in maps.items():
        assert found.sums[name].photos == PHOTOS
        assert_close(found.means[name], values.mean(dim=0))
        moves = values.flatten(1).std(dim=0, correction=0).mean()
        assert found.sums[name].values()["over_photos"] == pytest.approx(float(moves), rel=1e-3)
        for half, own in zip(found.halves, (values[::2], values[1::2]), strict=True):
            assert_close(half[name].mean, own.mean(dim=0))


def test_the_area_under_the_curve_by_hand() -> None:
    inside = np.array([[True, True], [False, False]])
    assert area_under_curve(np.array([[4, 3], [2, 1]]), inside) == 1
    assert area_under_curve(np.array([[1, 2], [3, 4]]), inside) == 0
    assert area_under_curve(np.ones((2, 2)), inside) == 0.5  # equal values tell nothing
    # Of the four pairs (inside, outside) three have the higher value inside.
    assert area_under_curve(np.array([[4, 2], [3, 1]]), inside) == 0.75


def test_the_centre_is_the_highest_place_of_the_blind_map() -> None:
    assert np.unravel_index(closeness(5).argmax(), (5, 5)) == (2, 2)
    assert closeness(4)[1, 1] == closeness(4)[2, 2] == closeness(4).max()


def test_only_gates_over_places_are_held_against_the_boxes(
    tiny_model: Model, photos: list[Labelled]
) -> None:
    metrics = gate_values(tiny_model, photos, []).metrics()
    judged = {name for name, values in metrics.items() if "inside_box" in values}
    assert judged == {name for name in metrics if name.endswith(".spatial")} - {
        name for name, values in all_maps(tiny_model, photos).items() if values.shape[-1] == 1
    }
    assert judged
    # The box is off the centre, the same in all photos: the centre's area is one number for a grid.
    maps = all_maps(tiny_model, photos[:1])
    for name in judged:
        assert 0 <= metrics[name]["inside_box"] <= 1
        side = maps[name].shape[-1]
        cells = (np.arange(side) + 0.5) / side
        inside = (cells[:, None] < 0.6) & (cells[None, :] < 0.4)
        expected = area_under_curve(closeness(side), inside)
        assert metrics[name]["centre"] == pytest.approx(expected)


def test_a_photo_that_cannot_be_read_is_left_out_and_named(
    tiny_model: Model, photos: list[Labelled]
) -> None:
    broken, unread = Labelled("broken.png", b"no photo", 0), []
    found = gate_values(tiny_model, [photos[0], broken, *photos[1:4]], unread)
    assert [each.name for each in unread] == ["broken.png"]
    expected = gate_values(tiny_model, photos[:4], [])
    assert found.photos == expected.photos == photos[:4]
    for name, mean in expected.means.items():
        assert torch.equal(found.means[name], mean)
    with pytest.raises(BadData):
        gate_values(tiny_model, [broken], [])


def test_a_model_without_boxes_is_not_held_against_any(
    tiny_model: Model, photos: list[Labelled]
) -> None:
    bare = [Labelled(each.name, each.photo, each.target) for each in photos[:3]]
    assert gate_values(tiny_model, bare, []).areas == {}


@pytest.fixture
def folders(tmp_path: Path, photos: list[Labelled], tiny_card: Card) -> Path:
    """Some of the photos as <class folder>/<photo>."""
    return in_class_folder(photos[:4], tmp_path / "val", tiny_card.labels[0])


def test_the_command_stores_the_means_beside_the_weights(tiny_card: Card, folders: Path) -> None:
    assert tiny_card.gate_means == {}
    command = ["evaluate", str(tiny_card.folder), "--gates", str(folders), "--write"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    card = read_card(tiny_card.folder)
    model = load(tiny_card.folder)
    assert card.gate_means.keys() == model.cut().places.keys()
    stored = load_file(card.folder / "gates.safetensors")
    for name, mean in card.gate_means.items():
        assert torch.equal(mean, stored[name])
        values = card.metrics["gate_values"][name]
        assert values["mean"] == pytest.approx(float(mean.mean()), abs=1e-4)
    assert card.metrics["gate_values"]["photos"] == 4


def test_other_gate_means_than_the_cards_are_refused(tiny_card: Card) -> None:
    card = write_card(tiny_card, gate_means={"layer1.0.channel": torch.rand(8, 1, 1)})
    path = card.folder / "gates.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BadCard, match=r"gates of .* are not the ones that its card names"):
        read_card(card.folder).gate_means  # noqa: B018
    path.unlink()
    with pytest.raises(BadCard, match="has no gates"):
        read_card(card.folder).gate_means  # noqa: B018


def test_new_weights_forget_the_means_of_the_old_ones(tiny_card: Card, tiny_model: Model) -> None:
    card = write_card(tiny_card, gate_means={"layer1.0.channel": torch.rand(8, 1, 1)})
    assert card.gate_means.keys() == {"layer1.0.channel"}
    assert write_card(card).gate_means.keys() == {"layer1.0.channel"}
    assert write_card(card, tiny_model.network.state_dict()).gate_means == {}
