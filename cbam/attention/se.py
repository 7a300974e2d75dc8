"""Squeeze-and-Excitation: channel attention from average pooling alone.

Hu, Shen, Sun, "Squeeze-and-Excitation Networks", CVPR 2018, https://arxiv.org/abs/1709.01507.
"""

from torch import Tensor, nn

from cbam.attention.gates import ChannelGate


class SE(nn.Module):
    """Scale each channel by its gate: (N, C, H, W) -> (N, C, H, W).

    It uses the same MLP (with biases) as CBAM's channel gate, fed by average pooling only. So SE
    and CBAM in a family differ as in the papers, not in details of initialisation.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.channel = ChannelGate(channels, reduction, pool="avg")

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = x * self.channel(x)
        return scaled
