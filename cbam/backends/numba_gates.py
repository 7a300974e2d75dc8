"""CBAM's two gates compiled by Numba: two passes over a feature map where PyTorch's calls make six.

Woo et al. 2018, https://arxiv.org/abs/1807.06521, eq. 2 and 3. For inference on a CPU, with
channels-last feature maps in float32. The modules in `cbam.attention` stay the reference; results
differ from theirs by rounding. Needs the extra `[numba]`; the import compiles for a second or two.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor, fx, nn

from cbam.trace.rewrite import replace_gates

# Sums may be reordered, so that the compiler can vectorise them; NaN stays NaN.
FAST = {"reassoc", "contract", "arcp", "nsz"}
Floats = np.ndarray[Any, np.dtype[np.float32]]
Bits = np.ndarray[Any, np.dtype[np.int32]]

COMPILED: Callable[[Callable[..., None]], Callable[..., None]] = njit(
    "void(f4[:,:,:,::1], i4[:,:,:,::1], f4[:,::1], f4[::1], f4[:,::1], f4[::1], f4[:,:,::1], i8, "
    "f4, f4[:,::1], f4[:,:,::1])",
    fastmath=FAST,
    nogil=True,
    error_model="numpy",
)


class CompiledGates(nn.Module):
    """Both gates at inference, made from the layers of a CBAM module whose norm is folded.

    x (N, C, H, W) -> `x * channel` (N, C, H, W), the channel map (N, C, 1, 1) and the spatial map
    (N, 1, H, W). If x is channels-last, the product overwrites it.
    """

    def __init__(self, squeeze: nn.Linear, excite: nn.Linear, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weights = tuple(
            np.ascontiguousarray(each.detach().float().numpy())
            for each in (squeeze.weight, squeeze.bias, excite.weight.T, excite.bias, conv.weight[0])
        )
        self.step = int(conv.dilation[0])
        self.shift = 0.0 if conv.bias is None else float(conv.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = x.contiguous(memory_format=torch.channels_last)
        count, channels, height, width = x.shape
        channel = torch.empty(count, channels, 1, 1, dtype=x.dtype)
        spatial = torch.empty(count, 1, height, width, dtype=x.dtype)
        features = x.permute(0, 2, 3, 1).numpy()
        _gates(
            features,
            features.view(np.int32),
            *self.weights,
            self.step,
            self.shift,
            channel.view(count, channels).numpy(),
            spatial.view(count, height, width).numpy(),
        )
        return x, channel, spatial


@COMPILED
def _gates(
    x: Floats,  # (N, H, W, C), overwritten by its product with the channel map
    bits: Bits,  # the same memory
    squeeze: Floats,  # (C / r, C)
    squeeze_shift: Floats,
    excite: Floats,  # (C / r, C)
    excite_shift: Floats,
    kernel: Floats,  # (2, k, k): over the maxima, over the means
    step: int,  # between the places that the kernel looks at
    shift: float,
    channel: Floats,  # (N, C), written
    spatial: Floats,  # (N, H, W), written
) -> None:
    count, height, width, channels = x.shape
    side = kernel.shape[1]
    reach = side // 2 * step
    total, top = np.empty(channels, np.float32), np.empty(channels, np.float32)
    planes = np.zeros((2, height + 2 * reach, width + 2 * reach), np.float32)
    row_sum = np.empty(width, np.float32)
    one, zero = np.float32(1), np.float32(0)
    per_pixel, per_channel = one / np.float32(height * width), one / np.float32(channels)
    flip = np.int32(0x7FFFFFFF)
    for n in range(count):
        # What: mean and maximum over the image.
        total[:], top[:] = zero, np.float32(-np.inf)
        for h in range(height):
            for w in range(width):
                for c in range(channels):
                    value = x[n, h, w, c]
                    total[c] += value
                    top[c] = value if not value <= top[c] else top[c]  # a NaN wins
        # The shared MLP; its second layer is linear, so the two hidden layers are added before it.
        gate = channel[n]
        for c in range(channels):
            total[c] *= per_pixel
            gate[c] = 2 * excite_shift[c]
        for j in range(squeeze.shape[0]):
            of_mean, of_top = squeeze_shift[j], squeeze_shift[j]
            for c in range(channels):
                of_mean += squeeze[j, c] * total[c]
                of_top += squeeze[j, c] * top[c]
            hidden = max(of_mean, zero) + max(of_top, zero)
            for c in range(channels):
                gate[c] += excite[j, c] * hidden
        for c in range(channels):
            gate[c] = one / (one + np.exp(-gate[c]))
        # Where: maximum and mean over the product's channels. To take the maximum, the floats are
        # mapped to integers in the same order: the compiler vectorises an integer maximum only.
        for h in range(height):
            for w in range(width):
                sum_ = zero
                for c in range(channels):
                    value = x[n, h, w, c] * gate[c]
                    x[n, h, w, c] = value
                    sum_ += value
                largest = np.int32(-0x80000000)
                for c in range(channels):
                    key = bits[n, h, w, c]
                    largest = max(largest, key ^ ((key >> np.int32(31)) & flip))
                row = planes[0, h + reach].view(np.int32)
                row[w + reach] = largest ^ ((largest >> np.int32(31)) & flip)
                planes[1, h + reach, w + reach] = sum_ * per_channel
        for h in range(height):
            row_sum[:] = shift
            for plane in range(2):
                for dh in range(side):
                    for dw in range(side):
                        weight = kernel[plane, dh, dw]
                        for w in range(width):
                            row_sum[w] += weight * planes[plane, h + dh * step, w + dw * step]
            for w in range(width):
                spatial[n, h, w] = one / (one + np.exp(-row_sum[w]))


def compile_gates(module: fx.GraphModule) -> None:
    """Replace CBAM in its usual form by CompiledGates, where its input may be overwritten."""
    replace_gates(module, CompiledGates, overwritten=True)
