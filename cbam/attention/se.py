"""Squeeze-and-Excitation: channel attention from average pooling alone.

Hu, Shen, Sun, "Squeeze-and-Excitation Networks", CVPR 2018, https://arxiv.org/abs/1709.01507.
"""

from torch import Tensor, nn

from cbam.attention.gates import ChannelGate


class SE(nn.Module):
    """Scale each channel by its gate: (N, C, H, W) -> (N, C, H, W).

    The same MLP (with biases) as CBAM's channel gate, fed by average pooling only; so the
    difference between SE and CBAM in a family is the paper's, and no detail of initialisation.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.channel = ChannelGate(channels, reduction, pool="avg")

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = x * self.channel(x)
        return scaled
