"""Maps -> pictures: colour maps, and overlays on the photo.

Colours are computed in float and rounded once. A map is scaled by its own maximum unless a shared
one is given. A map with no positive value is never painted.
"""

from dataclasses import dataclass
from numbers import Real

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cbam.errors import BadOption, look_up
from cbam.images.preprocess import Box

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ColourMap:
    """Colours for values from 0 to 1."""

    title: str
    stops: tuple[tuple[int, int, int], ...]  # evenly spaced RGB, straight lines between them
    even: bool = True  # brightness rises with the value: survives grey and colour blindness


# Stops of the perceptually uniform colour maps "inferno" and "viridis" (CC0, by Nathaniel Smith
# and Stefan van der Walt) and of "turbo" (Anton Mikhailov, 2019), which tells more steps apart, but
# is brightest in the middle. The page reads the same stops.
COLOUR_MAPS: dict[str, ColourMap] = {
    "inferno": ColourMap("Inferno", (
        (0, 0, 4), (22, 11, 57), (66, 10, 104), (106, 23, 110), (147, 38, 103), (188, 55, 84),
        (221, 81, 58), (243, 120, 25), (252, 165, 10), (246, 215, 70), (252, 255, 164),
    )),
    "viridis": ColourMap("Viridis", (
        (68, 1, 84), (72, 36, 117), (65, 68, 135), (53, 95, 141), (42, 120, 142), (33, 145, 140),
        (34, 168, 132), (68, 191, 112), (122, 209, 81), (189, 223, 38), (253, 231, 37),
    )),
    "turbo": ColourMap("Turbo", (
        (48, 18, 59), (64, 64, 161), (70, 107, 227), (66, 147, 255), (41, 187, 236),
        (24, 220, 195), (49, 242, 153), (107, 253, 100), (163, 253, 60), (204, 237, 52),
        (237, 208, 58), (253, 174, 53), (251, 128, 34), (236, 82, 15), (210, 49, 5),
        (172, 23, 1), (122, 4, 3),
    ), even=False),
    "grey": ColourMap("Grey", ((0, 0, 0), (255, 255, 255))),
}  # fmt: skip


FLAT = 1e-6  # a gate that varies less says nothing about where


def colour(values: Floats, name: str = "inferno") -> NDArray[np.float32]:
    """Values in [0, 1], any shape -> RGB in 0..255, float32, shape (..., 3)."""
    stops = np.asarray(look_up("colour map", name, COLOUR_MAPS).stops, dtype=np.float32)
    position = np.clip(values, 0, 1) * (len(stops) - 1)
    at = np.arange(len(stops))
    channels = [np.interp(position, at, stops[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def scaled(heatmap: Floats, top: float | None = None) -> Floats:
    """A raw map -> [0, 1]: divided by `top`, by default its own maximum; zero if not positive."""
    top = float(heatmap.max()) if top is None else top
    return np.clip(heatmap / top, 0, 1) if top > 0 else np.zeros_like(heatmap)


def enlarged(values: Floats, width: int, height: int) -> Floats:
    """(h, w) -> (height, width), bilinear with cell centres as in align_corners=False."""
    image = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32)


def grey(heatmap: Floats, width: int, height: int) -> Image.Image:
    """The scaled map as 8-bit grey, `width` x `height`."""
    values = enlarged(scaled(heatmap), width, height)
    return Image.fromarray(np.rint(values * 255).astype(np.uint8))


def coloured(
    heatmap: Floats, width: int, height: int, name: str = "inferno", top: float | None = None
) -> Image.Image:
    """The scaled map in colour, `width` x `height`."""
    return _picture(colour(enlarged(scaled(heatmap, top), width, height), name))


def overlay(
    photo: Image.Image, heatmap: Floats, view: Box, opacity: float = 0.7, top: float | None = None
) -> Image.Image:
    """The photo with a map painted on its view, the same size as the photo.

    `opacity` in [0, 1] is that of the map's hottest cell; colder ones are more transparent, so that
    the photo stays readable. The view loses most of its own colour, so that warm photos are not
    mistaken for heat. A map without positive evidence leaves the photo as it is. Raises BadOption.
    """
    if not isinstance(opacity, Real) or not 0 <= opacity <= 1:
        raise BadOption.of("opacity", opacity, "a number from 0 to 1")
    if heatmap.max() <= 0:
        return photo.copy()
    pixels = np.array(photo, dtype=np.float32)
    inside = pixels[view.y0 : view.y1, view.x0 : view.x1]
    values = enlarged(scaled(heatmap, top), view.x1 - view.x0, view.y1 - view.y0)
    luma = (inside @ np.array([0.299, 0.587, 0.114], dtype=np.float32))[..., None]
    inside += min(0.8, 1.2 * opacity) * (luma - inside)
    alpha = (opacity * np.sqrt(values))[..., None]
    inside[:] = (1 - alpha) * inside + alpha * colour(values)
    return _picture(pixels)


def spatial_tile(photo: Image.Image, spatial: Floats) -> Image.Image:
    """A spatial gate's map over the view, scaled from its least to its greatest value.

    A flat map gives a grey tile.
    """
    spread = float(spatial.max() - spatial.min())
    if spread < FLAT:  # the same everywhere says nothing about where
        return Image.new("RGB", photo.size, "#999999")
    values = enlarged((spatial - spatial.min()) / spread, *photo.size)
    base = np.asarray(photo.convert("L"), dtype=np.float32)[..., None]
    return _picture(0.35 * base + 0.65 * colour(values, "viridis"))


def channel_bars(
    channel: Floats,
    width: int,
    height: int,
    span: tuple[float, float] = (0.0, 1.0),
    base: float = 0.0,
    line: float | None = 0.5,
) -> Image.Image:
    """One value per channel as bars, in channel order, between the ends of `span`.

    Bars begin at `base`, so that those of lower values hang from it. The thin line marks `line`.
    """
    low, high = span
    columns = np.minimum((np.arange(width) * len(channel)) // width, len(channel) - 1)
    marks = np.array([*channel[columns], base, low if line is None else line], np.float32)
    shares = np.clip((marks - low) / max(high - low, 1e-12), 0, 1)
    *tops, foot, mark = np.rint(shares * height).astype(int)  # pixels above the bottom
    picture = np.full((height, width, 3), 238, dtype=np.float32)
    rows = height - np.arange(height)[:, None]  # the upper edge of each row, above the bottom
    picture[(rows <= np.maximum(tops, foot)) & (rows > np.minimum(tops, foot))] = (33, 145, 140)
    if line is not None:
        picture[min(height - mark, height - 1)] = (90, 90, 90)
    return _picture(picture)


def _picture(pixels: NDArray[np.float32]) -> Image.Image:
    """Float RGB 0..255, (H, W, 3) -> an image."""
    return Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))
