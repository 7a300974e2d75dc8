"""What CBAM's gates look at: the mean and the maximum, over places and over channels.

PyTorch's backward pass of `amax` looks for all equal maxima to share the gradient among them, in
several passes over the feature map. Here the forward pass remembers where the maximum was, and one
pass back writes the gradients of both. Where several are equally large, one of them gets the
gradient, as in `torch.max`.

They decide by what they get, which torch.fx cannot follow: whoever calls them wraps them.
"""

from typing import Any

import torch
from torch import Tensor


def over_places(x: Tensor) -> tuple[Tensor, Tensor]:
    """Features (N, C, H, W) -> mean and maximum of each channel, (N, C) each."""
    if _to_be_trained(x):
        mean, top = _OverPlaces.apply(x)
        return mean, top
    return x.mean(dim=(2, 3)), x.amax(dim=(2, 3))


def over_channels(x: Tensor) -> Tensor:
    """Features (N, C, H, W) -> maximum and mean of each place, (N, 2, H, W)."""
    if _to_be_trained(x):
        planes: Tensor = _OverChannels.apply(x)
        return planes
    return torch.cat((x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)), dim=1)


def _to_be_trained(x: Tensor) -> bool:
    """Whether gradients will be asked for. A compiler fuses the plain form better than ours."""
    return x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()


class _OverPlaces(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        n, c, h, w = ctx.shape = x.shape
        ctx.last = x.is_contiguous(memory_format=torch.channels_last)
        # Views in the order in which the numbers lie in memory.
        places = x.permute(0, 2, 3, 1).reshape(n, h * w, c) if ctx.last else x.flatten(2)
        ctx.dim = 1 if ctx.last else 2
        top, at = places.max(dim=ctx.dim)
        ctx.save_for_backward(at)
        return places.mean(dim=ctx.dim), top

    @staticmethod
    def backward(ctx: Any, of_mean: Tensor, of_top: Tensor) -> Tensor:
        (at,) = ctx.saved_tensors
        n, c, h, w = ctx.shape
        shared: Tensor = of_mean / (h * w)
        shape = (n, h * w, c) if ctx.last else (n, c, h * w)
        gradient: Tensor = shared.unsqueeze(ctx.dim).expand(shape).contiguous()
        gradient.scatter_(ctx.dim, at.unsqueeze(ctx.dim), (shared + of_top).unsqueeze(ctx.dim))
        return (
            gradient.view(n, h, w, c).permute(0, 3, 1, 2) if ctx.last else gradient.view(n, c, h, w)
        )


class _OverChannels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        ctx.last = x.is_contiguous(memory_format=torch.channels_last)
        top, at = x.max(dim=1, keepdim=True)
        ctx.save_for_backward(at)
        return torch.cat((top, x.mean(dim=1, keepdim=True)), dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (at,) = ctx.saved_tensors
        of_top, shared = gradient[:, :1], gradient[:, 1:] / ctx.shape[1]
        order = torch.channels_last if ctx.last else torch.contiguous_format
        found: Tensor = shared.expand(ctx.shape).contiguous(memory_format=order)
        return found.scatter_(1, at, shared + of_top)
