"""Bundles: what is written is read again, and nothing that a stranger wrote is believed."""

import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cbam
from cbam.bundle import read as reading
from cbam.bundle.read import read, read_file
from cbam.bundle.records import Bundle, bundle_of, gates_text
from cbam.bundle.write import write, zipped
from cbam.cards.card import Card
from cbam.errors import BadBundle
from cbam.explain.explainer import answer, before_and_after
from cbam.explain.explanation import Explanation
from cbam.explain.question import Options, resolve
from cbam.images.photo import open_photo
from cbam.model import Model
from cbam.sheets import attention_sheet, compare_sheet

SENT = hashlib.sha256(b"a file").hexdigest()
Edit = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def models(make_model: Callable[..., Model]) -> list[Model]:
    return [make_model("none"), make_model("cbam"), make_model("simam")]


@pytest.fixture(scope="module")
def asked(models: list[Model], make_photo: Callable[..., Image.Image]) -> Callable[..., Bundle]:
    """Ask the models: `asked(gates="open")`."""

    def ask(**options: Any) -> Bundle:
        given = Options(**options)
        question, photo = resolve(models, given), open_photo(make_photo())
        if not given.gates:
            return bundle_of(answer(question, photo), models, given, SENT)
        before, after = before_and_after(question, photo)
        return bundle_of(before, models, given, SENT, after)

    return ask


@pytest.fixture(scope="module")
def plain(asked: Callable[..., Bundle]) -> bytes:
    return write(asked(), '{"an": "answer"}')


def entries(data: bytes) -> dict[str, bytes]:
    """A zip's files by name."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def edited(data: bytes, edit: Edit, files: Mapping[str, bytes] | None = None) -> bytes:
    """A bundle whose manifest is changed, and whose files are replaced with hashes that fit."""
    found = {**entries(data), **(files or {})}
    manifest = json.loads(found.pop("manifest.json"))
    manifest["files"] = {
        name: hashlib.sha256(content).hexdigest() for name, content in found.items()
    }
    edit(manifest)
    return zipped({"manifest.json": json.dumps(manifest).encode(), **found})


def nothing(_: dict[str, Any]) -> None:
    pass


def assert_same(mine: Explanation, its: Explanation) -> None:
    for name in ("model", "view", "predictions", "target", "method", "layer", "versus", "words",
                 "fuse", "classes", "none_of_these"):  # fmt: skip
        assert getattr(mine, name) == getattr(its, name), name
    assert dict(mine.changed) == dict(its.changed)
    assert np.array_equal(np.asarray(mine.photo), np.asarray(its.photo))
    for one, other in zip(mine.heatmaps, its.heatmaps, strict=True):
        assert (one.index, one.label) == (other.index, other.label)
        assert np.array_equal(one.map, other.map)
    for one, other in zip(mine.attention, its.attention, strict=True):
        assert one.block == other.block
        assert list(one.gates) == list(other.gates)
        for name, gate in one.gates.items():
            assert gate.kind == other.gates[name].kind
            assert np.array_equal(gate.values, other.gates[name].values)


@pytest.mark.parametrize(
    "options",
    [{}, {"target": "church", "method": "layercam", "layer": ["layer2.0", "layer4.1"], "top_k": 2,
      "fuse": "max"},
     {"target": 1, "versus": "tench", "method": "finercam"}, {"gates": "open"},
     {"gates": {"layer1.0.channel": 0.5}}],
    ids=["plain", "layers", "versus", "open", "mapping"],
)  # fmt: skip
def test_what_is_written_is_read_again(asked: Callable[..., Bundle], options: dict[str, Any]):
    bundle = asked(**options)
    found = read(write(bundle))
    assert found.question == bundle.question
    assert found.models == bundle.models
    assert found.photo_sha256 == SENT
    assert found.made_with == bundle.made_with
    for mine, its in ((bundle.explanations, found.explanations), (bundle.shown, found.shown)):
        for one, other in zip(mine, its, strict=True):
            assert_same(one, other)
    assert (found.changed is None) == (not options.get("gates"))
    assert write(found) == write(bundle)


def test_the_same_answer_gives_the_same_bytes_whenever_it_is_asked(asked: Callable[..., Bundle]):
    first, second = asked(), asked()
    assert first.explanations[0] is not second.explanations[0]
    assert write(first) == write(second)
    assert write(first) != write(asked(target="church"))


def test_a_bundle_is_pictures_arrays_and_a_manifest(plain: bytes, models: list[Model]):
    found = entries(plain)
    manifest = json.loads(found["manifest.json"])
    assert set(manifest["files"]) == set(found) - {"manifest.json"}
    for name, sha256 in manifest["files"].items():
        assert hashlib.sha256(found[name]).hexdigest() == sha256
    arrays = [name for name in found if name.endswith(".npy")]
    assert len(arrays) > 20
    for name in arrays:
        values = np.load(io.BytesIO(found[name]), allow_pickle=False)
        assert values.dtype == np.float32
        picture = Image.open(io.BytesIO(found[name.removesuffix(".npy") + ".png"]))
        assert picture.size > (8, 8)
    photo = Image.open(io.BytesIO(found["photo.png"]))
    assert (photo.mode, photo.size, photo.info) == ("RGB", (90, 70), {})
    assert found["answer.json"] == b'{"an": "answer"}'
    assert manifest["made_with"]["cbam-lens"] == cbam.__version__
    assert [each["name"] for each in manifest["models"]] == [each.name for each in models]
    with zipfile.ZipFile(io.BytesIO(plain)) as archive:
        assert {each.date_time[0] for each in archive.infolist()} == {1980}
        assert {each.compress_type for each in archive.infolist()} == {zipfile.ZIP_STORED}


def test_the_weights_are_named_by_their_hash(
    tiny_card: Card, make_photo: Callable[..., Image.Image]
):
    model = cbam.load(tiny_card.folder)
    found = bundle_of([model.explain(make_photo())], [model], Options(), SENT)
    assert found.models[0].weights_sha256 == tiny_card.weights_sha256
    assert found.models[0].preprocess == tiny_card.preprocess
    assert read(write(found)).models == found.models


def test_the_pictures_of_what_was_read_are_those_of_what_was_written(asked: Callable[..., Bundle]):
    bundle = asked(gates="open")
    found = read(write(bundle))
    for sheet in (compare_sheet, lambda every: attention_sheet(every[-1])):
        assert sheet(found.shown).tobytes() == sheet(bundle.shown).tobytes()


def test_a_bundle_that_somebody_packed_anew_is_read(plain: bytes):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in reversed(entries(plain).items()):
            archive.writestr(name, content)
    assert read(buffer.getvalue()).models == read(plain).models


@pytest.mark.parametrize(
    ("gates", "text"),
    [(None, ""), ("open", "open"), ({"a.b": "off", "*": 0.5}, "a.b=off, *=0.5"),
     ({"a": np.zeros((2, 3))}, "a=an array of 2 x 3")],
    ids=["none", "text", "mapping", "array"],
)  # fmt: skip
def test_changes_of_gates_are_named_as_one_text(gates: Any, text: str):
    assert gates_text(gates) == text


# What strangers send


def refused(data: bytes, *words: str) -> None:
    with pytest.raises(BadBundle) as raised:
        read(data)
    said = str(raised.value)
    assert "\n" not in said
    assert len(said) < 500
    for word in words:
        assert word in said, said


@pytest.mark.parametrize(
    ("data", "word"),
    [(b"", "no zip"), (b"hello", "no zip"), (b"PK", "cut off"), (b"PK\3\4" + bytes(100), "cut off"),
     (zipped({}), "manifest.json"), (zipped({"photo.png": b""}), "manifest.json"),
     (zipped({"manifest.json": b"{}"}), "does not hold together"),
     (zipped({"manifest.json": b"not json"}), "does not hold together"),
     (zipped({"manifest.json": b"\xff\xfe"}), "does not hold together"),
     (zipped({"manifest.json": b"[" * 100_000}), "does not hold together"),
     (zipped({"manifest.json": b'{"format": "x"}'}), "no bundle of the format"),
     (zipped({"manifest.json": b"1e999"}), "does not hold together")],
    ids=["empty", "text", "two bytes", "zeros", "no files", "no manifest", "{}", "no JSON",
         "no text", "deep", "another", "infinite"],
)  # fmt: skip
def test_what_is_no_bundle_is_refused(data: bytes, word: str):
    refused(data, word)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_bundle_that_is_cut_off_is_refused(plain: bytes, share: float):
    refused(plain[: int(len(plain) * share)])


@pytest.mark.parametrize("at", range(0, 100, 7))
def test_a_bundle_with_a_flipped_byte_is_refused(plain: bytes, at: int):
    spoilt = bytearray(plain)
    place = len(entries(plain)["manifest.json"]) + 2000 + at * (len(plain) - 200_000) // 100
    spoilt[place] ^= 0xFF
    refused(bytes(spoilt))


def test_a_file_that_was_changed_is_named(plain: bytes):
    found = entries(plain)
    name = next(name for name in found if name.endswith(".npy"))
    refused(zipped({**found, name: found[name][:-4] + bytes(4)}), name, "was changed")


def test_files_that_the_manifest_does_not_know_are_refused(plain: bytes):
    refused(zipped({**entries(plain), "more.txt": b"x"}), "more.txt")
    refused(zipped({k: v for k, v in entries(plain).items() if k != "photo.png"}), "photo.png")


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/x", "a/../x", "a//x", "C:\\x", "a/./x", "..", "a\nb", "x" * 300, "é", "a/"],
)
def test_a_path_that_leads_elsewhere_is_refused(plain: bytes, name: str):
    refused(zipped({**entries(plain), name: b"x"}), "name")


def test_a_file_that_is_there_twice_is_refused(plain: bytes):
    buffer = io.BytesIO(plain)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("photo.png", b"x")
    refused(buffer.getvalue(), "twice")


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch, plain: bytes):
    monkeypatch.setattr(reading, "MOST_BYTES", 2**20)
    monkeypatch.setattr(reading, "_content", lambda *_: pytest.fail("it was unpacked"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", entries(plain)["manifest.json"])
        archive.writestr("zeros.npy", bytes(2**21))
    assert len(buffer.getvalue()) < 2**20
    refused(buffer.getvalue(), "unpacked")


def test_a_file_that_unpacks_to_more_than_it_says_is_refused(plain: bytes):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", entries(plain)["manifest.json"])
        archive.writestr("zeros.npy", bytes(2**20))
    # Both headers say 64 bytes.
    lying = buffer.getvalue().replace(struct.pack("<I", 2**20), struct.pack("<I", 64))
    refused(lying)


def test_a_list_of_very_many_files_is_refused(monkeypatch: pytest.MonkeyPatch, plain: bytes):
    many = zipped({f"{number}": b"" for number in range(2000)})
    monkeypatch.setattr(reading, "MOST_FILES", 100)
    refused(many, "2000 files")
    monkeypatch.setattr(reading, "MOST_DIRECTORY", 1000)
    refused(many, "list of files")
    refused(plain + b"more", "follows")


def test_an_encrypted_file_is_refused(plain: bytes):
    spoilt = bytearray(plain)
    spoilt[plain.rfind(b"PK\1\2") + 8] |= 1
    refused(bytes(spoilt), "encrypted")


def npy(values: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, **options)
    return buffer.getvalue()


def header(text: str, data: bytes = b"") -> bytes:
    """An .npy file whose header says anything."""
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode() + data


@pytest.mark.parametrize(
    ("content", "word"),
    [(npy(np.array([{"a": print}], dtype=object), allow_pickle=True), "shape"),
     (header("{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }"), "object"),
     (npy(np.zeros((2, 2))), "float64"), (npy(np.zeros((3, 3), np.float32)), "shape"),
     (npy(np.zeros((2, 2, 1), np.float32)), "shape"),
     (npy(np.asfortranarray(np.arange(4, dtype=np.float32).reshape(2, 2))), "shape"),
     (npy(np.full((2, 2), np.nan, np.float32)), "no numbers"),
     (npy(np.full((2, 2), np.inf, np.float32)), "no numbers"),
     (npy(np.zeros((2, 2), np.float32))[:-1], "more or fewer"),
     (npy(np.zeros((2, 2), np.float32)) + b"x", "more or fewer"),
     (header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999, 9999999), }"), "shape"),
     (header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), 'x': __import__('os')}"),
      "no NumPy array"),
     (header("(" * 3000), "no NumPy array"), (b"", "no NumPy array"),
     (b"\x93NUMPY\3\0", "no NumPy"), (b"\x80\4\x95", "no NumPy array")],
    ids=["pickled", "object", "double", "other shape", "more axes", "by columns", "nan", "inf",
         "short", "long", "huge", "code", "deep", "empty", "format 3", "pickle"],
)  # fmt: skip
def test_an_array_that_is_another_is_refused(plain: bytes, content: bytes, word: str):
    name = next(name for name in entries(plain) if name.endswith("heatmaps/0-0.npy") or
                "heatmaps/0-" in name and name.endswith(".npy"))  # fmt: skip

    def shaped(manifest: dict[str, Any]) -> None:
        for each in (item for result in manifest["results"] for item in result["heatmaps"]):
            if each["file"] == name:
                each["shape"] = [2, 2]

    refused(edited(plain, shaped, {name: content}), name, word)


def huge_shape(manifest: dict[str, Any]) -> None:
    manifest["results"][0]["heatmaps"][0]["shape"] = [2**26, 2**26]


def other_axes(manifest: dict[str, Any]) -> None:
    manifest["results"][1]["attention"][0]["gates"][0]["kind"]["axes"] = "XY"


EDITS: dict[str, tuple[Edit, str]] = {
    "huge shape": (huge_shape, "shape"),
    "no results": (lambda m: m.update(results=[]), "not those of the models"),
    "another model": (lambda m: m["results"][0].update(model="x"), "not those of the models"),
    "no models": (lambda m: m.update(models=[]), "models"),
    "outside": (lambda m: m["results"][0]["view"].update(x1=9999), "outside"),
    "inside out": (lambda m: m["results"][0]["view"].update(x0=50, x1=10), "outside"),
    "no prediction": (lambda m: m["results"][0].update(predictions=[]), "predictions"),
    "no heat map": (lambda m: m["results"][0].update(heatmaps=[]), "heatmaps"),
    "long label": (lambda m: m["results"][0]["target"].update(label="x" * 10**6), "no model can"),
    "chance of 2": (lambda m: m["results"][0]["target"].update(probability=2.0), "no model can"),
    "unknown key": (lambda m: m.update(more=1), "more"),
    "wrong kind": (lambda m: m["results"][0].update(classes="five"), "classes"),
    "no file": (lambda m: m["results"][0]["heatmaps"][0].update(file="x.npy"), "missing"),
    "axes": (other_axes, "axes"),
    "size": (lambda m: m["photo"].update(width=91), "pixels"),
    "photo": (lambda m: m["photo"].update(file="answer.json"), "photo cannot be used"),
    "version 2": (lambda m: m.update(version=2), "version 1"),
    "hash": (lambda m: m["photo"].update(sha256="x"), "sha256"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_manifest_that_does_not_hold_together_is_refused(plain: bytes, name: str):
    edit, word = EDITS[name]
    refused(edited(plain, edit), word)


def test_the_helper_of_these_tests_leaves_a_good_bundle_good(plain: bytes):
    found = read(edited(plain, nothing))
    assert [asdict(each.view) for each in found.explanations] == [
        asdict(each.view) for each in read(plain).explanations
    ]


def test_a_file_that_is_none_or_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: bytes
):
    path = tmp_path / "x.zip"
    for wrong in (path, tmp_path, Path("a\0b")):
        with pytest.raises(BadBundle, match="cannot be read"):
            read_file(wrong)
    path.write_bytes(plain)
    assert read_file(path).photo_sha256 == SENT
    monkeypatch.setattr(reading, "MOST_BYTES", 1000)
    with pytest.raises(BadBundle, match="at most"):
        read_file(path)
