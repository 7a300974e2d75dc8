"""Everything that can go wrong on purpose, as one tree.

    CBAMLensError
    ├── UnknownName        a model, method, layer, class or option that does not exist
    ├── BadCard            a model card or its weights do not hold together
    ├── BadRecipe          a training recipe does not hold together
    ├── TooSlow            a costly method did not end within its time limit
    └── BadImage           an upload that cannot be used
        ├── NotAnImage         no JPEG, PNG or WebP
        ├── BrokenImage        truncated or malformed
        └── ImageTooLarge      more pixels than allowed (or too few)

The library raises them with a sentence for the user; the service only translates them to HTTP.
"""

from collections.abc import Iterable


class CBAMLensError(Exception):
    """The root: whatever this project raises on purpose."""


class UnknownName(CBAMLensError):
    """A name that is in none of our tables. The message lists those that are."""

    @classmethod
    def of(cls, what: str, name: object, known: Iterable[object]) -> "UnknownName":
        """`UnknownName.of("CAM method", "gradcan", METHODS)`."""
        shown = str(name)[:80]  # it may be anything that a stranger sent
        return cls(f"No {what} '{shown}'. Known: {', '.join(str(item) for item in known)}.")


class BadCard(CBAMLensError):
    """A model card is incomplete, or its weights are not the ones that it names."""


class BadRecipe(CBAMLensError):
    """A training recipe names something that cannot be trained."""


class TooSlow(CBAMLensError):
    """A method of many passes gave up: it would have taken longer than it was allowed to."""


class BadImage(CBAMLensError):
    """An image that cannot be used, whatever the reason."""


class NotAnImage(BadImage):
    """The content is no JPEG, PNG or WebP, whatever its name says."""


class BrokenImage(BadImage):
    """It began as an image, but cannot be decoded to the end."""


class ImageTooLarge(BadImage):
    """Its header announces more (or fewer) pixels than the limits allow."""
