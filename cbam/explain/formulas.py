"""CAM formulas from their papers: from a case (one image, one target) to a raw map (1, h, w).

Every formula runs only the head (Score-CAM also the trunk), differentiates with
`torch.autograd.grad` and sets no hook, so that threads may share the network.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cbam.errors import OptionClash, TooSlow
from cbam.explain.targets import Against, Ahead, ClassLogit, LogitAndLogProbability, Target, rivals
from cbam.trace.cut import Cut

BATCH_FLOATS = 2**22  # most values of the activations in one batch: 16 MiB
BATCH_IMAGES = 16  # a batch of whole images: as in the grad-cam package


@dataclass(frozen=True, eq=False)
class Case:
    """One image and one target: everything that a method may use."""

    cut: Cut
    activation: Tensor  # (1, C, h, w), at the cut
    target: Target  # what to explain
    versus: tuple[int, ...] = ()  # classes to contrast it with, for methods that do
    image: Tensor | None = None  # (1, 3, H, W), for methods that mask it
    ends_at: float = float("inf")  # on time.monotonic(): methods with many passes give up then

    def go_on(self) -> None:
        """Called between two passes. Raises TooSlow once the time is over."""
        if time.monotonic() > self.ends_at:
            raise TooSlow(
                "This method needs a pass for each channel, and the time for it is over. Ask fewer "
                "models, an earlier layer with fewer channels, or a cheaper method."
            )

    @property
    def class_index(self) -> int:
        """The explained class. Raises OptionClash if the target is not a class's logit."""
        if not isinstance(self.target, ClassLogit):
            raise OptionClash("This method explains a class. For other targets choose 'gradcam'.")
        return self.target.index

    def gradient(self, target: Target | None = None) -> tuple[Tensor, Tensor]:
        """The activation and a target's gradient, by default the case's own: both (1, C, h, w)."""
        with torch.enable_grad():
            leaf = self.leaf()
            # grad, not backward: the shared parameters collect nothing.
            (gradient,) = torch.autograd.grad(self.score(leaf, target), leaf)
        return leaf.detach(), gradient

    def leaf(self) -> Tensor:
        """A copy of the activation that collects gradients."""
        return self.activation.clone().requires_grad_()  # out of inference mode

    def score(self, activations: Tensor, target: Target | None = None) -> Tensor:
        """The number to explain for each of N activations: (N, C, h, w) -> (N,)."""
        return (target or self.target)(self.cut.run_head(activations)[0])


def gradcam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Weigh channels by their mean gradient, keep what speaks for the class: (N, h, w), in logits.

    Grad-CAM, Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391, eq. 1-2.
    """
    return weighted(activation, gradient.mean(dim=(2, 3)))


def weighted(activation: Tensor, weights: Tensor) -> Tensor:
    """Channels (N, C, h, w) times weights (N, C), summed, negative evidence cut off: (N, h, w)."""
    return torch.einsum("nc,nchw->nhw", weights, activation).relu()


def pooled_gradcam(activation: Tensor, rows: Tensor) -> Tensor:
    """Grad-CAM in closed form where the head is average pooling and a linear layer.

    The gradient of class k's logit is then W[k] / (h w) in every cell, so all classes' maps are one
    product: activation (1, C, h, w), rows of W (K, C) -> (K, h, w), in logits.
    Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391, section 3.1.
    """
    h, w = activation.shape[2:]
    with torch.inference_mode():
        return torch.einsum("kc,chw->khw", rows, activation[0]).relu() / (h * w)


def counterfactual(case: Case) -> Tensor:
    """Grad-CAM of minus the target: what speaks against it, in logits.

    Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391, section 3.3.
    """
    return gradcam(*case.gradient(Against(case.target)))


def finercam(case: Case) -> Tensor:
    """Grad-CAM of how far the class is ahead of its rivals, in logits.

    Finer-CAM, Zhang et al. 2025, https://arxiv.org/abs/2501.11309; its score is `Ahead`.
    """
    index = case.class_index
    with torch.inference_mode():
        logits = case.cut.run_head(case.activation)[0][0]
    return gradcam(*case.gradient(Ahead(index, case.versus or rivals(logits, index))))


def shapleycam(case: Case) -> Tensor:
    """Grad-CAM with a second-order weight: mean of gradient - Hessian times activation / 2.

    Shapley-CAM, Cai 2025, https://arxiv.org/abs/2501.06261; its score is LogitAndLogProbability.
    """
    with torch.enable_grad():
        leaf = case.leaf()
        score = case.score(leaf, LogitAndLogProbability(case.class_index))
        (gradient,) = torch.autograd.grad(score, leaf, create_graph=True)
        (curvature,) = torch.autograd.grad(gradient, leaf, grad_outputs=leaf.detach())
    return gradcam(leaf.detach(), gradient.detach() - curvature / 2)


def ablationcam(case: Case) -> Tensor:
    """Weigh each channel by the share of the logit y that is lost without it: (y - y_without) / y.

    Where y is negative, the formula turns the sign around. Ablation-CAM, Desai and Ramaswamy 2020,
    https://ieeexplore.ieee.org/document/9093360
    """
    activation = case.activation
    with torch.inference_mode():
        full = case.score(activation)
        losses = activation.new_zeros(activation.shape[1])  # a silent channel loses nothing
        alive = activation[0].any(dim=2).any(dim=1).nonzero()[:, 0]
        for some in torch.split(alive, max(1, min(64, BATCH_FLOATS // activation.numel()))):
            case.go_on()
            ablated = activation.repeat(len(some), 1, 1, 1)
            ablated[torch.arange(len(some)), some] = 0
            losses[some] = full - case.score(ablated)
        return weighted(activation, (losses / full).unsqueeze(0))


def pooled_ablationcam(activation: Tensor, linear: nn.Linear, classes: Sequence[int]) -> Tensor:
    """Ablation-CAM in closed form where the head is average pooling and a linear layer.

    Without channel c, class k loses W[k, c] times the channel's mean: (len(classes), h, w).
    """
    with torch.inference_mode():
        means = activation.mean(dim=(2, 3))  # (1, C)
        losses = linear.weight[list(classes)] * means  # (K, C)
        full = linear(means)[0, list(classes)]
        return weighted(activation.expand(len(classes), -1, -1, -1), losses / full[:, None])


def scorecam(case: Case) -> Tensor:
    """Weigh each channel by the softmax of the logits that the image has under its mask.

    The mask is the channel's activation, scaled to [0, 1] and enlarged to the image, so every
    channel costs a pass through the whole network. Score-CAM, Wang et al. 2020,
    https://arxiv.org/abs/1910.01279, without a baseline, as in the grad-cam package. Raises
    ValueError if the case has no image.
    """
    if case.image is None:
        raise ValueError("Score-CAM masks the image, so it needs one.")
    with torch.inference_mode():
        scores: list[Tensor] = []
        for masks in _masks(case.activation[0], case.image.shape[2:]):
            case.go_on()
            activation, _ = case.cut.run_trunk(case.image * masks)
            scores.append(case.score(activation))
        return weighted(case.activation, torch.cat(scores).softmax(dim=0).unsqueeze(0))


def _masks(activation: Tensor, size: Sequence[int]) -> Iterator[Tensor]:
    """Channels (C, h, w) as masks in [0, 1] of this height and width: batches (N, 1, H, W)."""
    for some in torch.split(activation.unsqueeze(1), BATCH_IMAGES):
        masks = F.interpolate(some, list(size), mode="bilinear", align_corners=True)
        low, high = masks.amin(dim=(2, 3), keepdim=True), masks.amax(dim=(2, 3), keepdim=True)
        yield (masks - low) / (high - low + 1e-8)


@dataclass(frozen=True)
class Fusion:
    """How the maps of several layers become one."""

    title: str
    says: str  # what a cell of the fused map is
    run: Callable[[Tensor], Tensor]  # (L, K, H, W) -> (K, H, W)


MEAN = "mean"  # the default
FUSIONS: Mapping[str, Fusion] = {
    MEAN: Fusion(
        "Mean",
        "the mean over the layers, as in the grad-cam package",
        lambda maps: maps.mean(dim=0),
    ),
    "max": Fusion(
        "Maximum",
        "the greatest value of any layer, so that no layer's evidence is thinned out",
        lambda maps: maps.amax(dim=0),
    ),
}


def from_least(maps: Tensor) -> Tensor:
    """Maps (K, h, w) from the least value, 0, to the greatest, 1: as the grad-cam package does."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low + 1e-7)


def from_zero(maps: Tensor) -> Tensor:
    """Maps (K, h, w), none negative, by their greatest value: what is 0 stays 0."""
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)


def fused(
    maps: Sequence[Tensor],
    size: Sequence[int],
    fusion: Fusion = FUSIONS[MEAN],
    scale: Callable[[Tensor], Tensor] = from_least,
) -> Tensor:
    """Several layers' maps (K, h, w) as one (K, H, W) in [0, 1], for `size` (H, W).

    Each is scaled to [0, 1] by `scale` and enlarged first.
    """
    with torch.inference_mode():
        enlarged = [
            F.interpolate(scale(each).unsqueeze(1), list(size), mode="bilinear")[:, 0]
            for each in maps
        ]
        return fusion.run(torch.stack(enlarged))
