"""Pictures of maps: right colours in the right places, and none where there is nothing to say."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from asking import explain
from PIL import Image
from torch.nn import functional

from cbam import render, sheets
from cbam.explain.explanation import Explanation, HeatMap
from cbam.explain.question import Options
from cbam.images.preprocess import Box
from cbam.model import Model

MakeModel = Callable[..., Model]
MakePhoto = Callable[..., Image.Image]

ZERO = np.zeros((2, 2), dtype=np.float32)
HOT_LEFT = np.array([[2.0, 0.0], [2.0, 0.0]], dtype=np.float32)


@pytest.mark.parametrize(
    ("name", "lowest", "highest"),
    [("inferno", (0, 0, 4), (252, 255, 164)), ("viridis", (68, 1, 84), (253, 231, 37))],
)
def test_colours_begin_and_end_where_the_colour_map_does(
    name: str, lowest: tuple[int, int, int], highest: tuple[int, int, int]
):
    values = np.array([0, 1, -5, 5], dtype=np.float32)  # outside [0, 1]: the nearer end
    found = render.colour(values, name)
    assert found.dtype == np.float32
    assert found.tolist() == [list(map(float, c)) for c in (lowest, highest, lowest, highest)]


def test_between_two_stops_colours_are_mixed_in_float():
    # 0.95 is half way between the stops 9 and 10: (246 + 252) / 2, (215 + 255) / 2, (70 + 164) / 2
    found = render.colour(np.float32(0.95))
    np.testing.assert_allclose(found, (249, 235, 117), atol=1e-3)


EVEN = [name for name, each in render.COLOUR_MAPS.items() if each.even]


@pytest.mark.parametrize("name", EVEN)
def test_brightness_rises_with_the_value_so_that_grey_prints_keep_the_order(name: str):
    rgb = render.colour(np.linspace(0, 1, 101, dtype=np.float32), name)
    luminance = rgb @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance) > 0).all()


def test_the_colour_map_that_is_not_even_is_brightest_in_the_middle():
    for name in set(render.COLOUR_MAPS) - set(EVEN):
        low, middle, high = render.colour(np.array([0, 0.5, 1], dtype=np.float32), name).sum(axis=1)
        assert middle > max(low, high) + 100


def test_a_colour_of_any_shape_gets_one_more_axis():
    assert render.colour(np.zeros((2, 3, 4), dtype=np.float32)).shape == (2, 3, 4, 3)


def test_a_map_is_scaled_by_its_maximum_or_by_a_shared_one():
    raw = np.array([[1.0, 4.0], [-1.0, 2.0]], dtype=np.float32)
    assert render.scaled(raw).tolist() == [[0.25, 1.0], [0.0, 0.5]]
    assert render.scaled(raw, top=8).tolist() == [[0.125, 0.5], [0.0, 0.25]]
    assert render.scaled(raw, top=2).tolist() == [[0.5, 1.0], [0.0, 1.0]]


@pytest.mark.parametrize("raw", [ZERO, ZERO - 1])
def test_a_map_without_positive_evidence_is_not_scaled_up(raw: np.ndarray):
    assert not render.scaled(raw).any()
    assert not render.scaled(raw, top=0).any()


@pytest.mark.parametrize("size", [(7, 7), (28, 21), (50, 64), (224, 224)])
@pytest.mark.parametrize("cells", [(7, 7), (2, 3), (1, 1)])
def test_enlarging_is_bilinear_between_cell_centres(size: tuple[int, int], cells: tuple[int, int]):
    values = np.random.default_rng(0).random(cells, dtype=np.float32)
    width, height = size
    expected = functional.interpolate(
        torch.from_numpy(values)[None, None],
        size=(height, width),
        mode="bilinear",
        align_corners=False,
    )[0, 0].numpy()
    found = render.enlarged(values, width, height)
    assert found.shape == (height, width)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_enlarging_by_hand():
    # One row of cells 0 and 1, four pixels: centres at 1/4 of a cell.
    found = render.enlarged(np.array([[0.0, 1.0]], dtype=np.float32), 4, 1)
    np.testing.assert_allclose(found, [[0, 0.25, 0.75, 1]], atol=1e-6)


def test_the_grey_picture_holds_the_scaled_maps_values():
    raw = np.array([[0.0, 1.0], [2.0, 4.0]], dtype=np.float32)
    found = render.grey(raw, 2, 2)
    assert found.mode == "L"
    # 255 times 0, 1/4, 1/2, 1: 63.75 and 127.5, which rounds to the even 128
    assert np.asarray(found).tolist() == [[0, 64], [128, 255]]
    assert np.asarray(render.grey(ZERO, 5, 4)).tolist() == [[0] * 5] * 4


def test_the_coloured_picture_is_scaled_by_itself_or_by_a_shared_maximum():
    alone = np.asarray(render.coloured(HOT_LEFT, 2, 2))
    assert alone[0, 0].tolist() == [252, 255, 164]
    assert alone[0, 1].tolist() == [0, 0, 4]
    shared = np.asarray(render.coloured(HOT_LEFT, 2, 2, "viridis", top=20))
    assert shared[0, 0].tolist() == [72, 36, 117]  # a tenth: the second stop


@pytest.mark.parametrize("raw", [ZERO, ZERO - 3])
def test_a_map_without_positive_evidence_leaves_the_photo_as_it_is(
    make_photo: MakePhoto, raw: np.ndarray
):
    found = render.overlay(make_photo(), raw, Box(0, 0, 90, 70), opacity=1.0)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(make_photo()))


def test_only_the_view_is_painted(make_photo: MakePhoto):
    photo, view = make_photo(), Box(10, 0, 80, 70)
    before = np.asarray(photo).copy()
    after = np.asarray(render.overlay(photo, np.ones((2, 2), np.float32), view))
    np.testing.assert_array_equal(after[:, :10], before[:, :10])
    np.testing.assert_array_equal(after[:, 80:], before[:, 80:])
    assert (after[:, 10:80] != before[:, 10:80]).any(axis=2).all()
    np.testing.assert_array_equal(np.asarray(photo), before)  # the photo itself stays


def test_the_hottest_cell_is_painted_with_the_opacity_and_cold_ones_not_at_all():
    photo = Image.new("RGB", (2, 2), (100, 100, 100))
    found = np.asarray(render.overlay(photo, HOT_LEFT, Box(0, 0, 2, 2), opacity=0.5))
    # half of 100 and half of (252, 255, 164): 176, 177.5, 132; rounded to even
    assert found[0, 0].tolist() == [176, 178, 132]
    assert found[0, 1].tolist() == [100, 100, 100]
    nothing = render.overlay(photo, HOT_LEFT, Box(0, 0, 2, 2), opacity=0.0)
    np.testing.assert_array_equal(np.asarray(nothing), np.asarray(photo))


def test_a_shared_maximum_makes_a_weak_map_faint():
    photo = Image.new("RGB", (2, 2), "black")
    strong = np.asarray(render.overlay(photo, HOT_LEFT, Box(0, 0, 2, 2)), dtype=int)
    weak = np.asarray(render.overlay(photo, HOT_LEFT, Box(0, 0, 2, 2), top=200), dtype=int)
    assert weak[0, 0].sum() < strong[0, 0].sum() / 4


def test_a_flat_spatial_map_is_grey():
    photo = Image.new("RGB", (30, 20), "red")
    found = render.spatial_tile(photo, np.full((3, 3), 0.5, np.float32))
    assert found.size == (30, 20)
    assert found.getcolors() == [(600, (0x99, 0x99, 0x99))]


def test_a_spatial_map_goes_from_its_least_to_its_greatest_value():
    photo = Image.new("RGB", (2, 1), "black")
    found = np.asarray(render.spatial_tile(photo, np.array([[0.4, 0.6]], np.float32)))
    # 0.65 of viridis' ends on black: (68, 1, 84) and (253, 231, 37)
    assert found[0].tolist() == [[44, 1, 55], [164, 150, 24]]


def test_channel_bars_are_as_high_as_their_values():
    bars = np.asarray(render.channel_bars(np.array([0.0, 0.25, 1.0, 0.5], np.float32), 8, 20))
    filled = (bars == (33, 145, 140)).all(axis=2)
    line = (bars == 90).all(axis=2)
    assert bars.shape == (20, 8, 3)
    assert line[10].all()
    assert line.sum() == 8
    # Of 20 rows: none, 5, 20 and 10; the line lies on those that reach it.
    assert filled.sum(axis=0).tolist() == [0, 0, 5, 5, 19, 19, 9, 9]
    assert filled[-1].tolist() == [False] * 2 + [True] * 6  # they stand on the ground


def test_more_channels_than_pixels_still_make_bars():
    picture = render.channel_bars(np.linspace(0, 1, 512, dtype=np.float32), 100, 40)
    assert picture.size == (100, 40)


@pytest.fixture
def explanations(make_model: MakeModel, make_photo: MakePhoto) -> list[Explanation]:
    """Three models' answers for a class that each finds something of in the photo."""
    models = [make_model(name) for name in ("none", "se", "cbam")]
    for target in range(5):
        found = explain(models, make_photo(), Options(target))
        if min(each.heatmap.max() for each in found) > 0:
            return found
    raise AssertionError("no class with a map in every model: choose another seed")


def test_the_comparison_is_a_photo_and_a_column_a_model(explanations: list[Explanation]):
    # 90 x 70 with its longest side 180: tiles of 180 x 140. 12 px between, 30 above, 51 below.
    sheet = sheets.compare_sheet(explanations, tile_px=180)
    assert sheet.size == (4 * (180 + 12) + 12, 30 + 140 + 51 + 12)
    first = sheet.crop((12, 30, 192, 170))
    usual = explanations[0].photo.resize((180, 140), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(np.asarray(first), np.asarray(usual))
    for position in (1, 2, 3):
        left = 12 + position * 192
        tile = np.asarray(sheet.crop((left, 30, left + 180, 170)))
        assert (tile != np.asarray(usual)).any()


def test_a_comparison_of_a_map_without_evidence_shows_the_photo_and_says_so(
    explanations: list[Explanation],
):
    first = explanations[0]
    empty = HeatMap(first.target.index, first.target.label, np.zeros_like(first.heatmap))
    blank = dataclasses.replace(first, heatmaps=(empty,))
    shown = sheets.compare_sheet([blank], tile_px=180)
    photo, tile = shown.crop((12, 30, 192, 170)), shown.crop((204, 30, 384, 170))
    np.testing.assert_array_equal(np.asarray(photo), np.asarray(tile))
    said = sheets.compare_sheet([first], tile_px=180).crop((204, 196, 384, 236))
    assert said.tobytes() != shown.crop((204, 196, 384, 236)).tobytes()


def test_the_gates_sheet_has_a_column_a_block(explanations: list[Explanation]):
    # Stretched: the view is the whole 90 x 70, tiles of 90 x 70 in columns of 160; bars of 60.
    sheet = sheets.attention_sheet(explanations[2], tile_px=90)
    assert sheet.width == 8 * (160 + 10) + 10
    assert sheet.height == 48 + 70 + 23 + 60 + 23 + 10


def test_the_gates_sheet_works_with_channel_gates_only_and_without_any(
    explanations: list[Explanation],
):
    assert sheets.attention_sheet(explanations[1], tile_px=90).size == (1370, 48 + 60 + 23 + 10)
    assert sheets.attention_sheet(explanations[0], tile_px=90).size == (420, 48 + 70 + 10)


def test_a_maps_single_cell_can_be_painted(make_photo: MakePhoto):
    one = np.ones((1, 1), np.float32)
    assert render.overlay(make_photo(), one, Box(0, 0, 90, 70)).size == (90, 70)
    assert render.spatial_tile(make_photo(), one).size == (90, 70)


def test_bars_of_a_range_without_an_end_hang_from_the_neutral_value():
    # Four values between -2 and 2 over 40 rows: ten rows each step; the line is at 0.
    values = np.float32([-2, -1, 1, 2])
    picture = np.asarray(render.channel_bars(values, 4, 40, (-2.0, 2.0), 0.0, 0.0))
    filled = (picture == (33, 145, 140)).all(axis=2)
    assert (picture[20] == (90, 90, 90)).all()
    assert [np.flatnonzero(column).tolist() for column in filled.T] == [
        list(range(21, 40)),
        list(range(21, 30)),
        list(range(10, 20)),
        list(range(20)),
    ]


def test_bars_without_a_neutral_value_have_no_line():
    picture = np.asarray(render.channel_bars(np.float32([0.7]), 3, 10, (0.6, 1.0), 0.6, None))
    assert not (picture == (90, 90, 90)).all(axis=2).any()
    assert (picture == (33, 145, 140)).all(axis=2)[:, 0].tolist() == [False] * 8 + [True] * 2
