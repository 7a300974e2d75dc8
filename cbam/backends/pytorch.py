"""Trunks in PyTorch: on the CPU in fewer passes over memory, in bfloat16, on a GPU."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from cbam.trace.rewrite import Change, Folded, fuse


class Eager(nn.Module):
    """The trunk in PyTorch, in fewer passes over memory; changes in `first` run before the rest."""

    def __init__(
        self, trunk: fx.GraphModule, images: Tensor, folded: Folded, *first: Change
    ) -> None:
        super().__init__()
        self.trunk = fuse(trunk, folded, *first)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = self.trunk(images)
        return outputs


class EagerBf16(nn.Module):
    """The trunk in PyTorch with 16-bit weights and activations: approximate, never by default."""

    def __init__(self, trunk: fx.GraphModule, images: Tensor, folded: Folded) -> None:
        super().__init__()
        self.trunk = copy.deepcopy(fuse(trunk, folded)).to(torch.bfloat16)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(output.float() for output in self.trunk(images.bfloat16()))


class OnGPU(nn.Module):
    """The trunk on a GPU; images go there and its outputs come back."""

    def __init__(
        self,
        trunk: fx.GraphModule,
        images: Tensor,
        folded: Folded,
        device: str = "cuda",
        compiler: Callable[[nn.Module], Callable[[Tensor], tuple[Tensor, ...]]] | None = None,
    ) -> None:
        super().__init__()
        self.device = device
        there = copy.deepcopy(fuse(trunk, folded)).to(device)
        self.trunk = compiler(there) if compiler else there

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        # TF32, the default of convolutions, keeps 10 bits: too few for TOLERANCE.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            outputs = self.trunk(images.to(self.device, non_blocking=True))
        return tuple(output.to("cpu") for output in outputs)
