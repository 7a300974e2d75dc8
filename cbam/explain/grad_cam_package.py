"""Methods of the grad-cam package, fed with the activation and the gradient of one case.

https://github.com/jacobgil/pytorch-grad-cam. Each method sees only the values of its own case. The
package sets its hooks on a stub that lives only during the call.
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
    """The package's class `name` as a method; `gradient=False` if it needs no gradient."""

    def method(case: Case) -> Tensor:
        if not gradient:  # Random-CAM wants one for its shape
            return _map(name, case, case.activation, case.activation).relu()
        return _map(name, case, *case.gradient()).relu()

    return method


class _Stub(nn.Module):
    """Stands in for the model that the package wants; the methods used here never run it."""

    def __init__(self) -> None:
        super().__init__()
        self.device = nn.Parameter(torch.empty(0))  # the package asks for the first one's device


def package() -> Any:
    """The grad-cam package, imported on demand: only its methods need it, and it takes seconds.

    Raises NotAvailable if it cannot be imported.
    """
    try:
        return import_module("pytorch_grad_cam")
    except ImportError as error:  # for example if its OpenCV lacks a system library
        raise NotAvailable(
            "This method is not available here: the grad-cam package cannot be imported "
            f"({error}). 'gradcam' works without it."
        ) from error


def _map(name: str, case: Case, values: Tensor, gradient: Tensor) -> Tensor:
    """The package's map for one class, unscaled and with negative values: (1, h, w)."""
    known = package()
    stub = _Stub()
    cam = getattr(known, name)(model=stub, target_layers=[stub])
    image = cam.get_cam_image(
        values,
        stub,
        None,  # targets: not used, as the gradient is given
        values.numpy(),
        gradient.numpy(),
        False,
    )
    return torch.from_numpy(np.asarray(image, dtype=np.float32))
