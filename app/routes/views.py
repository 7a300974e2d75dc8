"""The page's views: what stands under one answer. With scripts one is shown at a time."""

from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """One view; its template is `templates/views/<name>.html`. A view that renders nothing for an
    answer is not offered."""

    title: str
    scripts: bool = False  # whether it says nothing without JavaScript


# In the order of their tabs; the first is shown unless the address names another.
VIEWS: dict[str, View] = {
    "compare": View("Compare"),
    "inside": View("Inside"),
    "what-if": View("What if"),
    "trust": View("Trust", scripts=True),
    "methods": View("Methods", scripts=True),
    "find": View("Find", scripts=True),
    "live": View("Live", scripts=True),
    "how": View("How it works", scripts=True),
    "paper": View("The paper"),
}


def shown(asked: str | None, changes_gates: bool) -> str:
    """The view to show first: the one `asked` for, else What if for a question about gates."""
    if asked in VIEWS:
        return asked
    return "what-if" if changes_gates else next(iter(VIEWS))
