"""Arrays and tensors -> pictures: which axis is which, and which number means white."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cbam.errors import NotAnImage

UNIT, BYTE, WORD = 1.0, 255.0, 65_535.0  # what white may be
OVERSHOOT = 0.25  # of white: enlarging with sharp filters goes so far below black and above white
DIMMEST = 1 / 16  # of white: brightest pixel of a picture whose range is guessed
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # by the number of channels


def of_array(array: NDArray[Any]) -> Image.Image:
    """An array (H, W), (H, W, C) or, if only that is possible, (C, H, W) -> an image.

    C is 1 (grey), 2 (grey with alpha), 3 or 4 (with alpha). Numbers as `white_of` takes them.
    Raises NotAnImage.
    """
    return _picture(array, np.asarray(array), channels_first=False)


def of_tensor(tensor: Tensor) -> Image.Image:
    """A tensor (C, H, W), (H, W) or, if only that is possible, (H, W, C) -> an image.

    As `of_array`. Raises NotAnImage.
    """
    try:
        with torch.inference_mode(False):
            plain = tensor.detach().cpu()
            plain = plain.float() if plain.dtype == torch.bfloat16 else plain
            values = plain.resolve_conj().resolve_neg().numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise NotAnImage(
            f"The tensor ({tensor.layout}, {tensor.dtype}, on {tensor.device}) holds no plain "
            "numbers that can be read. Hand over a dense tensor of shape (3, H, W)."
        ) from error
    return _picture(tensor, values, channels_first=True)


def _picture(given: object, values: NDArray[Any], channels_first: bool) -> Image.Image:
    shape = values.shape
    if values.ndim == 4 and shape[0] == 1:
        values = values[0]  # a batch of one
    if values.ndim == 3:
        first, last = values.shape[0] in MODES, values.shape[2] in MODES
        if first and (channels_first or not last):
            values = values.transpose(1, 2, 0)
    else:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in MODES or 0 in values.shape:
        usual = "(3, H, W)" if channels_first else "(H, W, 3)"
        raise NotAnImage(
            f"The {type(given).__name__} has the shape {tuple(shape)}. One photo is {usual}, with "
            "1 to 4 channels, or (H, W)."
        )
    levels = to_levels(values, white_of(values))
    mode = MODES[levels.shape[2]]
    return Image.frombytes(mode, (levels.shape[1], levels.shape[0]), levels.tobytes())


def white_of(values: NDArray[Any]) -> float:
    """The number that means white among these: UNIT, BYTE or WORD.

    uint8 goes to 255, and bool is black and white. Other whole numbers go to 255 if none is larger,
    otherwise to 65,535; others go to 1 if they can, otherwise to 255. Raises NotAnImage if they
    reach no further than a nearly black picture would, are negative, or are no numbers.
    """
    kind = values.dtype
    if kind.kind == "b":
        return UNIT
    if kind == np.uint8:
        return BYTE
    if kind.kind not in "iuf":
        raise NotAnImage(f"An array of {kind} is no photo. Hand over uint8, uint16 or float.")
    low, high = float(values.min()), float(values.max())
    whole = kind.kind in "iu"
    whites, slack = ((BYTE, WORD), 0.0) if whole else ((UNIT, BYTE), OVERSHOOT)
    white = next((each for each in whites if high <= each * (1 + slack)), 0.0)
    dim = white != whites[0] and high < white * DIMMEST
    if white and low >= -slack * white and not dim:
        return white
    raise NotAnImage(
        f"The numbers go from {low:g} to {high:g}. Whole ones go from 0 to 255 or to 65535, others "
        "from 0 to 1 or to 255; undo a normalisation before."
    )


def to_levels(values: NDArray[Any], white: float) -> NDArray[np.uint8]:
    """Numbers from 0 to `white` -> 0 to 255, rounded; what lies outside is cut off."""
    if values.dtype == np.uint8:
        return values
    levels = values.astype(np.float32) * np.float32(BYTE / white)
    rounded: NDArray[np.uint8] = np.rint(levels).clip(0, 255).astype(np.uint8)
    return rounded
