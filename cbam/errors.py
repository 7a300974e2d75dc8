"""Everything that can go wrong on purpose, as one tree.

    CBAMLensError
    ├── UnknownName        a model, method, layer, class or option that does not exist
    ├── BadOption          an option whose value or kind makes no sense, such as top_k=0
    ├── OptionClash        options that exist, but exclude each other
    ├── CannotCut          a layer behind which a network cannot be cut in two
    ├── CannotInsert       attention that finds no place in a network, or no start there
    ├── NotAvailable       it exists, but this machine lacks what it needs: an extra, a GPU
    ├── MissingFile        a file or folder that is not there, or holds nothing
    ├── CannotWrite        a file or folder that cannot be written
    ├── BadSetting         a setting of the service that makes no sense
    ├── BadCard            a model card or its weights do not hold together
    ├── BadRecipe          a training recipe does not hold together
    ├── BadBundle          a bundle that is none, was changed, or is made to hurt
    ├── BadData            photos, classes or boxes that do not fit what is asked of them
    ├── TooSlow            a costly method did not end within its time limit
    └── BadImage           an upload that cannot be used
        ├── NotAnImage         no format that we read
        ├── BrokenImage        truncated or malformed
        └── ImageTooLarge      more pixels than allowed

The library raises them with a sentence for the user; the service only translates them to HTTP.

A value of the wrong kind (`top_k="five"`, `load(5)`) is one of these too, not a TypeError: whoever
hands on what a user typed needs one `except CBAMLensError`. What Python itself checks, such as an
argument that a function does not have, stays Python's TypeError.
"""

from collections.abc import Iterable, Mapping
from typing import TypeVar

V = TypeVar("V")


class CBAMLensError(Exception):
    """The root: whatever this project raises on purpose."""


class UnknownName(CBAMLensError):
    """A name that is in none of our tables. The message lists those that are."""

    @classmethod
    def of(cls, what: str, name: object, known: Iterable[object]) -> "UnknownName":
        """`UnknownName.of("CAM method", "gradcan", METHODS)`."""
        shown = str(name)[:80]  # it may be anything that a stranger sent
        if not isinstance(name, str) and ("\n" in shown or " at 0x" in shown):
            shown = f"of the kind {type(name).__name__}"  # a tensor, a module
        return cls(f"No {what} '{shown}'. Known: {', '.join(str(item) for item in known)}.")


def look_up(what: str, name: object, table: Mapping[str, V]) -> V:
    """`table[name]`. Raises UnknownName, whatever kind of thing `name` is.

    `look_up("CAM method", "gradcam", METHODS)`.
    """
    if not isinstance(name, str) or name not in table:
        raise UnknownName.of(what, name, table)
    return table[name]


class BadOption(CBAMLensError):
    """An option's value is out of range or of the wrong kind. The message says what would work."""

    @classmethod
    def of(cls, name: str, value: object, wanted: str) -> "BadOption":
        """`BadOption.of("top_k", 0, "a whole number from 1")`."""
        if isinstance(value, str):
            shown = repr(value[:80])
        elif isinstance(value, float | None) or (isinstance(value, int) and abs(value) < 2**63):
            shown = repr(value)
        else:  # a module, a tensor, a huge number: the kind says enough
            shown = f"of the kind {type(value).__name__}"
        return cls(f"{name} is {shown}; it has to be {wanted}.")


class OptionClash(CBAMLensError):
    """Options that exist, but cannot be used together. The message says what would work."""


class CannotCut(CBAMLensError):
    """A layer that a path from the image bypasses, so that the network cannot be cut behind it."""


class CannotInsert(CBAMLensError):
    """Attention finds no place in a network, or cannot begin in it as is asked."""


class NotAvailable(CBAMLensError):
    """Something that exists, but cannot be used on this machine.

    The message says what is missing and how to get it.
    """

    @classmethod
    def extra(cls, what: str, extra: str, missing: object) -> "NotAvailable":
        """`NotAvailable.extra("Training", "train", "accelerate")`."""
        return cls(
            f"{what} needs the extra '{extra}' ({missing} is missing): "
            f"pip install 'cbam-lens[{extra}]'"
        )


class MissingFile(CBAMLensError):
    """A file or folder that is not there, or does not hold what is wanted."""


class CannotWrite(CBAMLensError):
    """A file or folder that cannot be written. The message says which, and why."""


class BadSetting(CBAMLensError):
    """A setting of the service is out of range or of the wrong kind. The message names it."""


class BadCard(CBAMLensError):
    """A model card is incomplete, or its weights are not the ones that it names."""


class BadRecipe(CBAMLensError):
    """A training recipe names something that cannot be trained."""


class BadBundle(CBAMLensError):
    """A file that is no bundle, or not the one that its manifest describes."""


class BadData(CBAMLensError):
    """A data set whose photos, classes or boxes do not fit what is asked of it."""


class TooSlow(CBAMLensError):
    """A method with many passes gave up because its time was over."""


class BadImage(CBAMLensError):
    """An image that cannot be used, whatever the reason."""


class NotAnImage(BadImage):
    """The content is in no format that we read, whatever its name says."""


class BrokenImage(BadImage):
    """It began as an image, but cannot be decoded to the end."""


class ImageTooLarge(BadImage):
    """Its header announces more pixels than the limits allow."""
