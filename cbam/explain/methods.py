"""CAM methods: from an activation and its head to a heat map, raw and unscaled.

Grad-CAM is ours; the other methods are those of the grad-cam package
(https://github.com/jacobgil/pytorch-grad-cam), fed with the head's activation and gradient. Each
sees only values of its own request: hooks, where the package sets them, sit on a module that lives
as long as the call.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cbam.errors import UnknownName
from cbam.explain.split import Split


@dataclass(frozen=True)
class Method:
    """A CAM method, for menus and for running it."""

    title: str
    paper: str
    note: str  # one plain sentence: what the map means
    cost: str  # in words, beyond the one forward pass
    package_class: str | None = None  # its name in pytorch_grad_cam; None: ours


METHODS: dict[str, Method] = {
    "gradcam": Method(
        "Grad-CAM",
        "https://arxiv.org/abs/1610.02391",
        "Channels that speak for the class on average, summed and cut off at zero.",
        "nothing: at the last layer every class's map comes with the forward pass",
    ),
    "hirescam": Method(
        "HiRes-CAM",
        "https://arxiv.org/abs/2011.08891",
        "Activation times gradient cell by cell: only cells that the network really used.",
        "one backward pass through the head",
        "HiResCAM",
    ),
    "gradcam++": Method(
        "Grad-CAM++",
        "https://arxiv.org/abs/1710.11063",
        "Grad-CAM with a weight per cell, meant for several objects of one class.",
        "one backward pass through the head",
        "GradCAMPlusPlus",
    ),
    "xgradcam": Method(
        "XGrad-CAM",
        "https://arxiv.org/abs/2008.02312",
        "Grad-CAM with gradients weighted by each channel's own activation.",
        "one backward pass through the head",
        "XGradCAM",
    ),
    "layercam": Method(
        "Layer-CAM",
        "https://ieeexplore.ieee.org/document/9462463",
        "Only positive gradients count, cell by cell: sharper maps at early layers.",
        "one backward pass through the head",
        "LayerCAM",
    ),
    "eigencam": Method(
        "Eigen-CAM",
        "https://arxiv.org/abs/2008.00299",
        "The main pattern of the activation, whatever the class.",
        "a singular value decomposition",
        "EigenCAM",
    ),
    "randomcam": Method(
        "Random-CAM",
        "https://github.com/jacobgil/pytorch-grad-cam",
        "Random channel weights: the control that a real method has to beat.",
        "nothing",
        "RandomCAM",
    ),
}


def heat_maps(
    split: Split, activation: Tensor, classes: Sequence[int], method: str = "gradcam"
) -> Tensor:
    """One image's raw maps for `classes`: activation (1, C, h, w) -> (len(classes), h, w).

    Values are in logits for Grad-CAM, in the method's own scale otherwise; negative evidence is cut
    off at zero, and a map with no positive evidence is zero everywhere. Raises UnknownName.
    """
    if method not in METHODS:
        raise UnknownName.of("CAM method", method, METHODS)
    if method == "gradcam" and split.pooled_linear is not None:
        return pooled_gradcam(activation, split.pooled_linear.weight[list(classes)])
    return torch.cat([_by_gradient(split, activation, index, method) for index in classes])


def gradcam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Weigh channels by their mean gradient, keep what speaks for the class: (N, h, w), in logits.

    Grad-CAM, Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391, eq. 1-2.
    """
    weights = gradient.mean(dim=(2, 3), keepdim=True)  # (N, C, 1, 1)
    return (weights * activation).sum(dim=1).relu()


def pooled_gradcam(activation: Tensor, rows: Tensor) -> Tensor:
    """Grad-CAM in closed form where the head is average pooling and a linear layer.

    The gradient of class k's logit is then W[k] / (h w) in every cell, so all classes' maps are one
    product: activation (1, C, h, w), rows of W (K, C) -> (K, h, w), in logits.
    Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391, section 3.1.
    """
    h, w = activation.shape[2:]
    with torch.inference_mode():
        return torch.einsum("kc,chw->khw", rows, activation[0]).relu() / (h * w)


def _by_gradient(split: Split, activation: Tensor, index: int, method: str) -> Tensor:
    """A method that needs the gradient of one class's logit: (1, C, h, w) -> (1, h, w)."""
    with torch.enable_grad():
        leaf = activation.clone().requires_grad_()  # a normal tensor, out of inference mode
        logits, _ = split.run_head(leaf)
        # grad, not backward: the shared parameters collect nothing.
        (gradient,) = torch.autograd.grad(logits[0, index], leaf)
    values = leaf.detach()
    if METHODS[method].package_class is None:
        return gradcam(values, gradient)
    return torch.from_numpy(_package_map(split, values, gradient, index, method)).relu()


class _Behind(nn.Module):
    """A head as the grad-cam package wants it: a module with a target layer in front."""

    def __init__(self, split: Split) -> None:
        super().__init__()
        self.target = nn.Identity()
        self.head = split.head  # shared and frozen; the hooks go on `target`, which is our own

    def forward(self, activation: Tensor) -> Tensor:
        logits: Tensor = self.head(self.target(activation))[0]
        return logits


def _package_map(
    split: Split, activation: Tensor, gradient: Tensor, index: int, method: str
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    """The package's map for one class, unscaled: (1, h, w), negative values still in it."""
    try:  # two seconds, and only who asks for its methods needs it
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError as error:  # OpenCV, which it needs, misses a system library
        raise UnknownName(
            f"Method '{method}' is not to be had here: the grad-cam package cannot be imported "
            f"({error}). 'gradcam' works without it."
        ) from error

    behind = _Behind(split).eval()  # the head is in eval mode already
    package_class = getattr(pytorch_grad_cam, str(METHODS[method].package_class))
    with package_class(model=behind, target_layers=[behind.target]) as cam:
        image = cam.get_cam_image(
            activation,
            behind.target,
            [ClassifierOutputTarget(index)],
            activation.numpy(),
            gradient.numpy(),
            False,
        )
    return np.asarray(image, dtype=np.float32)
