"""Attention modules: modules made of gates, put into a backbone's blocks by name.

To add one, write a file here and a record in ATTENTION; everything that builds, trains or shows
networks reads the record.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from cbam.attention.cbam import CBAM
from cbam.attention.gates import ChannelGate, Gate, Kind, SpatialGate
from cbam.attention.se import SE

__all__ = [
    "ATTENTION",
    "CBAM",
    "PLAIN",
    "SE",
    "Attention",
    "ChannelGate",
    "Gate",
    "Kind",
    "SpatialGate",
]


@dataclass(frozen=True)
class Attention:
    """A kind of attention, for building networks with it and for showing what it does."""

    make: Callable[..., nn.Module]  # takes the number of channels and its own options
    title: str  # put before a backbone's, as in SE-ResNet-50; may be empty
    phrase: str  # what it adds, in a few words
    intro: str  # the page's first sentence about such a network
    gates: tuple[Kind, ...] = ()  # in the order in which they are applied
    story: str = ""  # the page's words above its gate maps
    paper: str = ""


PLAIN = "none"  # the network that the others are compared with

# In the order in which a family is shown.
ATTENTION: dict[str, Attention] = {
    PLAIN: Attention(
        lambda channels: nn.Identity(),
        "",
        "no attention",
        "One has no attention.",
    ),
    "se": Attention(
        SE,
        "SE",
        "channel attention",
        "One weighs what it sees.",
        (ChannelGate.kind,),
        "SE has channel gates only: they say what matters, but they cannot say where. A gate of 1 "
        "lets everything through, a gate of 0 blocks it.",
        "https://arxiv.org/abs/1709.01507",
    ),
    "cbam": Attention(
        CBAM,
        "CBAM",
        "channel + spatial attention",
        "One, with CBAM attention, also weighs where.",
        (ChannelGate.kind, SpatialGate.kind),
        "CBAM attention multiplies the features of each block twice: first each channel by how "
        "much that feature matters (what), then each place by how much that place matters "
        "(where). A gate of 1 lets everything through, a gate of 0 blocks it.",
        "https://arxiv.org/abs/1807.06521",
    ),
}
