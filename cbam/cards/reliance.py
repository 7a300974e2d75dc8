"""One sentence from a model's card: does its answer depend on what its gates say of the photo?"""

from cbam.cards.card import Card
from cbam.said import Said, said

LITTLE = 0.01  # a loss that is surely larger than this share of the photos is dependence
SURE = 0.03  # a loss that is surely smaller than this is hardly any


def reliance(card: Card) -> str:
    """What `reliance_said` says; empty if nothing was measured."""
    found = reliance_said(card)
    return found.text if found else ""


def reliance_said(card: Card) -> Said | None:
    """What holding every gate at its mean over photos does to accuracy; None if not measured.

    The answer depends on the gates if the whole 95 % interval of the loss is above LITTLE, hardly
    if the whole interval is below SURE. Otherwise too few photos were asked to tell.
    """
    measured = card.metrics.get("gates", {})
    groups = {name: values for name, values in measured.items() if isinstance(values, dict)}
    if not groups:
        return None
    change, low, high = list(groups.values())[-1]["mean"]  # the last group holds all gates
    about = "the answer {} on what the gates say about the photo"
    if high < -LITTLE:
        case, text = "depends", "In this network " + about.format("depends")
    elif low > -SURE:
        case, text = "hardly", "In this network " + about.format("hardly depends")
    else:
        case = "unclear"
        text = "Too few photos were asked to tell whether " + about.format("depends")
    return said(
        case,
        text + ": with every gate held at its mean over many photos, accuracy changes by "
        "{change} points (95 % interval {low} to {high}; {photos} photos, "
        "{right}\N{NO-BREAK SPACE}% right as it is).",
        change=_points(change),
        low=_points(low),
        high=_points(high),
        photos=f"{measured['photos']:,}",
        right=f"{measured['top1'] * 100:.1f}",
    )


def _points(share: float) -> str:
    """-0.117 -> "-11.7", 0.004 -> "+0.4", with a real minus sign."""
    return f"{share * 100:+.1f}".replace("-", "\N{MINUS SIGN}")
