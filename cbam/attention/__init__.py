"""Attention modules: modules made of gates, put into a backbone's blocks by name.

To add one, write a file here and a record in ATTENTION; everything that builds, trains or shows
networks reads the record.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from cbam.attention.bam import BAM, BothGate, ChannelLogits, SpatialLogits
from cbam.attention.cbam import CBAM
from cbam.attention.coord import ColumnGate, CoordAtt, RowGate
from cbam.attention.eca import ECA, NeighbourGate
from cbam.attention.gates import PATHS, ChannelGate, Gate, Kind, SpatialGate, Steps, Use
from cbam.attention.gc import GC, Added, Pooling
from cbam.attention.plain import NoAttention
from cbam.attention.se import SE
from cbam.attention.simam import EnergyGate, SimAM

__all__ = [
    "ATTENTION",
    "BAM",
    "CBAM",
    "ECA",
    "GC",
    "PATHS",
    "PLAIN",
    "SE",
    "Attention",
    "ChannelGate",
    "CoordAtt",
    "Gate",
    "Kind",
    "NoAttention",
    "SimAM",
    "SpatialGate",
    "Steps",
    "Use",
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
    placement: str = "block"  # where its authors put it into a ResNet: a name in PLACEMENTS


PLAIN = "none"  # the network that the others are compared with

# In the order in which a family is shown.
ATTENTION: dict[str, Attention] = {
    PLAIN: Attention(
        NoAttention,
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
        "SE has channel gates only: they say what matters, but they cannot say where. A gate of "
        "1 lets everything through, a gate of 0 blocks it.",
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
    "eca": Attention(
        ECA,
        "ECA",
        "channel attention without a bottleneck",
        "One lets each channel ask its neighbours.",
        (NeighbourGate.kind,),
        "ECA has channel gates as SE does, but each one depends on a few neighbouring channels "
        "only. A gate of 1 lets everything through, a gate of 0 blocks it.",
        "https://arxiv.org/abs/1910.03151",
    ),
    "bam": Attention(
        BAM,
        "BAM",
        "channel and spatial attention in one volume",
        "One strengthens what matters where.",
        (ChannelLogits.kind, SpatialLogits.kind, BothGate.kind),
        "BAM asks what and where side by side and combines both answers into one gate for every "
        "channel at every place. Its gates lie between 1 and 2, so they strengthen and never "
        "block.",
        "https://arxiv.org/abs/1807.06514",
        "stage",
    ),
    "simam": Attention(
        SimAM,
        "SimAM",
        "a gate for every value, without parameters",
        "One weakens what does not stand out.",
        (EnergyGate.kind,),
        "SimAM has nothing to learn: a value's gate says how far it stands out from its "
        "channel. The gates lie between 0.62 and 1, so they never block. Pictures show the "
        "means over channels and over places.",
        "https://proceedings.mlr.press/v139/yang21o.html",
        "conv",
    ),
    "gc": Attention(
        GC,
        "GC",
        "a summary of the photo, added everywhere",
        "One adds a summary of the photo to every place.",
        (Pooling.kind, Added.kind),
        "GC does not gate. It looks at some places more than at others, makes one summary of "
        "them, and adds it to every place: the map shows from where the summary comes, the bars "
        "what is added.",
        "https://arxiv.org/abs/1904.11492",
        "late",
    ),
    "coord": Attention(
        CoordAtt,
        "CoordAtt",
        "a gate for each row and each column",
        "One weighs rows and columns.",
        (RowGate.kind, ColumnGate.kind),
        "Coordinate attention gives each channel one gate per row and one per column and "
        "multiplies the features by both. A gate of 1 lets everything through, a gate of 0 "
        "blocks it.",
        "https://arxiv.org/abs/2103.02907",
    ),
}
