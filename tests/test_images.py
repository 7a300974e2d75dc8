"""Uploads: what is an image, what is refused and why, and what a network then sees."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.testing import assert_close

from cbam.errors import BadImage, BrokenImage, ImageTooLarge, NotAnImage
from cbam.images.decode import decode
from cbam.images.formats import EITHER, FORMATS, format_of
from cbam.images.photo import open_photo
from cbam.images.preprocess import Box, Preprocess

MakePhoto = Callable[..., Image.Image]

ORIENTATION = 0x0112


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode(data))


def noise(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int, depth: int = 1, colour: int = 0) -> bytes:
    """A PNG that announces this size and ends before its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")


@pytest.mark.parametrize(
    ("format", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 95, "subsampling": 0})],
)
def test_jpeg_png_and_webp_are_decoded_to_rgb(
    make_photo: MakePhoto, format: str, options: dict[str, Any]
):
    photo = make_photo()
    found = decode(encoded(photo, format, **options))
    assert found.mode == "RGB"
    assert found.size == (90, 70)
    difference = np.abs(np.asarray(found, dtype=int) - np.asarray(photo, dtype=int))
    assert difference.max() <= (16 if format == "JPEG" else 0)


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "PPM", "ICO", "PDF"])
def test_another_format_is_no_image_here(make_photo: MakePhoto, format: str):
    with pytest.raises(NotAnImage, match=EITHER):
        decode(encoded(make_photo(), format))


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"Not a photo, whatever its name says.", b"<svg></svg>", bytes(5000), b"RIFF"],
)
def test_content_that_is_no_image_is_refused(data: bytes):
    with pytest.raises(NotAnImage):
        decode(data)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_image_is_refused_as_broken(format: str, share: float):
    data = encoded(noise(), format)
    with pytest.raises(BrokenImage):
        decode(data[: int(len(data) * share)])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_few_bytes_of_an_image_are_refused(format: str):
    data = encoded(noise(), format)
    for length in range(1, 60):
        with pytest.raises(BadImage):
            decode(data[:length])


def test_a_png_with_a_wrong_checksum_is_refused():
    data = bytearray(encoded(noise(), "PNG"))
    data[len(data) // 2] ^= 0xFF  # in the pixels
    with pytest.raises(BrokenImage):
        decode(bytes(data))


def test_a_small_file_with_many_pixels_is_refused():
    data = encoded(Image.new("1", (9000, 9000)), "PNG")
    assert len(data) < 20_000
    with pytest.raises(ImageTooLarge, match="9000 x 9000"):
        decode(data)


def test_the_size_is_checked_before_any_pixel_is_decoded():
    # There are no pixels in the file: decoding them would say "broken".
    with pytest.raises(ImageTooLarge):
        decode(png_header(9000, 9000))
    with pytest.raises(BrokenImage):
        decode(png_header(90, 90))


@pytest.mark.parametrize("size", [(100_000, 100_000), (20_000, 10), (10, 20_000)])
def test_far_too_many_pixels_or_too_long_a_side_are_refused(size: tuple[int, int]):
    with pytest.raises(ImageTooLarge):
        decode(png_header(*size))


def test_limits_are_inclusive(make_photo: MakePhoto):
    data = encoded(make_photo(), "PNG")  # 90 x 70 = 6300
    assert decode(data, max_pixels=6300, max_side_px=90).size == (90, 70)
    with pytest.raises(ImageTooLarge, match="90 x 70"):
        decode(data, max_pixels=6299)
    with pytest.raises(ImageTooLarge, match="89 pixels a side"):
        decode(data, max_side_px=89)


def test_one_pixel_is_an_image():
    for format in ("JPEG", "PNG", "WEBP"):
        assert pixels(encoded(Image.new("RGB", (1, 1), "white"), format)).tolist() == [[[255] * 3]]


def test_16_bit_grey_is_scaled_and_not_clipped():
    values = np.array([[0, 257, 128 * 257, 255 * 256, 65535]], dtype=np.uint16)
    found = pixels(encoded(Image.fromarray(values), "PNG"))
    assert found[0, :, 0].tolist() == [0, 1, 128, 254, 255]  # 65535 / 255 = 257


def test_a_cmyk_jpeg_gets_its_colours():
    # No cyan, full magenta and yellow, no black: red.
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    red = pixels(data)[8, 8]
    assert red[0] > 245
    assert red[1] < 10
    assert red[2] < 10


def test_transparency_is_laid_on_white():
    image = Image.new("RGBA", (3, 1))
    image.putpixel((0, 0), (10, 20, 30, 255))  # opaque: itself
    image.putpixel((1, 0), (10, 20, 30, 0))  # gone: white
    image.putpixel((2, 0), (0, 0, 0, 51))  # a fifth: 0.2 * 0 + 0.8 * 255
    expected = [[10, 20, 30], [255, 255, 255], [204, 204, 204]]
    assert pixels(encoded(image, "PNG"))[0].tolist() == expected
    found = pixels(encoded(image, "WEBP", lossless=True, exact=True))
    assert found[0].tolist() == expected


def test_grey_with_transparency_is_laid_on_white():
    image = Image.new("LA", (2, 1))
    image.putpixel((0, 0), (40, 255))
    image.putpixel((1, 0), (40, 0))
    assert pixels(encoded(image, "PNG"))[0].tolist() == [[40] * 3, [255] * 3]


def test_a_palettes_transparent_colour_is_laid_on_white():
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putpixel((1, 0), 1)
    found = pixels(encoded(image, "PNG", transparency=1))
    assert found[0].tolist() == [[200, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "RGBA", "LA"])
def test_every_mode_comes_out_as_rgb_without_its_metadata(mode: str):
    found = decode(encoded(Image.new(mode, (5, 4)), "PNG", dpi=(72, 72)))
    assert (found.mode, found.size, found.info) == ("RGB", (5, 4), {})


# EXIF: where on the upright picture the file's first row and first column lie.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,  # top, left
    2: lambda a: a[:, ::-1],  # top, right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.swapaxes(0, 1),  # left, top
    6: lambda a: a[:, ::-1].swapaxes(0, 1),  # right, top
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda a: a[::-1].swapaxes(0, 1),  # left, bottom
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG"])
def test_all_exif_orientations_come_out_upright(
    make_photo: MakePhoto, orientation: int, format: str
):
    upright = np.asarray(make_photo(width=32, height=16))
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[0x010F] = "a camera"
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    found = decode(encoded(stored, format, exif=exif, **options.get(format, {})))
    assert found.size == (32, 16)
    difference = np.abs(np.asarray(found, dtype=int) - upright)
    assert difference.max() <= (12 if format == "JPEG" else 0)
    assert found.info == {}
    assert dict(found.getexif()) == {}
    assert b"camera" not in encoded(found, "JPEG")


def test_exif_that_cannot_be_read_leaves_the_photo_upright(make_photo: MakePhoto):
    data = encoded(make_photo(), "PNG", exif=b"Exif\0\0" + b"\x9b" * 100)
    np.testing.assert_array_equal(pixels(data), np.asarray(make_photo()))


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16"])
def test_a_photo_of_several_strips_is_the_photo(mode: str, monkeypatch: pytest.MonkeyPatch):
    values = np.random.default_rng(0).integers(0, 256, (30, 40, 4), dtype=np.uint8)
    image = Image.fromarray(values[:, :, 0] * np.uint16(257)) if mode == "I;16" else None
    data = encoded(image or Image.fromarray(values).convert(mode), "PNG")
    whole = pixels(data)
    monkeypatch.setattr("cbam.images.modes.STRIP_PIXELS", 280)  # seven rows: the last strip has two
    np.testing.assert_array_equal(pixels(data), whole)


def test_an_image_of_the_caller_stays_its_own():
    own = Image.new("RGB", (4, 4), "red")
    found = open_photo(own)
    own.putpixel((0, 0), (0, 0, 255))
    assert found.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("name", [name for name in FORMATS if name in Image.MIME])
def test_a_format_is_what_pillow_knows_by_this_name(name: str):
    format = FORMATS[name]
    assert format_of(encoded(noise(), name)) is format
    assert format.media_type == Image.MIME[name]
    assert {Image.registered_extensions()[suffix] for suffix in format.suffixes} == {name}
    assert decode(encoded(noise(), name)).size == (40, 30)


def test_what_is_no_format_of_ours_is_none():
    assert format_of(encoded(noise(), "GIF")) is None


@pytest.mark.parametrize(("format", "mode"), [("WEBP", "RGB"), ("JPEG", "CMYK")])
def test_formats_that_need_more_memory_may_have_half_the_pixels(format: str, mode: str):
    data = encoded(Image.new(mode, (100, 60)), format)
    assert decode(data, max_pixels=12_000).size == (100, 60)
    with pytest.raises(ImageTooLarge, match="100 x 60"):
        decode(data, max_pixels=11_999)
    assert decode(encoded(Image.new("RGB", (100, 60)), "JPEG"), max_pixels=6_000)


def test_a_size_that_pillow_warns_of_is_too_large():
    with pytest.raises(ImageTooLarge, match="40 megapixels"):
        decode(png_header(10_000, 10_000))


def test_a_file_with_a_thousand_damaged_tags_warns_of_none(recwarn: pytest.WarningsRecorder):
    tags = b"".join(struct.pack("<HHLL", 1000 + n, 1, 90_000, 0) for n in range(1000))
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", 1000) + tags + bytes(4)
    header, rest = encoded(noise(), "PNG")[:33], encoded(noise(), "PNG")[33:]
    assert decode(header + png_chunk(b"eXIf", exif) + rest).size == (40, 30)
    assert not recwarn.list


def test_a_meaningless_orientation_is_ignored(make_photo: MakePhoto):
    exif = Image.Exif()
    exif[ORIENTATION] = 99
    data = encoded(make_photo(), "PNG", exif=exif)
    np.testing.assert_array_equal(pixels(data), np.asarray(make_photo()))


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_only_the_first_frame_of_an_animation_counts(format: str):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as animation:
        assert animation.n_frames == 2
    assert pixels(data)[0, 0].tolist() == [255, 0, 0]


SEEDS = [
    encoded(noise(12, 9), "JPEG", quality=60),
    encoded(noise(12, 9), "PNG"),
    encoded(noise(12, 9), "WEBP", lossless=True),
    encoded(noise(12, 9).quantize(16), "PNG", transparency=3),
    encoded(noise(12, 9), "JPEG", progressive=True, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
]
CHANGES = st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 255)), min_size=1, max_size=6)


@pytest.mark.filterwarnings("ignore")  # as in a service, where a warning is none of an error
@given(st.sampled_from(SEEDS), CHANGES, st.one_of(st.none(), st.integers(0, 2_000)))
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_damaged_files_give_an_image_or_a_bad_image_and_nothing_else(
    data: bytes, changes: list[tuple[int, int]], cut: int | None
):
    damaged = bytearray(data)
    for position, value in changes:
        damaged[position % len(damaged)] = value
    try:
        found = decode(bytes(damaged[:cut]), max_pixels=1_000_000)
    except BadImage:
        return
    assert found.mode == "RGB"
    assert found.width * found.height <= 1_000_000


@pytest.mark.parametrize("size", [(90, 70), (70, 90), (1, 1), (1000, 1)])
def test_stretch_sees_the_whole_frame(size: tuple[int, int]):
    assert Preprocess(64, "stretch").view(*size) == Box(0, 0, *size)


@pytest.mark.parametrize(
    ("size", "ratio", "view"),
    [
        ((90, 70), 1.0, Box(10, 0, 80, 70)),  # the centre square: (90 - 70) / 2
        ((70, 90), 1.0, Box(0, 10, 70, 80)),
        ((50, 50), 1.0, Box(0, 0, 50, 50)),
        ((512, 256), 256 / 224, Box(144, 16, 368, 240)),  # side 224; (512 - 224) / 2, 32 / 2
        ((1000, 1), 1.0, Box(499, 0, 500, 1)),
        ((1, 1), 2.0, Box(0, 0, 1, 1)),
    ],
)
def test_crop_sees_the_centre(size: tuple[int, int], ratio: float, view: Box):
    assert Preprocess(64, "crop", resize_ratio=ratio).view(*size) == view


def test_the_tensor_is_normalised_by_hand():
    image = Image.new("RGB", (7, 5), (255, 0, 51))
    found = Preprocess(4, "stretch", mean=(0.5, 0.25, 0.1), std=(0.25, 0.5, 0.2))(image)
    assert found.shape == (3, 4, 4)
    assert found.dtype == torch.float32
    # (1 - 0.5) / 0.25, (0 - 0.25) / 0.5, (0.2 - 0.1) / 0.2
    assert_close(found, torch.tensor([2.0, -0.5, 0.5]).view(3, 1, 1).expand(3, 4, 4))


def test_the_default_normalisation_is_imagenets():
    found = Preprocess(2)(Image.new("RGB", (4, 4), "white"))[:, 0, 0]
    assert_close(found, torch.tensor([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]))


@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_rows_stay_rows_and_columns_columns(fit: str):
    values = np.zeros((4, 4, 3), dtype=np.uint8)
    values[0, :, 0] = 255  # the top row is red
    values[:, 3, 2] = 255  # the right column is blue
    found = Preprocess(4, fit, mean=(0, 0, 0), std=(1, 1, 1))(Image.fromarray(values))  # type: ignore[arg-type]
    assert_close(found.permute(1, 2, 0), torch.from_numpy(values).float() / 255)


def test_crop_is_imagenets_resize_of_the_shorter_side_and_centre_crop():
    image = noise(96, 32)
    usual = image.resize((48, 16), Image.Resampling.BILINEAR).crop((16, 0, 32, 16))
    found = Preprocess(16, "crop").resized(image)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(usual))


def test_stretch_squeezes_the_frame_into_the_square():
    image = noise(96, 32)
    found = Preprocess(16, "stretch").resized(image)
    usual = image.resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(usual))


def test_shrinking_averages_and_does_not_skip_pixels():
    values = np.zeros((64, 64, 3), dtype=np.uint8)
    values[:, ::2] = 255  # every other column
    found = np.asarray(Preprocess(8, "stretch").resized(Image.fromarray(values)), dtype=int)
    assert np.abs(found - 128).max() <= 16
