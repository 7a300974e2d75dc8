"""Cards of tiny models, without what is of no matter to a test."""

from typing import Any

from cbam.cards.card import Card
from cbam.images.preprocess import Preprocess


def a_card(**given: Any) -> Card:
    """The card of a tiny network in the family `tiny`, other than the fields that are `given`."""
    attention = given.get("attention", "cbam")
    usual: dict[str, Any] = {
        "name": f"tiny-{attention}",
        "family": "tiny",
        "family_title": "Tiny",
        "backbone": "resnet18",
        "attention": attention,
        "labels": ("a", "b", "c"),
        "preprocess": Preprocess(64),
        "licence": "MIT",
        "data": "none",
        "recipe": "none",
        "weights_sha256": "",
        "storage": "int8",
    }
    return Card(**{**usual, **given})
