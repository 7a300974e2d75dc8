"""Methods of the grad-cam package, fed with the activation and the gradient of one case.

https://github.com/jacobgil/pytorch-grad-cam. Each sees only values of its own case, and the
hooks that the package sets sit on a stub that lives as long as the call.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cbam.errors import NotAvailable
from cbam.explain.formulas import Case


def by_package(name: str, gradient: bool = True) -> Callable[[Case], Tensor]:
    """The package's class `name` as a method; without `gradient` none is computed for it."""

    def method(case: Case) -> Tensor:
        if not gradient:  # Random-CAM asks for its shape
            return _map(name, case, case.activation, case.activation).relu()
        return _map(name, case, *case.gradient()).relu()

    return method


class _Stub(nn.Module):
    """What the package wants for a model; these of its methods never run it."""

    def __init__(self) -> None:
        super().__init__()
        self.device = nn.Parameter(torch.empty(0))  # the package asks for the first one's device


def package() -> Any:
    """The grad-cam package. Only who asks for its methods needs it, and its import takes seconds.

    Raises NotAvailable if it cannot be imported.
    """
    try:
        return import_module("pytorch_grad_cam")
    except ImportError as error:  # OpenCV, which it needs, misses a system library
        raise NotAvailable(
            "This method is not to be had here: the grad-cam package cannot be imported "
            f"({error}). 'gradcam' works without it."
        ) from error


def _map(name: str, case: Case, values: Tensor, gradient: Tensor) -> Tensor:
    """The package's map for one class, unscaled: (1, h, w), negative values still in it."""
    known = package()
    stub = _Stub()
    cam = getattr(known, name)(model=stub, target_layers=[stub])
    image = cam.get_cam_image(
        values,
        stub,
        None,  # targets: these methods ask for none, the gradient has them in it
        values.numpy(),
        gradient.numpy(),
        False,
    )
    return torch.from_numpy(np.asarray(image, dtype=np.float32))
