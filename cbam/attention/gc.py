"""GC: one summary of the whole photo, pooled by attention, is added to every place.

Cao, Xu, Lin, Wei, Hu, "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond",
2019, https://arxiv.org/abs/1904.11492; the authors' code:
https://github.com/xvjiarui/GCNet/blob/master/mmdet/ops/gcb/context_block.py.
"""

from torch import Tensor, nn

from cbam.attention.gates import Gate, Kind, reduced


class Pooling(Gate):
    """From where the summary is taken: (N, C, H, W) -> (N, 1, H, W), positive; sums to 1.

    The softmax over all places of a 1x1 convolution.
    """

    kind = Kind(
        "pooled_from",
        "HW",
        "from where",
        "says from where the summary of the photo is taken: one share per place, 1 in sum. Nothing "
        "is multiplied with it.",
        title="pooling",
        use="shown",
        neutral=None,
    )

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.conv(x)  # (N, 1, H, W)
        shares: Tensor = logits.flatten(2).softmax(dim=2).view_as(logits)
        return shares


class Added(Gate):
    """What is added to every place: a summary (N, C) -> (N, C, 1, 1), of either sign.

    `Linear(ReLU(LayerNorm(Linear)))`, C -> hidden -> C. The last layer starts at zero: an untrained
    module adds nothing.
    """

    kind = Kind(
        "added",
        "C",
        "what",
        "is one value per feature channel, added at every place. It is no gate: nothing is "
        "multiplied.",
        title="added summary",
        use="added",
        lowest=None,
        highest=None,
        neutral=0.0,
    )

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = reduced(channels, reduction)
        last = nn.Linear(hidden, channels)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.LayerNorm(hidden), nn.ReLU(), last)

    def forward(self, summary: Tensor) -> Tensor:
        added: Tensor = self.mlp(summary)
        return added.unsqueeze(-1).unsqueeze(-1)


class GC(nn.Module):
    """Add the summary of the whole photo to every place: (N, C, H, W) -> (N, C, H, W).

    `reduction` 16 is the ratio 1/16 of the authors' code; their best detectors had 1/4, which is 4.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.pooling = Pooling(channels)
        self.added = Added(channels, reduction)

    def forward(self, x: Tensor) -> Tensor:
        summary = (x * self.pooling(x)).sum(dim=(2, 3))  # (N, C)
        with_context: Tensor = x + self.added(summary)
        return with_context
