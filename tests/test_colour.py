"""Colour profiles: a photo's numbers become those that sRGB has for the same colours."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from hostile import chunk, encoded, noise
from PIL import Image, ImageCms

from cbam.images import colour
from cbam.images.photo import open_photo

WIDE = Image.fromarray(
    np.random.default_rng(0).integers(40, 216, (24, 24, 3), dtype=np.uint8)
).resize((48, 48), Image.Resampling.BICUBIC)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
WHITE, RED, GREEN, BLUE = colour.PRIMARIES[12]
# Made by us: of Display P3's colours and sRGB's curve, and of sRGB's colours and a linear curve.
P3 = colour.profile_of(WHITE, (RED, GREEN, BLUE), None)
LINEAR = colour.profile_of(colour.PRIMARIES[1][0], colour.PRIMARIES[1][1:], 1.0)


def grey_profile(gamma: float) -> bytes:
    """A profile for grey with a power curve."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    at = 128 + 4 + 24
    index = struct.pack(">I4sII4sII", 2, b"wtpt", at, 20, b"kTRC", at + 20, 14)
    header = struct.pack(">I4xI", at + 36, 0x02400000) + b"mntrGRAYXYZ " + bytes(12) + b"acsp"
    header += bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + index + white + curve


def linear_to_srgb(values: np.ndarray) -> np.ndarray:
    """Light in 0..1 -> sRGB's levels, IEC 61966-2-1."""
    x = values.clip(0, 1)
    return np.rint(np.where(x <= 0.0031308, x * 12.92, 1.055 * x ** (1 / 2.4) - 0.055) * 255)


def srgb_to_linear(levels: np.ndarray) -> np.ndarray:
    x = levels / 255
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


# Linear Display P3 -> linear sRGB, as CSS Color 4 has it (by way of XYZ with a white of D65).
P3_TO_SRGB = np.array(
    [
        [1.2249401762805598, -0.2249401762805596, 0],
        [-0.0420569547096881, 1.0420569547096880, 0],
        [-0.0196375545903344, -0.0786360455506319, 1.0982736001409663],
    ]
)


def p3_by_hand(image: Image.Image) -> np.ndarray:
    light = srgb_to_linear(np.asarray(image.convert("RGB"), dtype=float))
    return linear_to_srgb(light @ P3_TO_SRGB.T)


def difference(found: Image.Image, expected: np.ndarray) -> float:
    return float(np.abs(np.asarray(found, dtype=float) - expected).mean())


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "PIL"])
def test_display_p3_becomes_srgb_as_css_says(format: str):
    options: dict[str, Any] = {
        "JPEG": {"quality": 100, "subsampling": 0},
        "WEBP": {"lossless": True},
    }.get(format, {})
    if format == "PIL":
        photo = WIDE.copy()
        photo.info["icc_profile"] = P3
    else:
        photo = encoded(WIDE, format, icc_profile=P3, **options)
    assert difference(open_photo(photo), p3_by_hand(WIDE)) < 1.0
    assert difference(WIDE, p3_by_hand(WIDE)) > 3  # as it came out before


@pytest.mark.parametrize("mode", ["RGBA", "P", "RGBX", "YCbCr"])
def test_a_profile_counts_in_every_mode_with_colours(mode: str):
    photo = WIDE.quantize(200) if mode == "P" else WIDE.convert(mode)
    expected = p3_by_hand(photo)
    photo.info["icc_profile"] = P3
    assert difference(open_photo(photo), expected) < 1.5


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16", "F"])
def test_a_profile_of_greys_counts_in_every_grey_mode(mode: str):
    levels = np.linspace(0, 255, 64, dtype=np.uint8).repeat(64).reshape(64, 64)
    photo = Image.fromarray(levels)
    if mode == "I;16":
        photo = Image.fromarray(levels * np.uint16(257))
    elif mode == "1":
        photo, levels = Image.fromarray(levels > 99), np.where(levels > 99, 255, 0)
    elif mode != "L":
        photo = photo.convert(mode)
    photo.info["icc_profile"] = grey_profile(1.0)  # the numbers are light
    found = np.asarray(open_photo(photo), dtype=float)
    assert np.abs(found - linear_to_srgb(levels / 255)[..., None]).max() <= 2


def test_lab_and_cmyk_use_their_own_conversions():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    photo = ImageCms.applyTransform(
        WIDE,
        ImageCms.buildTransform(
            ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
        ),
    )
    assert isinstance(photo, Image.Image)
    photo.info["icc_profile"] = lab
    assert difference(open_photo(photo), np.asarray(WIDE, dtype=float)) < 2
    cmyk = WIDE.convert("CMYK")
    plain = np.asarray(open_photo(cmyk))
    cmyk.info["icc_profile"] = cmyk_profile()
    found = np.asarray(open_photo(cmyk), dtype=int)
    # The profile's inks are lighter than Pillow's rule: its black is a dark grey.
    assert found.mean() > plain.mean() + 10
    paper = Image.new("CMYK", (4, 4))
    paper.info["icc_profile"] = cmyk_profile()
    assert open_photo(paper).getextrema() == ((255, 255),) * 3


def cmyk_profile() -> bytes:
    """A printer without black and with weak inks: a table of 2 x 2 x 2 x 2 colours in Lab."""
    table = b""
    for at in range(16):
        c, m, y, k = (at >> shift & 1 for shift in (3, 2, 1, 0))
        light = 100 - 20 * (c + m + y) - 10 * k
        a, b = 128 + 20 * (m - c), 128 + 20 * (y - c)
        table += bytes([round(light * 2.55), a, b])
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    ramp = bytes(range(256))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + table + ramp * 3
    lut += bytes(-len(lut) % 4)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    at = 128 + 4 + 24
    index = struct.pack(">I4sII4sII", 2, b"wtpt", at, 20, b"A2B0", at + 20, len(lut))
    header = struct.pack(">I4xI", at + 20 + len(lut), 0x02400000) + b"prtrCMYKLab " + bytes(12)
    header += b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + index + white + lut


@pytest.mark.parametrize(
    "profile",
    {
        "junk": b"junk" * 99,
        "cut": SRGB[:200],
        "a header alone": SRGB[:128] + bytes(4),
        "for grey": grey_profile(1.0),
        "for CMYK": cmyk_profile(),
        "far too large": SRGB + bytes(5 * 2**20),
        "text": "no bytes",
    }.values(),
    ids=("junk", "cut", "a header alone", "for grey", "for CMYK", "far too large", "text"),
)
def test_a_profile_that_is_broken_or_for_other_modes_changes_nothing(profile: Any):
    photo = WIDE.copy()
    photo.info["icc_profile"] = profile
    np.testing.assert_array_equal(np.asarray(open_photo(photo)), np.asarray(WIDE))


def test_a_profile_that_means_srgb_is_not_converted():
    sRGB_by_us = colour.profile_of(colour.PRIMARIES[1][0], colour.PRIMARIES[1][1:], None)
    for profile in (SRGB, sRGB_by_us):
        photo = WIDE.copy()
        photo.info["icc_profile"] = profile
        assert colour.conversion(photo) is None
        np.testing.assert_array_equal(np.asarray(open_photo(photo)), np.asarray(WIDE))


def test_a_profile_is_read_once():
    photo = WIDE.copy()
    photo.info["icc_profile"] = P3
    first = colour.conversion(photo)
    photo.info["icc_profile"] = bytes(bytearray(P3))  # as another file holds it
    assert colour.conversion(photo) is first


def with_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    data = encoded(WIDE, "PNG")
    return data[:33] + b"".join(chunk(*each) for each in chunks) + data[33:]


GAMMA_1 = (b"gAMA", struct.pack(">I", 100_000))
GAMMA_SRGB = (b"gAMA", struct.pack(">I", 45_455))
CHROMATICITIES_P3 = (
    b"cHRM",
    struct.pack(
        ">8I", *(round(value * 100_000) for point in (WHITE, RED, GREEN, BLUE) for value in point)
    ),
)


def test_a_pngs_gamma_and_chromaticities_count():
    linear = linear_to_srgb(np.asarray(WIDE, dtype=float) / 255)
    assert difference(open_photo(with_chunks(GAMMA_1)), linear) < 1
    found = open_photo(with_chunks(GAMMA_SRGB, CHROMATICITIES_P3))
    assert difference(found, p3_by_hand(WIDE)) < 1


@pytest.mark.parametrize(
    "chunks",
    [
        [GAMMA_SRGB],
        [(b"sRGB", b"\0"), GAMMA_1, CHROMATICITIES_P3],  # sRGB goes before
        [(b"gAMA", bytes(4))],
        [GAMMA_SRGB, (b"cHRM", bytes(32))],
        [GAMMA_SRGB, (b"cHRM", b"\x7f" * 32)],
    ],
    ids=["sRGB's gamma", "an sRGB chunk", "no gamma", "no chromaticities", "senseless ones"],
)
def test_a_pngs_chunks_that_mean_srgb_or_nothing_change_nothing(chunks: list[tuple[bytes, bytes]]):
    np.testing.assert_array_equal(np.asarray(open_photo(with_chunks(*chunks))), np.asarray(WIDE))


def test_a_photo_of_several_strips_is_converted_as_one(monkeypatch: pytest.MonkeyPatch):
    photo = encoded(WIDE, "PNG", icc_profile=P3)
    whole = np.asarray(open_photo(photo))
    monkeypatch.setattr("cbam.images.modes.STRIP_PIXELS", 48 * 7)
    np.testing.assert_array_equal(np.asarray(open_photo(photo)), whole)


def test_what_comes_out_holds_no_profile():
    found = open_photo(encoded(noise(), "JPEG", icc_profile=P3))
    assert found.info == {}
    for format in ("PNG", "JPEG", "WEBP"):
        with Image.open(io.BytesIO(encoded(found, format))) as again:
            assert not again.info.get("icc_profile")
