"""The peers in their default use, as their own documentation shows it: the whole network, hooks.

Each is imported only when it is its turn: none of them is needed to explain anything here.
"""

import contextlib
import importlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.subjects import Maps


@dataclass(frozen=True)
class Peer:
    """A package that makes Grad-CAM maps."""

    module: str
    explain: Callable[..., Maps]  # its module, network, layer, images (N, 3, H, W), classes

    def load(self) -> tuple[Callable[..., Maps] | None, str]:
        """`explain` with its module, or why there is none."""
        module, reason = load(self.module)
        return (partial(self.explain, module) if module else None), reason


def load(module: str) -> tuple[ModuleType | None, str]:
    """A module, or why it cannot be had."""
    try:
        return importlib.import_module(module), ""
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            return None, "not installed"
        # Something that it imports: OpenCV, for instance, misses a system library.
        return None, f"not installed in full: {error}"


def package_maps(
    package: ModuleType,
    network: nn.Module,
    layer: nn.Module,
    images: Tensor,
    classes: Sequence[int],
    name: str = "GradCAM",
) -> Maps:
    """Maps of a class of the grad-cam package."""
    targets_module = importlib.import_module("pytorch_grad_cam.utils.model_targets")
    # The score that Shapley-CAM's paper explains, and the package's example for it.
    kind = "ClassifierOutputReST" if name == "ShapleyCAM" else "ClassifierOutputTarget"
    targets: list[Any] | None = [getattr(targets_module, kind)(index) for index in classes]
    if name == "FinerCAM":
        targets = None  # it compares the top class with those that come closest
    with (
        contextlib.redirect_stderr(io.StringIO()),  # progress bars
        getattr(package, name)(model=network, target_layers=[layer]) as cam,
    ):
        return np.asarray(cam(input_tensor=images, targets=targets), dtype=np.float32)


def _torchcam(
    package: Any, network: nn.Module, layer: nn.Module, images: Tensor, classes: Sequence[int]
) -> Maps:
    with package.GradCAM(network, layer) as extractor:
        scores = network(images)
        (maps,) = extractor(list(classes), scores)
    return np.asarray(maps.detach().numpy(), dtype=np.float32)


def _captum(
    package: Any, network: nn.Module, layer: nn.Module, images: Tensor, classes: Sequence[int]
) -> Maps:
    explainer = package.LayerGradCam(network, layer)
    maps = explainer.attribute(images, torch.tensor(classes), relu_attributions=True)
    return np.asarray(maps[:, 0].detach().numpy(), dtype=np.float32)


GRAD_CAM = "grad-cam"
PEERS = {
    GRAD_CAM: Peer("pytorch_grad_cam", package_maps),
    "torch-cam": Peer("torchcam.methods", _torchcam),
    "captum": Peer("captum.attr", _captum),
}
