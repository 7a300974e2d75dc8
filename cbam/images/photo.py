"""Anything that a caller may hand over as a photo -> an upright RGB picture."""

import os
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cbam.errors import BadImage, BrokenImage, NotAnImage
from cbam.images.arrays import of_array, of_tensor
from cbam.images.decode import decode, upright
from cbam.images.formats import EITHER


class Readable(Protocol):
    """A file that is open for reading bytes, or BytesIO."""

    def read(self) -> bytes: ...


Photo: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | Readable | Image.Image"
    " | NDArray[Any] | Tensor"
)


def open_photo(photo: Photo) -> Image.Image:
    """A photo -> upright RGB in sRGB, without metadata. The caller's object stays as it is.

    A path, a file's bytes, a file open for reading bytes (from where it stands), a PIL image of any
    mode (as `modes` says), an array (as `of_array` says) or a tensor (as `of_tensor` says).
    Raises BadImage.
    """
    if isinstance(photo, Image.Image):
        return _of_image(photo)
    if isinstance(photo, Tensor):
        return upright(of_tensor(photo))
    if isinstance(photo, (bytes, bytearray, memoryview)):
        return decode(bytes(photo))
    if isinstance(photo, (str, os.PathLike)):
        return decode(_bytes_of_file(photo))
    if hasattr(photo, "read"):
        return decode(_bytes_of_open(photo))
    if hasattr(photo, "__array__") or hasattr(photo, "__array_interface__"):
        return upright(of_array(np.asarray(photo)))
    raise NotAnImage(
        f"A photo cannot be a {type(photo).__name__}. Hand over a path, a file's bytes, an open "
        f"file ({EITHER}), a PIL image, an array (H, W, 3) or a tensor (3, H, W)."
    )


def _of_image(image: Image.Image) -> Image.Image:
    try:
        image.load()
        if not image.width * image.height:
            raise BrokenImage("The PIL image has no pixels.")
        found = upright(image)
        return found.copy() if found.im is image.im else found
    except BadImage:
        raise
    except Exception as error:  # a truncated file, a closed one, no pixels
        raise BrokenImage(f"The PIL image cannot be read: {error}.") from error


def _bytes_of_file(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError, TypeError) as error:  # ValueError: a NUL in it
        raise BrokenImage(f"The photo cannot be read: {error}.") from error


def _bytes_of_open(file: Readable) -> bytes:
    try:
        data = file.read()
    except (OSError, ValueError) as error:  # ValueError: it is closed, or holds text
        raise BrokenImage(f"The photo cannot be read: {error}.") from error
    if not isinstance(data, bytes):
        raise NotAnImage("The open file holds text. Open it for reading bytes: open(path, 'rb').")
    return data
