"""ECA: a channel gate without a bottleneck; each channel asks its few neighbours.

Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks", CVPR
2020, https://arxiv.org/abs/1910.03151; the authors' code: https://github.com/BangguWu/ECANet.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cbam.attention.gates import ChannelGate, Gate, Path, Steps
from cbam.errors import UnknownName


def kernel_size(channels: int, gamma: float = 2, b: float = 1) -> int:
    """The paper's kernel size for C channels (eq. 12): |log2(C) / gamma + b / gamma|, made odd.

    256, 512, 1024 and 2048 channels get 5, 5, 5 and 7.
    """
    size = int(abs((math.log2(channels) + b) / gamma))
    return max(size if size % 2 else size + 1, 3)


class NeighbourGate(Gate):
    """Which channels matter: (N, C, H, W) -> map (N, C, 1, 1) in (0, 1).

    `sigmoid(conv1d_k(avgpool x))` along the channels, without a bias (eq. 9).
    """

    kind = ChannelGate.kind

    def __init__(self, kernel: int) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise UnknownName.of("ECA kernel", kernel, ("3", "5", "7", "or another odd size"))
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean(dim=(2, 3)).unsqueeze(1)  # (N, 1, C)
        return torch.sigmoid(self.conv(pooled)).transpose(1, 2).unsqueeze(-1)  # (N, C, 1, 1)

    def steps(self, *inputs: Tensor) -> Steps:
        (x,) = inputs
        pooled = x.mean(dim=(2, 3), keepdim=True)  # (N, C, 1, 1)
        logits: Tensor = self.conv(pooled[..., 0].transpose(1, 2)).transpose(1, 2)  # (N, C, 1)
        return Steps({"avg": Path(pooled, logits.unsqueeze(-1))})


class ECA(nn.Module):
    """Scale each channel by its gate: (N, C, H, W) -> (N, C, H, W).

    `kernel` is how many neighbouring channels one looks at: a number, a number by channel count, or
    None for the paper's formula on C. The published networks do not follow the formula: their
    ResNet-50 has `{256: 3, 512: 5, 1024: 5, 2048: 7}`. Keys may be texts, as TOML has them. Raises
    UnknownName for an even size or a channel count that has none.
    """

    def __init__(
        self, channels: int, kernel: int | Mapping[int, int] | Mapping[str, int] | None = None
    ) -> None:
        super().__init__()
        if isinstance(kernel, Mapping):
            sizes = {int(key): size for key, size in kernel.items()}
            if channels not in sizes:
                raise UnknownName.of("ECA kernel for this number of channels:", channels, sizes)
            kernel = sizes[channels]
        self.channel = NeighbourGate(kernel_size(channels) if kernel is None else kernel)

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = x * self.channel(x)
        return scaled
