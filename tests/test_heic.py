"""HEIC, the photos of phones: the right picture, within the limits, whatever the boxes say."""

import struct
from pathlib import Path

import numpy as np
import pytest
from app_fixtures import assert_problem
from fastapi.testclient import TestClient
from heic import (
    CODEC,
    QUARTERS,
    Item,
    box,
    exif,
    grid,
    heic,
    mirrored,
    numbered,
    picture,
    profile,
    size,
    turned,
)
from PIL import Image, ImageCms

from cbam.data.labelled import labelled_photos
from cbam.errors import BadImage, BrokenImage, ImageTooLarge, NotAnImage
from cbam.images import colour
from cbam.images.decode import decode
from cbam.images.formats import FORMATS, HEIC, format_of
from cbam.images.heic import announced

pytest_plugins = ["app_fixtures"]

RED, GREEN, BLUE, YELLOW = QUARTERS
FAR = 10  # levels, of what comes through the codec
ALPHA = box(b"auxC", b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0", 0)


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """The colours of the quarters, row by row, each as the one of QUARTERS that is nearest."""
    pixels = np.asarray(image, dtype=int)
    height, width = pixels.shape[:2]
    found = pixels[height // 4 :: height // 2, width // 4 :: width // 2].reshape(4, 3)
    named = []
    for each in found:
        distances = np.abs(np.array(QUARTERS) - each).max(axis=1)
        assert distances.min() <= FAR
        named.append(QUARTERS[int(distances.argmin())])
    return named


def test_heic_is_decoded_to_rgb():
    found = decode(heic())
    assert (found.mode, found.size, found.info) == ("RGB", (64, 64), {})
    assert corners(found) == [RED, GREEN, BLUE, YELLOW]


@pytest.mark.parametrize(
    "brands",
    [(b"heic",), (b"heix", b"mif1"), (b"mif1", b"heic"), (b"mif1", b"miaf")],
)
def test_heic_is_known_by_its_brands(brands: tuple[bytes, ...]):
    data = heic(brands=brands)
    assert format_of(data) is HEIC
    assert decode(data).size == (64, 64)


@pytest.mark.parametrize("brands", [(b"avif",), (b"mif1", b"avif"), (b"avis", b"msf1", b"mif1")])
def test_avif_is_named_and_told_what_to_do(brands: tuple[bytes, ...]):
    with pytest.raises(NotAnImage, match=r"AVIF.* Save it as"):
        decode(heic(brands=brands))


@pytest.mark.parametrize("brand", [b"isom", b"qt  ", b"crx ", b"jp2 "])
def test_other_files_of_boxes_are_no_image_here(brand: bytes):
    assert format_of(heic(brands=(brand,))) is None
    with pytest.raises(NotAnImage):
        decode(heic(brands=(brand,)))


# Against the clock by quarters, then mirrored: what lies where afterwards.
@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ((turned(0),), [RED, GREEN, BLUE, YELLOW]),
        ((turned(1),), [GREEN, YELLOW, RED, BLUE]),
        ((turned(2),), [YELLOW, BLUE, GREEN, RED]),
        ((turned(3),), [BLUE, RED, YELLOW, GREEN]),
        ((mirrored(1),), [GREEN, RED, YELLOW, BLUE]),
        ((mirrored(0),), [BLUE, YELLOW, RED, GREEN]),
        ((turned(1), mirrored(1)), [YELLOW, GREEN, BLUE, RED]),
    ],
)
@pytest.mark.parametrize("orientation", [0, 1, 3, 6, 8])
def test_a_photo_is_turned_once_by_its_boxes_whatever_its_exif_says(
    properties: tuple[bytes, ...], expected: list[tuple[int, ...]], orientation: int
):
    more = [exif(orientation)] if orientation else []
    assert corners(decode(heic(picture(*properties), *more))) == expected


def test_a_turned_photo_has_the_size_of_what_is_seen():
    tiles = [Item(hidden=True)] * 2
    whole = grid(2, 1, 128, 64, [2, 3])
    whole.properties = (*whole.properties, turned(1))
    assert decode(heic(whole, *tiles)).size == (64, 128)


def test_a_photo_of_tiles_is_put_together():
    found = decode(heic(grid(2, 2, 128, 100, [2, 3, 4, 5]), *[Item(hidden=True)] * 4))
    assert found.size == (128, 100)
    assert corners(found.crop((64, 0, 128, 64))) == [RED, GREEN, BLUE, YELLOW]


def test_the_primary_picture_is_the_photo():
    small = picture(turned(2))
    assert corners(decode(heic(Item(), small, primary=2))) == [YELLOW, BLUE, GREEN, RED]


def test_a_profile_and_its_numbers_mean_the_same_colours():
    white, *points = colour.PRIMARIES[12]
    p3 = colour.profile_of(white, points, None)
    by_profile, by_numbers = (
        np.asarray(decode(heic(picture(each))), dtype=int)
        for each in (profile(p3), numbered(12, 13))
    )
    plain = np.asarray(decode(heic()), dtype=int)
    np.testing.assert_array_equal(by_profile, by_numbers)
    photo = Image.fromarray(plain.astype(np.uint8))
    photo.info["icc_profile"] = p3
    expected = colour.conversion(photo)
    assert expected is not None
    assert np.abs(np.asarray(expected(photo), dtype=int) - by_profile).max() <= 1
    assert np.abs(plain - by_profile).max() > 15


@pytest.mark.parametrize("numbers", [(1, 13), (1, 1), (2, 2)])
def test_numbers_that_mean_srgb_or_nothing_change_nothing(numbers: tuple[int, int]):
    np.testing.assert_array_equal(
        np.asarray(decode(heic(picture(numbered(*numbers))))), np.asarray(decode(heic()))
    )


def test_a_broken_profile_changes_nothing():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for icc in (b"junk" * 50, srgb):
        found = decode(heic(picture(profile(icc))))
        np.testing.assert_array_equal(np.asarray(found), np.asarray(decode(heic())))


def test_the_limits_of_heic_hold_before_decoding():
    said = heic(picture(said=size(6000, 5000)))
    with pytest.raises(ImageTooLarge, match=r"HEIC has 6000 x 5000 pixels; at most 25 megapixels"):
        decode(said)
    with pytest.raises(ImageTooLarge, match="20000 x 10"):
        decode(heic(picture(said=size(20_000, 10))))
    assert decode(heic(), max_pixels=6554).size == (64, 64)  # 4096 * 1.6
    with pytest.raises(ImageTooLarge):
        decode(heic(), max_pixels=6553)


@pytest.mark.parametrize("said", [(32, 32), (63, 64), (65, 64), (1, 1), (4000, 4000)])
def test_a_picture_of_another_size_than_its_header_says_is_refused(said: tuple[int, int]):
    with pytest.raises(BrokenImage):
        decode(heic(picture(said=size(*said))))


def tile(width: int, height: int) -> Item:
    return Item(properties=(box(b"hvcC", CODEC), size(width, height)), hidden=True)


def bomb() -> bytes:
    """A picture of 64 x 64 for which 100 pictures of 16 megapixels would be decoded."""
    return heic(grid(100, 1, 64, 64, [*range(2, 102)]), *[tile(4000, 4000)] * 100)


def nested() -> bytes:
    """A grid of grids of grids ... of one another."""
    return heic(*(grid(2, 1, 64, 64, [at + 1, at + 1]) for at in range(1, 9)), Item())


def cut_out() -> bytes:
    """A picture of one pixel, cut from one of 100 megapixels."""
    clap = box(b"clap", struct.pack(">8I", 1, 1, 1, 1, 0, 1, 0, 1))
    return heic(picture(clap, said=size(10_000, 10_000)))


HOSTILE = {
    "tiles of 1600 megapixels": bomb(),
    "a pixel of 100 megapixels": cut_out(),
    "grids of grids": nested(),
    "a grid of itself": heic(grid(1, 1, 64, 64, [1])),
    "a grid of nothing": heic(grid(2, 2, 128, 128, [])),
    "a grid of what is not there": heic(grid(1, 1, 64, 64, [9])),
    "a grid that is larger than its tiles": heic(grid(2, 1, 4000, 64, [2, 3]), Item(), Item()),
    "no size": heic(Item(properties=(box(b"hvcC", CODEC),))),
    "no codec": heic(Item(properties=(size(64, 64),))),
    "a size of nothing": heic(picture(said=size(0, 0))),
    "no primary picture": heic(primary=7),
    "a picture of another kind": heic(Item(b"av01")),
    "a primary that is metadata": heic(Item(), exif(1), primary=2),
    "5,000 pictures": heic(*[Item()] * 5000),
    "a box longer than the file": heic().replace(b"\0\0\0\x14ispe", b"\xff\0\0\x14ispe"),
    "a box of no length": heic().replace(b"\0\0\0\x14ispe", b"\0\0\0\x01ispe"),
    "two headers": heic()[:24] + heic()[24:].replace(b"mdat", b"meta") + heic()[24:],
    "nothing but its brands": heic()[:24],
    "pixels of zeros": heic(Item(data=bytes(65))),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_heic_is_refused(kind: str):
    with pytest.raises(BadImage) as caught:
        decode(HOSTILE[kind])
    assert len(str(caught.value)) < 300


def test_all_that_is_decoded_for_a_picture_is_counted():
    assert announced(heic()) == 64 * 64
    tiles = [*range(2, 102)]
    assert announced(heic(grid(100, 1, 64, 64, tiles), *[tile(40, 30)] * 100)) == 64 * 64 + 120_000
    clear = Item(properties=(box(b"hvcC", CODEC), size(64, 64), ALPHA), hidden=True)
    assert announced(with_alpha(clear)) == 2 * 64 * 64


def with_alpha(clear: Item) -> bytes:
    """The picture and another that says how opaque it is: its own brightness."""
    clear.made_of, link = (1,), b"dimg"
    return heic(Item(), clear).replace(link, b"auxl")


def test_a_heic_with_transparency_may_have_half_the_pixels():
    clear = Item(properties=(box(b"hvcC", CODEC), size(64, 64), ALPHA), hidden=True)
    assert decode(with_alpha(clear), max_pixels=8192).size == (64, 64)
    with pytest.raises(ImageTooLarge, match="HEIC with transparency"):
        decode(with_alpha(clear), max_pixels=8191)


def test_an_alpha_picture_lays_the_photo_on_white():
    clear = Item(properties=(box(b"hvcC", CODEC), size(64, 64), ALPHA), hidden=True)
    plain, found = (np.asarray(decode(each), dtype=int) for each in (heic(), with_alpha(clear)))
    assert (found >= plain - 2).all()
    assert found.mean() > plain.mean() + 20
    large = Item(properties=(box(b"hvcC", CODEC), size(10_000, 10_000), ALPHA), hidden=True)
    with pytest.raises(ImageTooLarge):
        decode(with_alpha(large))


@pytest.mark.parametrize("length", range(8, 400, 7))
def test_a_truncated_heic_is_refused(length: int):
    with pytest.raises(BadImage):
        decode(heic()[:length])


def test_what_phones_append_is_no_matter():
    assert corners(decode(heic() + b"SEFH and a film \0\0\0\1")) == [RED, GREEN, BLUE, YELLOW]


def test_many_pictures_are_one_photo():
    assert corners(decode(heic(*[Item()] * 500))) == [RED, GREEN, BLUE, YELLOW]


def test_a_folder_of_heic_photos_is_evaluated(tmp_path: Path):
    for name in ("a.heic", "b.HEIC", "c.heif"):
        path = tmp_path / "tench" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(heic())
    assert [each.name[-6:] for each in labelled_photos(["tench"], tmp_path)] == [
        "a.heic",
        "b.HEIC",
        "c.heif",
    ]


def test_the_service_takes_heic(client: TestClient):
    answer = client.post("/api/v1/explain", files={"image": ("IMG_1.HEIC", heic(), "image/heic")})
    assert answer.status_code == 200, answer.text
    assert answer.json()["image"]["width"] == 64
    assert "HEIC" in client.get("/api/v1/limits").json()["formats"]


@pytest.mark.parametrize("kind", HOSTILE)
def test_the_service_refuses_hostile_heic_with_a_sentence(client: TestClient, kind: str):
    answer = client.post("/api/v1/explain", files={"image": ("a.heic", HOSTILE[kind])})
    assert answer.status_code in (415, 422)
    assert_problem(answer, answer.status_code)


def test_the_page_brings_a_heic_photo_as_a_picture_that_browsers_show(client: TestClient):
    answer = client.post("/", files={"image": ("a.heic", heic(), "image/heic")})
    assert answer.status_code == 200
    assert 'src="data:image/jpeg;base64,' in answer.text
    assert "data:image/heic" not in answer.text


def test_the_form_offers_heic_files(client: TestClient):
    page = client.get("/").text
    for each in (*HEIC.accept, "image/jpeg"):
        assert each in page.split('accept="')[1].split('"')[0].split(",")


def test_without_the_package_heic_is_named_and_told_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(FORMATS, "HEIF")
    with pytest.raises(NotAnImage, match=r"HEIC.* Save it as"):
        decode(heic())
