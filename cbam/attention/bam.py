"""BAM: CBAM's predecessor; a channel and a spatial branch meet in one volume of gates.

Park, Woo, Lee, Kweon, "BAM: Bottleneck Attention Module", BMVC 2018,
https://arxiv.org/abs/1807.06514; the authors' code:
https://github.com/Jongchan/attention-module/blob/master/MODELS/bam.py.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from cbam.attention.gates import Gate, Kind, reduced
from cbam.errors import UnknownName

Combine = Literal["times", "plus"]


class ChannelLogits(Gate):
    """What BAM's channel branch says, before the sigmoid: (N, C, H, W) -> (N, C, 1, 1).

    `Linear(ReLU(BN(Linear(avgpool x))))`, C -> C/reduction -> C. Its norm needs more than one photo
    a batch in training.
    """

    kind = Kind(
        "channel_logits",
        "C",
        "what",
        "have one value per feature channel. They are no gate yet: the volume below combines them "
        "with the spatial logits.",
        title="channel logits",
        use="shown",
        lowest=None,
        highest=None,
        neutral=0.0,
    )

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = reduced(channels, reduction)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.mlp(x.mean(dim=(2, 3)))
        return logits.unsqueeze(-1).unsqueeze(-1)


class SpatialLogits(Gate):
    """What BAM's spatial branch says, before the sigmoid: (N, C, H, W) -> (N, 1, H, W).

    A 1x1 convolution to C/reduction channels, two 3x3 convolutions with this `dilation`, each with
    norm and ReLU, and a 1x1 convolution to one plane. The dilated ones are padded by `dilation`, so
    that the map keeps its size.
    """

    kind = Kind(
        "spatial_logits",
        "HW",
        "where",
        "have one value per place. They are no gate yet: the volume combines them with the channel "
        "logits.",
        title="spatial logits",
        use="shown",
        lowest=None,
        highest=None,
        neutral=0.0,
    )

    def __init__(self, channels: int, reduction: int, dilation: int) -> None:
        super().__init__()
        hidden = reduced(channels, reduction)
        layers: list[nn.Module] = [nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden)]
        layers.append(nn.ReLU())
        for _ in range(2):
            dilated = nn.Conv2d(hidden, hidden, 3, padding=dilation, dilation=dilation)
            layers += [dilated, nn.BatchNorm2d(hidden), nn.ReLU()]
        layers.append(nn.Conv2d(hidden, 1, 1))
        self.convs = nn.Sequential(*layers)

    def dilate(self, factor: int) -> None:
        """The windows take every `factor`-th of their places; their weights stay."""
        for layer in self.convs:
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                rows, columns = layer.dilation
                layer.dilation = layer.padding = (factor * rows, factor * columns)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.convs(x)
        return logits


class BothGate(Gate):
    """`1 + sigmoid(channel logits combined with spatial logits)`: a volume (N, C, H, W) in (1, 2).

    It takes the two logits, not the features.
    """

    kind = Kind(
        "volume",
        "CHW",
        "what and where",
        "has one value per channel and place, between 1 and 2: it strengthens and never blocks.",
        lowest=1.0,
        highest=2.0,
        neutral=1.5,
    )

    def __init__(self, combine: Combine) -> None:
        super().__init__()
        self.combine = combine

    def forward(self, channel: Tensor, spatial: Tensor) -> Tensor:
        logits = channel * spatial if self.combine == "times" else channel + spatial
        return 1 + torch.sigmoid(logits)


class BAM(nn.Module):
    """Strengthen a feature map by one gate per value: (N, C, H, W) -> (N, C, H, W).

    The paper adds the two logits (eq. 1); the authors' released code multiplies them, and their
    weights need that, so `combine` is "times" by default and may be "plus". The authors pool by the
    map's height alone, which works for squares only; here the mean is over all places.
    Raises UnknownName for another `combine`.
    """

    def __init__(
        self, channels: int, reduction: int = 16, dilation: int = 4, combine: Combine = "times"
    ) -> None:
        super().__init__()
        if combine not in get_args(Combine):
            raise UnknownName.of("way to combine BAM's logits", combine, get_args(Combine))
        self.channel = ChannelLogits(channels, reduction)
        self.spatial = SpatialLogits(channels, reduction, dilation)
        self.both = BothGate(combine)

    def forward(self, x: Tensor) -> Tensor:
        strengthened: Tensor = x * self.both(self.channel(x), self.spatial(x))
        return strengthened
