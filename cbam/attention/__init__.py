"""Attention modules: modules made of gates, put into a backbone's blocks by name.

A new one is a file here and a line in ATTENTION; its gates are found by their class.
"""

from collections.abc import Callable

from torch import nn

from cbam.attention.cbam import CBAM
from cbam.attention.gates import ChannelGate, SpatialGate
from cbam.attention.se import SE

__all__ = ["ATTENTION", "CBAM", "GATES", "SE", "ChannelGate", "SpatialGate"]

# name -> constructor, called with the number of channels and the attention's own options
ATTENTION: dict[str, Callable[..., nn.Module]] = {
    "none": lambda channels: nn.Identity(),
    "se": SE,
    "cbam": CBAM,
}
# What kind of map a module of this class puts out.
GATES: dict[type[nn.Module], str] = {ChannelGate: "channel", SpatialGate: "spatial"}
