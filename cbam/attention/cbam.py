"""CBAM: channel attention says *what*, spatial attention says *where*.

Woo et al., ECCV 2018, https://arxiv.org/abs/1807.06521.
"""

from typing import Literal, get_args

from torch import Tensor, nn

from cbam.attention.gates import ChannelGate, ChannelPool, SpatialGate, SpatialSqueeze
from cbam.errors import UnknownName

Order = Literal["channel-first", "spatial-first", "parallel"]
Gates = Literal["both", "channel", "spatial"]


class CBAM(nn.Module):
    """Refine a feature map by both gates: (N, C, H, W) -> (N, C, H, W).

    The defaults are the paper's choice: reduction 16, avg and max pooling, 7x7 convolution,
    channel gate first. Every other value is one of its ablations: `pool` Table 1, `squeeze` and
    `kernel` Table 2, `order` Table 3 (in "parallel" both gates see the same input); `gates` leaves
    one of them out. Raises UnknownName for any other value.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        pool: ChannelPool = "both",
        squeeze: SpatialSqueeze = "pool",
        kernel: int = 7,
        order: Order = "channel-first",
        gates: Gates = "both",
    ) -> None:
        super().__init__()
        if order not in get_args(Order):
            raise UnknownName.of("order of the gates", order, get_args(Order))
        if gates not in get_args(Gates):
            raise UnknownName.of("choice of gates", gates, get_args(Gates))
        self.order = order
        self.channel = ChannelGate(channels, reduction, pool) if gates != "spatial" else None
        self.spatial = SpatialGate(kernel, squeeze, channels) if gates != "channel" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.channel is None or self.spatial is None:
            for gate in (self.channel, self.spatial):
                if gate is not None:
                    x = x * gate(x)
            return x
        if self.order == "parallel":
            refined: Tensor = x * self.channel(x) * self.spatial(x)
            return refined
        first, second = (
            (self.channel, self.spatial)
            if self.order == "channel-first"
            else (self.spatial, self.channel)
        )
        x = x * first(x)
        refined = x * second(x)
        return refined
