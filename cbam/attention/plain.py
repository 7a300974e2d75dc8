"""No attention: what a plain network's blocks have in place of gates."""

from torch import Tensor, nn


class NoAttention(nn.Module):
    """Features as they are: (N, C, H, W) -> (N, C, H, W). It marks the place for gates.

    `dilation` is how much denser than by strides alone the features are sampled there.
    """

    def __init__(self, channels: int = 0) -> None:
        super().__init__()
        self.dilation = 1

    def dilate(self, factor: int) -> None:
        """Remember the dilation for gates that are put here later."""
        self.dilation = factor

    def forward(self, x: Tensor) -> Tensor:
        return x
