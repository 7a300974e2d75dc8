"""One sentence from a model's card: does its answer depend on what its gates say of the photo?"""

from cbam.cards.card import Card

LITTLE = 0.01  # a loss that is surely larger than this share of the photos is called dependence


def reliance(card: Card) -> str:
    """What holding every gate at its mean over photos does to accuracy; empty if not measured.

    The answer depends on the gates if the whole 95 % interval of the loss is above LITTLE.
    """
    measured = card.metrics.get("gates", {})
    groups = {name: values for name, values in measured.items() if isinstance(values, dict)}
    if not groups:
        return ""
    change, low, high = list(groups.values())[-1]["mean"]  # the last group holds all gates
    verb = "depends" if high < -LITTLE else "hardly depends"
    return (
        f"In this network the answer {verb} on what the gates say about the photo: with every gate "
        f"held at its mean over many photos, accuracy changes by {_points(change)} points "
        f"(95 % interval {_points(low)} to {_points(high)}; {measured['photos']:,} photos, "
        f"{measured['top1']:.1%} right as it is)."
    )


def _points(share: float) -> str:
    """-0.117 -> "-11.7", 0.004 -> "+0.4", with a real minus sign."""
    return f"{share * 100:+.1f}".replace("-", "\N{MINUS SIGN}")
