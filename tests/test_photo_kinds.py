"""Whatever a caller hands over shows the picture that a person would expect, or is refused."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import chunk, encoded
from PIL import Image, ImageCms, PngImagePlugin

from cbam.errors import BadImage
from cbam.images.photo import open_photo

# Four colours that survive every mode that has colours, and their greys (ITU-R 601-2).
COLOURS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [200, 150, 100]]], np.uint8)
GREYS = np.array([[0, 80], [160, 255]], np.uint8)


def picture() -> Image.Image:
    """A red, a green, a blue and a brown quarter, 16 x 16 each."""
    return Image.fromarray(COLOURS.repeat(16, axis=0).repeat(16, axis=1))


def grey() -> np.ndarray:
    """Quarters of black, two greys and white, 16 x 16 each: (32, 32), uint8."""
    return GREYS.repeat(16, axis=0).repeat(16, axis=1)


def shown(photo: Any) -> np.ndarray:
    """The colours of the four quarters: (2, 2, 3)."""
    found = open_photo(photo)
    assert (found.mode, found.info) == ("RGB", {})
    pixels = np.asarray(found, dtype=int)
    height, width = pixels.shape[:2]
    return pixels[height // 4 :: height // 2, width // 4 :: width // 2]


def to_lab() -> Image.Image:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.applyTransform(
        picture(), ImageCms.buildTransform(srgb, lab, "RGB", "LAB"), inPlace=False
    )


COLOURED: dict[str, Callable[[], Image.Image]] = {
    "RGB": picture,
    "RGBX": lambda: picture().convert("RGBX"),
    "RGBA": lambda: picture().convert("RGBA"),
    "RGBa": lambda: picture().convert("RGBA").convert("RGBa"),
    "CMYK": lambda: picture().convert("CMYK"),
    "YCbCr": lambda: picture().convert("YCbCr"),
    "HSV": lambda: picture().convert("HSV"),
    "LAB": to_lab,
    "P": lambda: picture().quantize(4),
    "PA": lambda: picture().quantize(4).convert("PA"),
}


@pytest.mark.parametrize("mode", COLOURED)
def test_a_pil_image_of_any_mode_keeps_its_colours(mode: str):
    image = COLOURED[mode]()
    assert image.mode == mode
    before = image.tobytes()
    # Lab of 8 bits is coarse where colours are strong.
    assert np.abs(shown(image) - COLOURS).max() <= (24 if mode == "LAB" else 4)
    assert (image.mode, image.tobytes()) == (mode, before)


GREY: dict[str, Callable[[], Image.Image]] = {
    "L": lambda: Image.fromarray(grey()),
    "LA": lambda: Image.fromarray(grey()).convert("LA"),
    "La": lambda: Image.fromarray(grey()).convert("LA").convert("La"),
    "I, 8 bits": lambda: Image.fromarray(grey().astype(np.int32)),
    "I, 16 bits": lambda: Image.fromarray(grey().astype(np.int32) * 257),
    "I;16": lambda: Image.fromarray(grey() * np.uint16(257)),
    "I;16, 8 bits": lambda: Image.fromarray(grey().astype(np.uint16)),
    "I;16B": lambda: Image.fromarray((grey() * np.uint16(257)).astype(">u2")),
    "I;16L": lambda: Image.frombytes("I;16L", (32, 32), (grey() * np.uint16(257)).tobytes()),
    "I;16N": lambda: Image.frombytes("I;16N", (32, 32), (grey() * np.uint16(257)).tobytes()),
    "F, to 1": lambda: Image.fromarray(grey().astype(np.float32) / 255),
    "F, to 255": lambda: Image.fromarray(grey().astype(np.float32)),
}


@pytest.mark.parametrize("mode", GREY)
def test_a_grey_pil_image_of_any_depth_keeps_its_greys(mode: str):
    image = GREY[mode]()
    assert image.mode == mode.split(",")[0]
    assert np.abs(shown(image) - GREYS[..., None]).max() <= 1


def test_an_image_of_bits_is_black_and_white():
    image = Image.fromarray(grey() > 100)
    assert image.mode == "1"
    assert shown(image)[..., 0].tolist() == [[0, 0], [255, 255]]


def clear_half(mode: str) -> Image.Image:
    """Red whose right half is fully transparent, in this mode."""
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (16, 0, 32, 32))
    return image.convert("RGBA").convert(mode) if mode != "RGBA" else image


def palette(transparency: int | bytes | None, mode: str = "RGB") -> Image.Image:
    """Red on the left and black on the right, in a palette."""
    image = Image.new("P", (32, 32))
    image.paste(1, (16, 0, 32, 32))
    image.putpalette([255, 0, 0, 0, 0, 0] if mode == "RGB" else [255, 0, 0, 255, 0, 0, 0, 0], mode)
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def keyed(mode: str, key: Any) -> Image.Image:
    """A PNG's colour key: red, or white in grey, on the left, and black, which is clear."""
    image = Image.new("RGB", (32, 32), "red" if mode == "RGB" else "white").convert(
        "L" if mode == "I;16" else mode
    )
    image.paste(0, (16, 0, 32, 32))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image) * np.uint16(257))
    data = encoded(image, "PNG", transparency=key)
    return Image.open(io.BytesIO(data))


CLEAR: dict[str, Callable[[], Image.Image]] = {
    "RGBA": lambda: clear_half("RGBA"),
    "RGBa": lambda: clear_half("RGBa"),
    "LA": lambda: clear_half("LA"),
    "La": lambda: clear_half("LA").convert("La"),
    "PA": lambda: palette(1).convert("PA"),
    "P, one clear": lambda: palette(1),
    "P, alphas": lambda: palette(b"\xff\0"),
    "P, a palette with alpha": lambda: palette(None, "RGBA"),
    "RGB, a clear colour": lambda: keyed("RGB", (0, 0, 0)),
    "L, a clear grey": lambda: keyed("L", 0),
    "1, clear black": lambda: keyed("1", 0),
    "I;16, a clear grey": lambda: keyed("I;16", 0),
}


RED = [kind for kind in CLEAR if kind.startswith(("RGB", "P"))]


@pytest.mark.parametrize("kind", CLEAR)
def test_what_is_transparent_lies_on_white_in_every_mode(kind: str):
    image = CLEAR[kind]()
    found = shown(image)
    assert found[:, 1].tolist() == [[255, 255, 255]] * 2
    left = 76 if image.mode in ("LA", "La") else 255  # the grey of red
    assert found[0, 0].tolist() == ([255, 0, 0] if kind in RED else [left] * 3)


ARRAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "uint8": lambda a: a,
    "uint16": lambda a: a * np.uint16(257),
    "uint16 to 255": lambda a: a.astype(np.uint16),
    "big endian": lambda a: (a * np.uint16(257)).astype(">u2"),
    "int32": lambda a: a.astype(np.int32),
    "int64": lambda a: a.astype(np.int64),
    "float32": lambda a: a.astype(np.float32) / 255,
    "float64": lambda a: a.astype(np.float64) / 255,
    "float16": lambda a: (a / 255).astype(np.float16),
    "float32 to 255": lambda a: a.astype(np.float32),
    "a sharp filter's overshoot": lambda a: a.astype(np.float32) / 255 * 1.2 - 0.1,
    "a view": lambda a: np.ascontiguousarray(a[:, ::-1])[:, ::-1],
    "Fortran's order": np.asfortranarray,
}
SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "(H, W, 3)": lambda a: a,
    "(3, H, W)": lambda a: a.transpose(2, 0, 1),
    "(H, W, 4)": lambda a: np.concatenate((a, np.full_like(a[..., :1], a.max())), axis=2),
    "(1, H, W, 3)": lambda a: a[None],
}
SHAPES_GREY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "(H, W)": lambda a: a,
    "(H, W, 1)": lambda a: a[..., None],
    "(1, H, W)": lambda a: a[None],
    "(H, W, 2)": lambda a: np.stack((a, np.full_like(a, a.max())), axis=2),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_of_any_numbers_and_shape_is_its_picture(kind: str, shape: str):
    array = SHAPES[shape](ARRAYS[kind](np.asarray(picture())))
    before = array.copy()
    assert np.abs(shown(array) - COLOURS).max() <= (26 if "overshoot" in kind else 1)
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("shape", SHAPES_GREY)
@pytest.mark.parametrize("kind", ARRAYS)
def test_a_grey_array_of_any_numbers_and_shape_is_its_picture(kind: str, shape: str):
    found = shown(SHAPES_GREY[shape](ARRAYS[kind](grey())))
    assert np.abs(found - GREYS[..., None]).max() <= (26 if "overshoot" in kind else 1)


def test_an_array_of_bits_is_black_and_white():
    assert shown(grey() > 100)[..., 0].tolist() == [[0, 0], [255, 255]]


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", ["chw", "hwc", "nchw", "channels_last", "needs a gradient"])
def test_a_tensor_of_any_kind_is_its_picture(dtype: str, shape: str):
    tensor = torch.from_numpy(np.asarray(picture()).copy()).permute(2, 0, 1)
    tensor = tensor if dtype == "uint8" else (tensor / 255).to(getattr(torch, dtype))
    if shape == "hwc":
        tensor = tensor.permute(1, 2, 0)
    elif shape == "nchw":
        tensor = tensor[None]
    elif shape == "channels_last":
        tensor = tensor[None].contiguous(memory_format=torch.channels_last)[0]
    elif dtype != "uint8":
        tensor = tensor.requires_grad_()
    assert np.abs(shown(tensor) - COLOURS).max() <= (1 if dtype != "bfloat16" else 2)


def test_an_array_and_a_tensor_that_could_be_either_follow_their_custom():
    stripes = np.zeros((3, 40, 3), np.uint8)
    stripes[0] = 255  # the first row, or the first channel
    assert open_photo(stripes).size == (40, 3)
    assert open_photo(torch.from_numpy(stripes)).size == (3, 40)
    assert open_photo(stripes).getpixel((0, 0)) == (255, 255, 255)
    assert open_photo(torch.from_numpy(stripes)).getpixel((0, 0)) == (255, 0, 0)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "normalised": (lambda: torch.randn(3, 8, 8, generator=torch.Generator()) * 2, "normalisation"),
    "from -1 to 1": (lambda: np.linspace(-1, 1, 192).reshape(8, 8, 3), "from -1 to 1"),
    "not a number": (lambda: np.full((8, 8, 3), np.nan), "nan"),
    "infinite": (lambda: np.full((8, 8, 3), np.inf), "inf"),
    "10 bits in 16": (lambda: np.full((8, 8), 1023, np.uint16), "1023"),
    "more than 16 bits": (lambda: np.full((8, 8), 70_000), "70000"),
    "far too dark": (lambda: np.full((8, 8), 3.0), "3"),
    "negative": (lambda: np.full((8, 8), -5), "-5"),
    "I, negative": (lambda: Image.fromarray(np.full((8, 8), -5, np.int32)), "-5"),
    "F, not a number": (lambda: Image.fromarray(np.full((8, 8), np.nan, np.float32)), "nan"),
    "complex": (lambda: np.ones((8, 8), complex), "complex"),
    "objects": (lambda: np.full((8, 8), None), "object"),
    "text": (lambda: np.full((8, 8), "x"), "photo"),
    "five channels": (lambda: np.ones((8, 8, 5), np.uint8), r"\(8, 8, 5\)"),
    "a batch": (lambda: np.ones((2, 8, 8, 3), np.uint8), r"\(2, 8, 8, 3\)"),
    "a batch of tensors": (lambda: torch.ones(2, 3, 8, 8), r"\(2, 3, 8, 8\)"),
    "one number": (lambda: np.array(3), "shape"),
    "a row": (lambda: np.ones(8, np.uint8), "shape"),
    "no pixels": (lambda: np.ones((0, 8, 3), np.uint8), "shape"),
    "a meta tensor": (lambda: torch.ones(3, 8, 8, device="meta"), "meta"),
    "a sparse tensor": (lambda: torch.ones(8, 8).to_sparse(), "sparse"),
    "a list": (lambda: [[1, 2], [3, 4]], "list"),
    "nothing": (lambda: None, "NoneType"),
    "a number": (lambda: 5, "int"),
    "a text file": (lambda: io.StringIO("text"), "rb"),
    "a closed file": (lambda: closed(), "closed"),
    "no file": (lambda: "no such file.jpg", "No such file"),
    "a folder": (lambda: Path(), "directory"),
    "a NUL in the path": (lambda: "a\0b.jpg", "null"),
    "an image without pixels": (lambda: Image.new("RGB", (0, 5)), "PIL image"),
}


def closed() -> io.BytesIO:
    file = io.BytesIO(encoded(picture(), "PNG"))
    file.close()
    return file


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_picture_is_refused_in_a_sentence(kind: str):
    make, words = REFUSED[kind]
    with pytest.raises(BadImage, match=words) as caught:
        open_photo(make())
    assert len(str(caught.value)) < 300


def test_a_truncated_pil_image_is_refused():
    data = encoded(picture().resize((300, 300)), "JPEG")
    with pytest.raises(BadImage, match="truncated"):
        open_photo(Image.open(io.BytesIO(data[: len(data) // 2])))


def test_a_files_bytes_come_in_every_wrapping(tmp_path: Path):
    data = encoded(picture(), "PNG")
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    with path.open("rb") as file:
        for each in (data, bytearray(data), memoryview(data), io.BytesIO(data), file, path):
            np.testing.assert_array_equal(shown(each), COLOURS)
    np.testing.assert_array_equal(shown(str(path)), COLOURS)


def test_a_dark_picture_stays_dark_where_its_depth_is_known():
    dim = np.full((8, 8), 100, np.uint16)  # of 65,535
    assert open_photo(encoded(Image.fromarray(dim), "PNG")).getextrema() == ((0, 0),) * 3
    assert open_photo(np.full((8, 8, 3), 3, np.uint8)).getextrema() == ((3, 3),) * 3
    assert open_photo(np.zeros((8, 8, 3))).getextrema() == ((0, 0),) * 3


DAMAGED = {
    "a comment with a wrong checksum": chunk(b"tEXt", b"Comment\0hello")[:-1] + b"!",
    "an unknown chunk with a wrong checksum": chunk(b"abCd", b"hello")[:-1] + b"!",
    "a time with a wrong checksum": chunk(b"tIME", bytes(7))[:-1] + b"!",
    "EXIF data with a wrong checksum": chunk(b"eXIf", b"MM\0*")[:-1] + b"!",
    "a profile with a wrong checksum": chunk(b"iCCP", b"x\0\0abc")[:-1] + b"!",
    "a profile that cannot be unpacked": chunk(b"iCCP", b"x\0\0abc"),
    "a gamma without a number": chunk(b"gAMA", b""),
    "chromaticities of two bytes": chunk(b"cHRM", b"ab"),
    "an sRGB chunk without an intent": chunk(b"sRGB", b""),
    "a resolution of one byte": chunk(b"pHYs", b"a"),
    "an animation of no frames": chunk(b"acTL", bytes(8)),
    "an animation of one byte": chunk(b"acTL", b"a"),
}


@pytest.mark.parametrize("place", ["before the pixels", "behind the pixels"])
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_png_damaged_where_its_pixels_are_not_is_shown(kind: str, place: str):
    data = encoded(picture(), "PNG")
    at = 33 if place == "before the pixels" else data.index(b"IEND") - 4
    np.testing.assert_array_equal(shown(data[:at] + DAMAGED[kind] + data[at:]), COLOURS)


def test_a_png_with_a_wrong_checksum_keeps_its_whole_chunks():
    image = picture().crop((0, 0, 32, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "hello")
    data = encoded(image, "PNG", exif=exif, pnginfo=info)
    at = data.index(b"hello")
    spoilt = data[:at] + b"j" + data[at + 1 :]
    assert open_photo(spoilt).size == (16, 32)


@pytest.mark.parametrize("name", ["IHDR", "PLTE"])
def test_a_png_damaged_where_its_pixels_are_is_refused(name: str):
    data = bytearray(encoded(picture().quantize(4), "PNG"))
    at = data.index(name.encode()) + 4
    data[at + int.from_bytes(data[at - 8 : at - 4], "big")] ^= 1  # the checksum
    with pytest.raises(BadImage):
        open_photo(bytes(data))
