"""Sheets: names and numbers are whole, for every shape of photo, length of name and script."""

import dataclasses
import functools
import re
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cbam import lettering, sheets
from cbam.explain.explanation import Explanation
from cbam.lettering import KEPT, printable, text_width, wrapped
from cbam.model import Model

MakeModel = Callable[..., Model]
Answers = Callable[[tuple[int, int]], Explanation]
LONG = "European fire salamander, Salamandra salamandra, of all its many kinds " * 3
NAMES = {
    "short": "cat",
    "long": LONG,
    "one long word": "Donaudampfschifffahrtselektrizitaetenhauptbetriebswerkbauunterbeamten" * 2,
    "hyphens": "a-model-with-a-very-long-name-of-many-parts-and-versions-2026-11-29",
    "Chinese": "\u5c0f\u732b\u548c\u5927\u8c61" * 12,
    "Cyrillic": "\u041a\u043e\u0448\u043a\u0430 \u0438 \u0441\u043e\u0431\u0430\u043a\u0430",
    "accents": "\u00c5ngstr\u00f6m, fa\u00e7ade, \u0141\u00f3d\u017a, Gro\u00dfer K\u00e4fer",
    "emoji": "\U0001f431\U0001f436",
    "lines and tabs": "two\nlines\tand a tab",
    "empty": "",
}


class Words:
    """What is written on pictures, and where: (text, left, top, right, bottom)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: list[tuple[str, float, float, float, float]] = []
        draw = ImageDraw.ImageDraw.text

        def text(own: ImageDraw.ImageDraw, at: tuple[int, int], words: str, **options: object):
            box = own.textbbox(at, words, font=options["font"])
            self.found.append((words, *box))
            draw(own, at, words, **options)

        monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)

    def take(self) -> list[tuple[str, float, float, float, float]]:
        found, self.found = self.found, []
        return found


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> Words:
    return Words(monkeypatch)


def unbroken(text: str) -> str:
    """The text without the places where lines may end."""
    return re.sub(r"\s", "", printable(text))


def named(explanation: Explanation, name: str) -> Explanation:
    """The explanation with this name for its model, its target and its top class."""
    target = dataclasses.replace(explanation.target, label=name, probability=0.123)
    top = dataclasses.replace(explanation.predictions[0], label=name, probability=0.456)
    return dataclasses.replace(
        explanation, model=name, target=target, predictions=(top, *explanation.predictions[1:])
    )


def check(sheet: Image.Image, found: list[tuple[str, float, float, float, float]]) -> str:
    """No word leaves the sheet or lies on another; all of them as one text."""
    for text, left, top, right, bottom in found:
        assert left >= 0, text
        assert top >= 0, text
        assert right <= sheet.width, text
        assert bottom <= sheet.height, text
    for number, (text, left, top, right, bottom) in enumerate(found):
        for other, left2, top2, right2, bottom2 in found[number + 1 :]:
            apart = right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top
            assert apart or not text.strip() or not other.strip(), (text, other)
    return "".join(re.sub(r"\s", "", text) for text, *_ in found)


@pytest.fixture(scope="module")
def answers(make_model: MakeModel) -> Answers:
    """One model's answer about a red photo of this size."""
    model = make_model("cbam")
    return functools.cache(lambda size: model.explain(Image.new("RGB", size, "red")))


SIZES = [(90, 70), (270, 480), (1, 1000), (1000, 1), (1, 1), (300, 300)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_names_and_numbers_are_whole_on_the_comparison(
    words: Words, name: str, size: tuple[int, int], answers: Answers
):
    first = answers(size)
    sheet = sheets.compare_sheet([named(first, NAMES[name])] * 2)
    said = check(sheet, words.take())
    label = unbroken(NAMES[name])
    assert said.count(f"P({label})=0.123") == 2
    assert f"target:{label}" in said
    assert "\u2026" not in said
    assert "\ufffd" not in said
    if first.heatmap.max() > 0:
        assert said.count(f"says:{label}(0.456)") == 2
    assert said.count(label) >= 4


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["short", "long", "Chinese"])
def test_names_and_numbers_are_whole_on_the_gates_sheet(
    words: Words, name: str, size: tuple[int, int], answers: Answers
):
    first = answers(size)
    sheet = sheets.attention_sheet(named(first, NAMES[name]))
    said = check(sheet, words.take())
    assert f"{unbroken(NAMES[name])}:whatitsgatesdid" in said
    for block in first.attention:
        assert block.block in said
        for gate in block.gates.values():
            assert f"{gate.values.min():.2f}to{gate.values.max():.2f}" in said


@pytest.mark.parametrize("count", range(1, 7))
def test_one_to_six_models_have_a_column_each(words: Words, count: int, answers: Answers):
    first = answers((45, 80))
    sheet = sheets.compare_sheet([named(first, "resnet18-cbam-tiny-imagenet")] * count)
    said = check(sheet, words.take())
    assert said.count("resnet18-cbam-tiny-imagenet") == 1 + 3 * count
    assert sheet.width == (count + 1) * (169 + 12) + 12  # 300 high: 169 wide


def test_several_gates_sheets_lie_one_below_the_other(make_model: MakeModel, make_photo):
    found = [make_model(name).explain(make_photo()) for name in ("none", "se", "cbam")]
    each = [sheets.attention_sheet(one) for one in found]
    whole = sheets.attention_sheets(found)
    assert whole.size == (max(one.width for one in each), sum(one.height for one in each))


@pytest.mark.parametrize("width", [1, 40, 160, 1000])
@pytest.mark.parametrize("name", NAMES)
def test_wrapped_lines_fit_and_lose_nothing(name: str, width: int):
    lines = wrapped(NAMES[name], 14, width)
    assert "".join(re.sub(r"\s", "", line) for line in lines) == unbroken(NAMES[name])
    assert all(text_width(line, 14) <= width or len(line) == 1 for line in lines)
    assert lines


def test_lines_end_between_words_where_they_can():
    assert wrapped("golden retriever", 14, 70) == ["golden", "retriever"]
    assert wrapped("tiny-imagenet", 14, 70) == ["tiny-", "imagenet"]
    assert wrapped(f"cat{KEPT}={KEPT}0.5", 14, 60) == ["cat = 0.5"]
    assert wrapped("cat dog", 14, 1000) == ["cat dog"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat", "cat"),
        ("\u732b", r"\u732b"),
        ("\U0001f431", r"\U0001f431"),
        ("\x07", r"\u0007"),
        ("a\u0301", None),  # an accent of its own joins its letter
        ("\u0142", None),
        ("a\nb", "a b"),
    ],
)
def test_a_sign_that_the_font_lacks_is_spelt(text: str, expected: str | None):
    found = printable(text)
    assert found == expected if expected else found.isprintable()
    assert all(lettering._is_drawn(char) for char in found)


def test_no_letter_is_drawn_as_a_box():
    """What stands for a missing sign is never drawn."""
    box = lettering.font(20).getmask("\uffff")
    for text in NAMES.values():
        for char in printable(text):
            assert bytes(lettering.font(20).getmask(char)) != bytes(box) or char == " "


def test_a_sheet_embeds_no_profile(make_model: MakeModel, tmp_path):
    photo = Image.new("RGB", (30, 30), "red")
    found = make_model("cbam").explain(photo)
    for picture in (found.overlay(), sheets.compare_sheet([found]), sheets.attention_sheet(found)):
        picture.save(tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as again:
            again.load()
            assert not {"icc_profile", "gamma", "chromaticity", "srgb"} & again.info.keys()
            np.testing.assert_array_equal(np.asarray(again), np.asarray(picture))
