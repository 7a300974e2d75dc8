"""The paper's figure for photos of one's own, as a sheet and by the command."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageChops
from typer.testing import CliRunner

import cbam
from app.cli.main import app
from cbam.cards.card import Card
from cbam.errors import CannotWrite, OptionClash, UnknownName
from cbam.model import Model
from cbam.sheets import figure_sheet


def test_a_row_for_each_photo_and_a_column_for_each_model(
    make_model: Callable[..., Model], make_photo: Callable[..., Image.Image]
) -> None:
    models = [make_model(each) for each in ("none", "cbam")]
    photos = [make_photo(seed) for seed in range(3)]
    rows = [cbam.compare(models, photo, cbam.Options(1)) for photo in photos]
    one, three = figure_sheet(rows[:1]), figure_sheet(rows)
    assert one.width == three.width == 3 * (200 + 12) + 12
    assert (three.height - one.height) % 2 == 0  # two more rows of one height
    assert three.height > 3 * 200 * 70 / 90
    assert (
        ImageChops.difference(one.crop((0, 0, 640, 150)), three.crop((0, 0, 640, 150))).getbbox()
        is None
    )


def test_it_shows_what_the_models_saw(
    make_model: Callable[..., Model], make_photo: Callable[..., Image.Image]
) -> None:
    model = make_model("none", fit="crop")
    wide = make_photo(0, 300, 100)
    sheet = figure_sheet([cbam.compare([model], wide, cbam.Options(1))])
    seen = wide.crop((100, 0, 200, 100)).resize((200, 200), Image.Resampling.BILINEAR)
    middle = sheet.crop((12, 60, 212, 160))
    found = min(
        max(
            high
            for _, high in ImageChops.difference(
                middle, seen.crop((0, y, 200, y + 100))
            ).getextrema()
        )
        for y in range(0, 61)
    )
    assert found == 0


def test_the_command_writes_it_and_says_the_numbers(
    tiny_card: Card, make_photo: Callable[..., Image.Image], tmp_path: Path
) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for number, path in enumerate(paths):
        make_photo(number).save(path)
    out = tmp_path / "figure.png"
    words = ["figure", *map(str, paths), "-o", str(out), "--model", str(tiny_card.folder)]
    found = CliRunner().invoke(app, [*words, "--target", "tench", "--target", "church"])
    assert found.exit_code == 0, found.output
    model = cbam.load(tiny_card.folder)
    for path, label in zip(paths, ("tench", "church"), strict=True):
        chance = model.explain(path, label).target.probability
        assert f"{chance:.1%}" in found.output
        assert label in found.output
    with Image.open(out) as sheet:
        assert sheet.format == "PNG"


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (["--target", "tench", "--target", "church"], OptionClash, "1 photos and 2 targets"),
        (["--target", "unicorn"], UnknownName, "unicorn"),
        (["-o", "x.bmp"], CannotWrite, "bmp"),
    ],
)
def test_what_is_wrong_shows_before_the_work(
    tiny_card: Card, tmp_path: Path, words: list[str], error: type[Exception], said: str
) -> None:
    start = ["figure", str(tmp_path / "no.png"), "-o", str(tmp_path / "a.png")]
    found = CliRunner().invoke(app, [*start, "--model", str(tiny_card.folder), *words])
    assert isinstance(found.exception, error)
    assert said in str(found.exception)
