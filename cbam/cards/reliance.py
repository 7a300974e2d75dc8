"""One sentence from a model's card: does its answer depend on what its gates say of the photo?"""

from cbam.cards.card import Card

LITTLE = 0.01  # a loss that is surely larger than this share of the photos is dependence
SURE = 0.03  # a loss that is surely smaller than this is hardly any


def reliance(card: Card) -> str:
    """What holding every gate at its mean over photos does to accuracy; empty if not measured.

    The answer depends on the gates if the whole 95 % interval of the loss is above LITTLE, hardly
    if the whole interval is below SURE. Otherwise too few photos were asked to tell.
    """
    measured = card.metrics.get("gates", {})
    groups = {name: values for name, values in measured.items() if isinstance(values, dict)}
    if not groups:
        return ""
    change, low, high = list(groups.values())[-1]["mean"]  # the last group holds all gates
    about = "the answer {} on what the gates say about the photo"
    if high < -LITTLE:
        said = "In this network " + about.format("depends")
    elif low > -SURE:
        said = "In this network " + about.format("hardly depends")
    else:
        said = "Too few photos were asked to tell whether " + about.format("depends")
    return (
        f"{said}: with every gate held at its mean over many photos, accuracy changes by "
        f"{_points(change)} points (95 % interval {_points(low)} to {_points(high)}; "
        f"{measured['photos']:,} photos, {measured['top1'] * 100:.1f}\N{NO-BREAK SPACE}% right as "
        "it is)."
    )


def _points(share: float) -> str:
    """-0.117 -> "-11.7", 0.004 -> "+0.4", with a real minus sign."""
    return f"{share * 100:+.1f}".replace("-", "\N{MINUS SIGN}")
