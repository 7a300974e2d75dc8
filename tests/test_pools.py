"""The pooling of CBAM's gates: the same numbers and gradients as PyTorch's own, in fewer passes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import cbam
from cbam.attention import ATTENTION
from cbam.attention.pools import over_channels, over_places
from cbam.trace.cut import traced

FORMATS = [torch.contiguous_format, torch.channels_last]


def plain_places(x: Tensor) -> Tensor:
    return torch.cat((x.mean(dim=(2, 3)), x.amax(dim=(2, 3))))


def plain_channels(x: Tensor) -> Tensor:
    return torch.cat((x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)), dim=1)


PAIRS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "places": (lambda x: torch.cat(over_places(x)), plain_places),
    "channels": (over_channels, plain_channels),
}


def with_gradient(pool: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The pooled values, and the gradient of a sum of them with weights."""
    x = x.detach().requires_grad_()
    found = pool(x)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).to(found)
    (gradient,) = torch.autograd.grad((found * weights).sum(), x)
    return found, gradient


@pytest.mark.parametrize("order", FORMATS, ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("shape", [(2, 5, 6, 7), (1, 1, 3, 3), (3, 4, 1, 1), (2, 8, 1, 5)])
@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients_are_pytorchs(name: str, shape: tuple[int, ...], order: Any):
    ours, plain = PAIRS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(memory_format=order)
    for found, expected in zip(with_gradient(ours, x), with_gradient(plain, x), strict=True):
        assert_close(found, expected)


@pytest.mark.parametrize("name", PAIRS)
def test_a_slice_of_a_tensor_is_pooled_alike(name: str):
    ours, plain = PAIRS[name]
    x = torch.randn(2, 6, 8, 8)[:, ::2, 1:, ::3]
    for found, expected in zip(with_gradient(ours, x), with_gradient(plain, x), strict=True):
        assert_close(found, expected)


@pytest.mark.parametrize("order", FORMATS, ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("name", PAIRS)
def test_of_equal_maxima_one_gets_the_gradient(name: str, order: Any):
    """PyTorch's `amax` shares it among them; its sum is the same."""
    ours, plain = PAIRS[name]
    x = torch.ones(2, 3, 4, 4).to(memory_format=order)
    (_, found), (_, expected) = with_gradient(ours, x), with_gradient(plain, x)
    over = (2, 3) if name == "places" else 1
    assert_close(found.sum(over), expected.sum(over))
    assert len(found.unique()) > len(expected.unique())


@pytest.mark.parametrize("name", PAIRS)
def test_the_gradient_has_a_gradient(name: str):
    """Some methods differentiate twice: here by hand, of a sum of squares."""
    ours, plain = PAIRS[name]
    seconds = []
    for pool in (ours, plain):
        x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2)).requires_grad_()
        (first,) = torch.autograd.grad(pool(x).square().sum(), x, create_graph=True)
        seconds.append(torch.autograd.grad(first.square().sum(), x)[0])
    assert_close(*seconds)


@pytest.mark.parametrize("attention", ["se", "cbam"])
def test_a_traced_network_has_the_gradients_of_the_plain_one(attention: str):
    torch.manual_seed(0)
    network = cbam.build("resnet18", attention=attention, num_classes=3, width=8).eval()
    images = torch.randn(2, 3, 32, 32)
    found = []
    for module in (network, traced(network)):
        network.zero_grad()
        module(images).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in network.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_autocast_trains_the_gates_in_bfloat16():
    attention = ATTENTION["cbam"].make(16)
    x = torch.randn(2, 16, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        attention(x.bfloat16()).float().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
