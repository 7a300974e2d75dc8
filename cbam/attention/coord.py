"""Coordinate attention: for each channel one gate per row and one per column.

Hou, Zhou, Feng, "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021,
https://arxiv.org/abs/2103.02907; the authors' code:
https://github.com/houqb/CoordAttention/blob/main/coordatt.py.
"""

import torch
from torch import Tensor, nn

from cbam.attention.gates import Gate, Kind


class RowGate(Gate):
    """Which rows matter to which channel: squeezed rows (N, M, H, 1) -> (N, C, H, 1) in (0, 1)."""

    kind = Kind(
        "rows",
        "CH",
        "which rows",
        "has one value per channel and row of the photo, shared by all columns.",
        title="row gate",
    )

    def __init__(self, hidden: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(hidden, channels, 1)

    def forward(self, rows: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(rows))


class ColumnGate(Gate):
    """Which columns matter to which channel: (N, M, 1, W) -> (N, C, 1, W) in (0, 1)."""

    kind = Kind(
        "columns",
        "CW",
        "which columns",
        "has one value per channel and column of the photo, shared by all rows.",
        title="column gate",
    )

    def __init__(self, hidden: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(hidden, channels, 1)

    def forward(self, columns: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(columns))


class CoordAtt(nn.Module):
    """Scale each value by its row's and its column's gate: (N, C, H, W) -> (N, C, H, W).

    Means of rows and columns go through one 1x1 convolution, norm and h-swish together, to
    M = max(8, C / reduction) channels as in the authors' code (rounded down), and then apart
    through one each. All three convolutions have biases. Means over a side are plain means: the
    adaptive pooling of the authors' code gives the same and cannot be exported to ONNX.
    """

    def __init__(self, channels: int, reduction: int = 32) -> None:
        super().__init__()
        hidden = max(8, channels // reduction)
        self.squeeze = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden), nn.Hardswish()
        )
        self.rows = RowGate(hidden, channels)
        self.columns = ColumnGate(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[2]
        rows = x.mean(dim=3, keepdim=True)  # (N, C, H, 1)
        columns = x.mean(dim=2, keepdim=True).transpose(2, 3)  # (N, C, W, 1)
        both = self.squeeze(torch.cat((rows, columns), dim=2))  # (N, M, H + W, 1)
        row_gate = self.rows(both[:, :, :height])
        column_gate = self.columns(both[:, :, height:].transpose(2, 3))
        scaled: Tensor = x * column_gate * row_gate
        return scaled
