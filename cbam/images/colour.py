"""What a photo's numbers mean: from its colour profile to sRGB, which networks were trained on.

Phones write Display P3, cameras Adobe RGB, scanners and printers profiles of their own. littlecms
converts them, through Pillow's ImageCms. A profile that is broken, or that means sRGB anyway,
changes nothing and costs nothing.
"""

import io
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

Conversion = Callable[[Image.Image], Image.Image]  # an image of `spaces`' mode -> RGB, in sRGB
Point = tuple[float, float]  # a colour without its brightness: CIE x, y

MAX_PROFILE_BYTES = 4 * 2**20  # printers' have 0.5 to 3 MB
PROFILES_KEPT = 8  # their conversions: a thousand photos of one phone have one profile
SAME = 2  # levels: a profile that changes no colour by more means sRGB, up to rounding

# ICC's name of a profile's colour space -> Pillow's mode of the images that it can be for.
MODES = {"GRAY": "L", "RGB ": "RGB", "CMYK": "CMYK", "LAB ": "LAB"}
INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC  # what fits stays what it is, and white stays white
FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION

D65: Point = (0.3127, 0.3290)
# ITU-T H.273: numbers that files may write in place of a profile.
PRIMARIES: dict[int, tuple[Point, Point, Point, Point]] = {  # white, red, green, blue
    1: (D65, (0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),  # sRGB, BT.709
    5: (D65, (0.640, 0.330), (0.290, 0.600), (0.150, 0.060)),
    6: (D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    7: (D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    9: (D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),  # BT.2020
    11: ((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    12: (D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # Display P3
}
GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}  # all other curves are taken for sRGB's


def conversion(image: Image.Image) -> Conversion | None:
    """How to bring this image's colours to sRGB, from the mode that `space` says; None: they are.

    Of a PNG, its chunks count in this order: iCCP, sRGB, gAMA with cHRM.
    """
    info = image.info
    profile = info.get("icc_profile") or b""
    if not profile and "srgb" not in info:
        profile = _of_png(info) or _of_numbers(info.get("nclx_profile"))
    if not isinstance(profile, bytes) or not 0 < len(profile) <= MAX_PROFILE_BYTES:
        return None
    return _conversion(profile, space(image.mode))


def space(mode: str) -> str:
    """The mode in which an image's colours are converted: L, RGB, CMYK or LAB."""
    if mode in ("CMYK", "LAB"):
        return mode
    return "L" if mode[0] in "1LIF" else "RGB"


@lru_cache(PROFILES_KEPT)
def _conversion(profile: bytes, mode: str) -> Conversion | None:
    """The conversion of a profile for images of a mode; None if it is broken, or not for these."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if MODES.get(source.profile.xcolor_space) != mode:
            return None
        target = ImageCms.createProfile("sRGB")
        # For grey it makes a table only, so that it may take its time and be exact.
        flags = FLAGS | ImageCms.Flags.NOOPTIMIZE if mode == "L" else FLAGS
        transform = ImageCms.buildTransform(source, target, mode, "RGB", INTENT, flags)
    except Exception:  # PyCMSError, and whatever a broken file leads to: the pixels are still good
        return None
    if mode == "L":
        return _by_table(transform)
    if mode == "RGB" and _changes_nothing(transform):
        return None
    return transform.apply


def _by_table(transform: ImageCms.ImageCmsTransform) -> Conversion:
    """For grey: what becomes of each of the 256 levels."""
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    table = np.asarray(transform.apply(ramp))[0]  # (256, 3)
    levels = table.T.ravel().tolist()
    return lambda image: image.convert("RGB").point(levels)


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether colours from all over the cube stay what they are."""
    steps = np.arange(0, 256, 15, dtype=np.uint8)  # 18, with 0 and 255
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(len(steps), -1, 3)
    found = np.asarray(transform.apply(Image.fromarray(cube)), dtype=np.int16)
    return int(np.abs(found - cube).max()) <= SAME


def _of_png(info: Mapping[Any, Any]) -> bytes:
    """The profile that a PNG's chunks gAMA and cHRM amount to; empty if there are none."""
    gamma, points = info.get("gamma"), info.get("chromaticity")
    if not gamma:
        return b""
    white, *primaries = PRIMARIES[1]
    if points and len(points) == 8:
        white, *primaries = [(points[at], points[at + 1]) for at in range(0, 8, 2)]
    # 1 / 2.2 is how a PNG says sRGB: its curve is not quite a power.
    return profile_of(white, primaries, None if abs(gamma - 1 / 2.2) < 0.02 else 1 / gamma)


def _of_numbers(numbers: Any) -> bytes:
    """The profile that H.273's numbers amount to, as pi-heif gives them; empty for others."""
    if not isinstance(numbers, dict) or numbers.get("color_primaries") not in PRIMARIES:
        return b""
    white, *primaries = PRIMARIES[numbers["color_primaries"]]
    return profile_of(
        white, primaries, GAMMAS.get(int(numbers.get("transfer_characteristics") or 0))
    )


def profile_of(white: Point, primaries: Sequence[Point], gamma: float | None) -> bytes:
    """An ICC profile of these colours and a power curve, or sRGB's curve; empty if it makes none.

    ICC.1:2022, https://www.color.org/specification/ICC.1-2022-05.pdf
    """
    try:
        columns = _to_pcs(white, primaries).T
    except (np.linalg.LinAlgError, ZeroDivisionError):
        return b""
    if not np.isfinite(columns).all() or np.abs(columns).max() > 100:
        return b""
    parameters = [2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045]  # sRGB, IEC 61966-2-1
    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _fixed(parameters)
    if gamma is not None:
        curve = b"para" + bytes(4) + struct.pack(">HH", 0, 0) + _fixed([gamma])
    d50 = _fixed(D50)
    tags = {b"wtpt": b"XYZ " + bytes(4) + d50}
    tags |= {
        name: b"XYZ " + bytes(4) + _fixed(column)
        for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)
    }
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    at = 128 + 4 + 12 * len(tags)
    index, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        index += name + struct.pack(">II", at + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    header = struct.pack(">I4xI", at + len(data), 0x04400000) + b"mntrRGB XYZ " + bytes(12)
    header += b"acsp" + bytes(28) + d50
    return header.ljust(128, b"\0") + index + data


D50 = (0.9642, 1.0, 0.8249)  # XYZ: the white of ICC's profiles
# Bradford's cone responses, by which one white is made another.
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def _to_pcs(white: Point, primaries: Sequence[Point]) -> NDArray[np.float64]:
    """Linear RGB -> XYZ with a white of D50: (3, 3). Raises LinAlgError, ZeroDivisionError."""
    lamp = _xyz(white)
    colours = np.stack([_xyz(point) for point in primaries], axis=1)  # (XYZ, RGB)
    to_xyz = colours * np.linalg.solve(colours, lamp)
    gain = (_BRADFORD @ np.array(D50)) / (_BRADFORD @ lamp)
    adapted: NDArray[np.float64] = np.linalg.inv(_BRADFORD) @ (gain[:, None] * _BRADFORD) @ to_xyz
    return adapted


def _xyz(point: Point) -> NDArray[np.float64]:
    """A colour of brightness 1."""
    x, y = point
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _fixed(values: Sequence[float] | NDArray[np.float64]) -> bytes:
    """Numbers as ICC writes them: 32 bits, 16 of them behind the point."""
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))
