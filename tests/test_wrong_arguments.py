"""Whatever a caller hands over: an error from our tree in one sentence, or a right answer."""

import dataclasses
import importlib
import pkgutil
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import cbam
from cbam import errors
from cbam.cards.card import Card, read_card, write_card
from cbam.errors import BadCard, BadOption, BadRecipe, CBAMLensError, UnknownName
from cbam.explain.explanation import Explanation
from cbam.explain.question import Options
from cbam.model import Model
from cbam.training.recipe import read_recipe

BOM = "\ufeff"


@pytest.fixture(scope="module")
def tiny_model(make_model: Callable[..., Model]) -> Model:
    """One for all tests here: what is refused leaves a model as it is."""
    return make_model("cbam")


def refused(call: Callable[[], object], kind: type[Exception] = CBAMLensError) -> str:
    """The one sentence or two with which a call is refused."""
    with pytest.raises(kind) as raised:
        call()
    said = str(raised.value)
    assert said.endswith("."), said
    assert "\n" not in said
    assert "object at 0x" not in said
    assert len(said) < 1500
    return said


HUGE = 10**5000
THINGS = [
    nn.ReLU(),
    torch.zeros(3, 3),
    np.zeros(2),
    object(),
    b"x",
    {"a": 1},
    {1},
    1.5,
    float("nan"),
]
WRONG: dict[str, list[Any]] = {
    "target": [*THINGS, True, HUGE, [1], -1, 99, "nothing", "", "9" * 5000],
    "versus": [*THINGS, True, HUGE, [1]],
    "method": [*THINGS, None, 1, True, ["gradcam"], "gradcan", ""],
    "layer": [*THINGS, 1, True, [1], [None], "layer9", ["layer4.1", "layer9"], "\0"],
    "top_k": [*THINGS, 0, -1, True, "5", None, [5], -HUGE],
    "attention": [*THINGS, None, "yes", 1],
    "in_words": [*THINGS, None, "yes", 1],
    "time_limit_s": [*THINGS[:-2], -1, float("nan"), True, "soon"],
    "fuse": [*THINGS, None, 1, True, ["mean"], "meen", "", "Max"],
    "gates": [*THINGS, 1, True, "nothing", "layer9.*=off", "*=perhaps", {"*": object()}],
}
CASES = [(name, value) for name, values in WRONG.items() for value in values]


def named(value: Any) -> str:
    """A test's id. Every process of a run must give the same, so no addresses and no hashes."""
    if isinstance(value, str):
        return repr(value)[:20]
    return str(value) if isinstance(value, int) and abs(value) < 1000 else type(value).__name__


def test_every_option_is_tried():
    assert set(WRONG) == {field.name for field in dataclasses.fields(Options)}


@pytest.mark.parametrize(
    ("name", "value"),
    CASES,
    ids=named,
)
def test_a_wrong_option_is_refused_in_a_sentence(
    name: str, value: Any, tiny_model: Model, make_photo: Callable[..., Image.Image]
):
    def ask() -> None:
        cbam.compare([tiny_model], make_photo(), Options(**{name: value}))

    refused(ask)
    if name in ("target", "method", "layer", "top_k", "versus", "fuse"):
        refused(lambda: tiny_model.explain(make_photo(), **{name: value}))


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 1}, {"top_k": HUGE}, {"top_k": np.int64(2)}, {"target": np.int64(1)},
        {"target": "1"}, {"target": " Church "}, {"target": None}, {"layer": []},
        {"layer": ("layer3.1", "layer4.1")}, {"layer": None}, {"layer": ["layer4.1,layer3.1"]},
        {"layer": ["layer4.1,layer3.1"], "fuse": "max"},
    ],
    ids=lambda each: str({k: v if v != HUGE else "huge" for k, v in each.items()}),
)  # fmt: skip
def test_unusual_but_right_options_are_answered(
    options: dict[str, Any], tiny_model: Model, make_photo: Callable[..., Image.Image]
):
    found = tiny_model.explain(make_photo(), **options)
    count = min(options.get("top_k", 5), len(tiny_model.card.labels))
    assert len(found.predictions) == count


@pytest.mark.parametrize(
    "call",
    [
        *(lambda value=value: cbam.load(value) for value in [*THINGS, 5, None, "", "nope", "a\0b"]),
        *(lambda value=value: cbam.available(value) for value in [*THINGS, 5]),
        *(lambda value=value: cbam.build(value) for value in [*THINGS, 5, None, "resnet19"]),
        *(
            lambda value=value: cbam.build("resnet18", attention=value)
            for value in [*THINGS, 3, None, "cbma"]
        ),
        *(
            lambda value=value: cbam.build("resnet18", num_classes=value)
            for value in [*THINGS, 0, -1, True, "10", None]
        ),
        *(
            lambda value=value: cbam.compare(value, Image.new("RGB", (8, 8)))
            for value in [*THINGS, None, [], [5], "resnet50-imagenet", ["resnet50-imagenet"]]
        ),
    ],
)
def test_a_wrong_argument_of_a_public_function_is_refused(call: Callable[[], object]):
    refused(call)


def test_a_model_instead_of_a_list_and_options_that_are_none(
    tiny_model: Model, make_photo: Callable[..., Image.Image]
):
    assert "list of models" in refused(lambda: cbam.compare(tiny_model, make_photo()), BadOption)
    assert "Options" in refused(lambda: cbam.compare([tiny_model], make_photo(), "cat"), BadOption)
    assert "back end" in refused(lambda: cbam.load("resnet50-imagenet", "x"), UnknownName)


@pytest.mark.parametrize("value", [*THINGS, None, -0.1, 1.1, "half"])
def test_a_wrong_opacity_is_refused(
    value: Any, tiny_model: Model, make_photo: Callable[..., Image.Image]
):
    found = tiny_model.explain(make_photo(), target=1)
    refused(lambda: found.overlay(value), BadOption)


@pytest.mark.parametrize("value", [*THINGS, 5, ["layer9"], "layer9"])
def test_a_model_is_not_cut_behind_what_is_no_layer(value: Any, tiny_model: Model):
    refused(lambda: tiny_model.cut(value))
    assert tiny_model.cut("layer3.1") is tiny_model.cut(["layer3.1"])


def test_the_message_says_what_came_and_what_would_work(tiny_model: Model):
    said = refused(lambda: Options(layer=nn.Conv2d(3, 512, 7)), BadOption)
    assert said == (
        "layer is of the kind Conv2d; it has to be the name of a block, such as 'layer4.1', or a "
        "list of names."
    )
    assert refused(lambda: Options(top_k=0)) == "top_k is 0; it has to be a whole number from 1."
    assert "'five'" in refused(lambda: Options(top_k="five"))  # type: ignore[arg-type]


def test_every_error_on_purpose_stands_in_the_tree_that_is_drawn():
    kinds = [each for each in vars(errors).values() if isinstance(each, type)]
    for kind in kinds:
        if issubclass(kind, CBAMLensError):
            assert f" {kind.__name__} " in f" {errors.__doc__} ".replace("\n", " "), kind


# Comparing what holds arrays


def all_dataclasses() -> list[type]:
    found: dict[str, type] = {}
    for module in pkgutil.walk_packages(cbam.__path__, "cbam."):
        try:
            loaded = importlib.import_module(module.name)
        except ImportError:
            continue  # an extra that this machine lacks
        for each in vars(loaded).values():
            if isinstance(each, type) and dataclasses.is_dataclass(each):
                found[f"{each.__module__}.{each.__qualname__}"] = each
    assert len(found) > 20
    return [found[name] for name in sorted(found)]


def holds_arrays(kind: object, seen: frozenset[object] = frozenset()) -> bool:
    """Whether a value of this type may hold arrays, pictures or tensors, which have no one ==."""
    if kind in seen:
        return False
    seen |= {kind}
    origin = typing.get_origin(kind)
    if origin is np.ndarray or kind in (np.ndarray, Tensor):
        return True
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return kind.__eq__ is not object.__eq__ and any(
            holds_arrays(each, seen) for each in typing.get_type_hints(kind).values()
        )
    if origin is Callable or "Callable" in str(origin):
        return False
    return any(holds_arrays(each, seen) for each in typing.get_args(kind))


@pytest.mark.parametrize("kind", all_dataclasses(), ids=lambda kind: kind.__qualname__)
def test_what_holds_arrays_is_compared_by_identity(kind: type):
    if any(holds_arrays(each) for each in typing.get_type_hints(kind).values()):
        assert kind.__eq__ is object.__eq__


def test_explanations_can_be_compared_kept_in_sets_and_looked_up(
    tiny_model: Model, make_photo: Callable[..., Image.Image]
):
    one, other = (tiny_model.explain(make_photo()) for _ in range(2))
    assert one == one
    assert one != other
    assert one != "an explanation"
    assert one in [other, one]
    assert len({one, other, one}) == 2
    parts = [(e.heatmaps[0], e.attention[0], e.attention[0].gates["channel"]) for e in (one, other)]
    for mine, its in zip(*parts, strict=True):
        assert mine == mine
        assert mine != its
    assert one.predictions == other.predictions  # plain values still compare
    assert isinstance(one, Explanation)


# Text files as editors leave them

EDITED: dict[str, Callable[[str], bytes]] = {
    "BOM": lambda text: (BOM + text).encode(),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "BOM and CRLF": lambda text: (BOM + text.replace("\n", "\r\n")).encode(),
    "blank lines at the end": lambda text: (text + "\n\r\n  \n").encode(),
    "no line end": lambda text: text.rstrip("\n").encode(),
}


@pytest.mark.parametrize("how", EDITED)
@pytest.mark.parametrize("file", ["labels.txt", "card.toml"])
def test_a_card_edited_anywhere_is_read(tiny_card: Card, file: str, how: str):
    path = tiny_card.folder / file
    path.write_bytes(EDITED[how](path.read_text(encoding="utf-8")))
    assert read_card(tiny_card.folder) == tiny_card


@pytest.mark.parametrize("how", EDITED)
def test_a_recipe_edited_anywhere_is_read(tmp_path: Path, how: str):
    recipes = Path(cbam.__file__).parent.parent / "recipes"
    for name in ("tiny-imagenet.toml", "tiny-imagenet-wide.toml"):  # the second has a base
        text = (recipes / name).read_text(encoding="utf-8")
        (tmp_path / name).write_bytes(EDITED[how](text))
        assert read_recipe(tmp_path / name) == read_recipe(recipes / name)


def test_unusual_line_ends_within_a_label_do_not_make_two(tiny_card: Card):
    labels = ("a\x0bb", "c\u2028d", "e\x85f", "g h ", "i")
    card = write_card(dataclasses.replace(tiny_card, labels=labels))
    assert card.labels[:3] == labels[:3]
    assert len(card.labels) == 5


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("card.toml", b""),
        ("card.toml", b"name = 1\n[preprocess]\nsize_px = 'big'\n"),
        ("card.toml", "\ufefft\u00fc".encode("utf-16")),
        ("card.toml", b"name = "),
        ("labels.txt", b""),
        ("labels.txt", b"\xff\xfe\x00"),
        ("labels.txt", None),
    ],
)
def test_a_card_that_cannot_be_read_says_why_in_one_line(
    tiny_card: Card, file: str, data: bytes | None
):
    path = tiny_card.folder / file
    path.unlink() if data is None else path.write_bytes(data)
    assert str(tiny_card.folder) in refused(lambda: read_card(tiny_card.folder), BadCard)


@pytest.mark.parametrize("data", [b"", b"family = 1\nwrong = 2\n", b"a = ", b"\xff\xfe", None])
def test_a_recipe_that_cannot_be_read_says_why_in_one_line(tmp_path: Path, data: bytes | None):
    path = tmp_path / "recipe.toml"
    if data is not None:
        path.write_bytes(data)
    assert str(path) in refused(lambda: read_recipe(path), BadRecipe)


@pytest.mark.parametrize(
    "value", [5, None, [], {}, object(), "a\0b.png", "/", "gone.png", b"", b"x"]
)
def test_what_is_no_photo_is_refused(value: Any, tiny_model: Model):
    refused(lambda: tiny_model.explain(value), errors.BadImage)


def test_a_picture_that_breaks_off_is_refused_although_it_was_opened(
    tiny_model: Model, make_photo: Callable[..., Image.Image], tmp_path: Path
):
    make_photo().save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    with Image.open(tmp_path / "cut.png") as lazy:
        refused(lambda: tiny_model.explain(lazy), errors.BrokenImage)
