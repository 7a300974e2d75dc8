"""The table of CAM methods, and `heat_maps`: from an activation to raw, unscaled maps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cbam.explain.formulas import (
    Case,
    ablationcam,
    counterfactual,
    finercam,
    gradcam,
    pooled_ablationcam,
    pooled_gradcam,
    scorecam,
    shapleycam,
)
from cbam.explain.grad_cam_package import by_package
from cbam.explain.targets import ClassLogit, Target
from cbam.trace.cut import Cut

__all__ = ["METHODS", "Method", "gradcam", "heat_maps", "pooled_gradcam"]

# low: about a forward pass; medium: a pass through the head for each channel; high: a pass through
# the whole network for each channel.
CostClass = Literal["low", "medium", "high"]
Pooled = Callable[[Tensor, nn.Linear, Sequence[int]], Tensor]


@dataclass(frozen=True)
class Method:
    """A CAM method: how to run it and how to present it."""

    title: str
    paper: str
    note: str  # one plain sentence: what the map means
    cost: str  # in words, beyond the one forward pass
    cost_class: CostClass
    run: Callable[[Case], Tensor]  # one class's raw map: (1, h, w)
    # All classes' maps (K, h, w) at once, where the head is average pooling and a linear layer.
    pooled: Pooled | None = None
    versus: bool = False  # contrasts the class with others
    ignores_class: bool = False  # its map is the same for every class
    groups: bool = True  # explains any target, not only a class's logit
    unit: str = ""  # of its raw values
    package: str = ""  # its class in the grad-cam package: the oracle of tests and benchmarks


GRADCAM = "gradcam"  # the default
BACKWARD = "one backward pass through the head"

METHODS: dict[str, Method] = {
    GRADCAM: Method(
        "Grad-CAM",
        "https://arxiv.org/abs/1610.02391",
        "Channels that speak for the class on average, summed and cut off at zero.",
        "nothing: at the last layer every class's map comes with the forward pass",
        "low",
        lambda case: gradcam(*case.gradient()),
        lambda activation, linear, ks: pooled_gradcam(activation, linear.weight[list(ks)]),
        unit="logits",
        package="GradCAM",
    ),
    "hirescam": Method(
        "HiRes-CAM",
        "https://arxiv.org/abs/2011.08891",
        "Activation times gradient cell by cell: only cells that the network really used.",
        f"{BACKWARD}; at the last layer it is Grad-CAM",
        "low",
        by_package("HiResCAM"),
        lambda activation, linear, ks: pooled_gradcam(activation, linear.weight[list(ks)]),
        unit="logits",
        package="HiResCAM",
    ),
    "elementwise": Method(
        "Grad-CAM element-wise",
        "https://github.com/jacobgil/pytorch-grad-cam",
        "HiRes-CAM that drops negative evidence before the channels are summed, not after.",
        BACKWARD,
        "low",
        by_package("GradCAMElementWise"),
        package="GradCAMElementWise",
    ),
    "gradcam++": Method(
        "Grad-CAM++",
        "https://arxiv.org/abs/1710.11063",
        "Grad-CAM with a weight per cell, meant for several objects of one class.",
        BACKWARD,
        "low",
        by_package("GradCAMPlusPlus"),
        package="GradCAMPlusPlus",
    ),
    "xgradcam": Method(
        "XGrad-CAM",
        "https://arxiv.org/abs/2008.02312",
        "Grad-CAM with gradients weighted by each channel's own activation.",
        BACKWARD,
        "low",
        by_package("XGradCAM"),
        package="XGradCAM",
    ),
    "layercam": Method(
        "Layer-CAM",
        "https://ieeexplore.ieee.org/document/9462463",
        "Only positive gradients count, cell by cell: sharper maps at early layers.",
        BACKWARD,
        "low",
        by_package("LayerCAM"),
        package="LayerCAM",
    ),
    "shapleycam": Method(
        "Shapley-CAM",
        "https://arxiv.org/abs/2501.06261",
        "Grad-CAM that also counts how the gradient bends: channels as players of a game.",
        "two backward passes through the head",
        "low",
        shapleycam,
        groups=False,
        package="ShapleyCAM",
    ),
    "finercam": Method(
        "Finer-CAM",
        "https://arxiv.org/abs/2501.11309",
        "Why this class and not that one: what tells it from the classes that come closest.",
        BACKWARD,
        "low",
        finercam,
        versus=True,
        unit="logits",
        groups=False,
        package="FinerCAM",
    ),
    "counterfactual": Method(
        "Counterfactual Grad-CAM",
        "https://arxiv.org/abs/1610.02391",
        "What speaks against the class: without it the model would be surer.",
        "nothing at the last layer, elsewhere one backward pass through the head",
        "low",
        counterfactual,
        lambda activation, linear, ks: pooled_gradcam(activation, -linear.weight[list(ks)]),
        unit="logits",
    ),
    "ablationcam": Method(
        "Ablation-CAM",
        "https://ieeexplore.ieee.org/document/9093360",
        "Channels weighted by how much the model's answer drops without them; no gradients.",
        "one pass through the head for each channel; nothing at the last layer",
        "medium",
        ablationcam,
        pooled_ablationcam,
        package="AblationCAM",
    ),
    "scorecam": Method(
        "Score-CAM",
        "https://arxiv.org/abs/1910.01279",
        "Channels weighted by how the model answers a photo that shows only where they are active.",
        "one pass through the whole network for each channel: hundreds of times a plain answer",
        "high",
        scorecam,
        package="ScoreCAM",
    ),
    "eigencam": Method(
        "Eigen-CAM",
        "https://arxiv.org/abs/2008.00299",
        "The main pattern of the activation, whatever the class.",
        "a singular value decomposition",
        "low",
        by_package("EigenCAM", gradient=False),
        ignores_class=True,
        package="EigenCAM",
    ),
    "eigengradcam": Method(
        "Eigen-Grad-CAM",
        "https://github.com/jacobgil/pytorch-grad-cam",
        "The main pattern of activation times gradient: Eigen-CAM that knows the class.",
        f"{BACKWARD} and a singular value decomposition",
        "low",
        by_package("EigenGradCAM"),
        package="EigenGradCAM",
    ),
    "kpcacam": Method(
        "KPCA-CAM",
        "https://arxiv.org/abs/2410.00267",
        "The main pattern of the activation where patterns may be curved, whatever the class.",
        "a principal component of all pairs of cells",
        "low",
        by_package("KPCA_CAM", gradient=False),
        ignores_class=True,
        package="KPCA_CAM",
    ),
    "randomcam": Method(
        "Random-CAM",
        "https://github.com/jacobgil/pytorch-grad-cam",
        "Random channel weights: the control that a real method has to beat.",
        "nothing",
        "low",
        by_package("RandomCAM", gradient=False),
        ignores_class=True,
        package="RandomCAM",
    ),
}


def heat_maps(
    cut: Cut,
    activation: Tensor,
    targets: Sequence[Target],
    method: Method = METHODS[GRADCAM],
    *,
    versus: Sequence[int] = (),
    image: Tensor | None = None,
    ends_at: float = float("inf"),
) -> Tensor:
    """One image's raw maps for `targets`: activation (1, C, h, w) -> (len(targets), h, w).

    Values are in logits for Grad-CAM, in the method's own scale otherwise; negative evidence is cut
    off at zero, and a map with no positive evidence is zero everywhere. `versus` are the classes
    that Finer-CAM contrasts with, `image` (1, 3, H, W) is what Score-CAM masks. Methods with many
    passes give up at `ends_at` on time.monotonic(). Raises TooSlow, OptionClash.
    """
    classes = [target.index for target in targets if isinstance(target, ClassLogit)]
    if method.pooled and cut.pooled_linear is not None and len(classes) == len(targets):
        return method.pooled(activation, cut.pooled_linear, classes)
    cases = (Case(cut, activation, target, tuple(versus), image, ends_at) for target in targets)
    return torch.cat([method.run(case) for case in cases])
