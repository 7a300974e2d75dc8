"""CBAM's gates in other forms: the modules' own answers; and where they may stand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cbam
from cbam.attention import CBAM
from cbam.backbones import blocks
from cbam.backends import numba_gates as compiled
from cbam.backends.openvino import PairedGates, pair_pools
from cbam.trace.cut import cut_at
from cbam.trace.intervene import Change, changeable, changed
from cbam.trace.rewrite import fold_norms, fuse

FORMS = [compiled.CompiledGates, PairedGates]


def trained(attention: CBAM) -> CBAM:
    """With a norm that scales and shifts, in eval mode."""
    assert attention.spatial is not None
    norm = attention.spatial.bn
    with torch.no_grad():
        for each, value in ((norm.weight, 1.7), (norm.bias, -0.3)):
            each.fill_(value)
        norm.running_mean.fill_(0.2)
        norm.running_var.fill_(0.6)
    return attention.eval()


def formed(form: Any, attention: CBAM) -> Any:
    """Its gates in another form."""
    graph = torch.fx.symbolic_trace(attention)
    fold_norms(graph, {})
    layers = [graph.get_submodule(n) for n in ("channel.mlp.0", "channel.mlp.2", "spatial.conv")]
    return form(*layers)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize(
    "shape", [(1, 16, 8, 8), (3, 40, 7, 5), (2, 17, 1, 9), (1, 64, 1, 1), (2, 256, 14, 14)], ids=str
)
def test_both_forms_are_the_modules(form: Any, shape: tuple[int, ...], kernel: int) -> None:
    torch.manual_seed(3)
    attention = trained(CBAM(shape[1], kernel=kernel))
    assert attention.channel is not None
    assert attention.spatial is not None
    x = torch.randn(shape) * 3
    with torch.inference_mode():
        channel = attention.channel(x)
        spatial = attention.spatial(x * channel)
        for given in (x.clone(), x.clone(memory_format=torch.channels_last)):
            found = formed(form, attention)(given)
            for one, other in zip(found, (x * channel, channel, spatial), strict=True):
                assert one.shape == other.shape
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", [3, 7])
def test_both_forms_are_the_modules_dilated(form: Any, kernel: int) -> None:
    torch.manual_seed(3)
    attention = trained(CBAM(16, kernel=kernel))
    assert attention.channel is not None
    assert attention.spatial is not None
    x = torch.randn(2, 16, 10, 9) * 3
    with torch.inference_mode():
        usual = attention.spatial(x * attention.channel(x))
        attention.spatial.dilate(2)
        expected = attention.spatial(x * attention.channel(x))
        _, _, found = formed(form, attention)(x.clone())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (usual - expected).abs().max() > 0.01


def test_a_map_all_below_zero_has_its_maxima_found() -> None:
    attention = trained(CBAM(8))
    x = -1 - torch.rand(1, 8, 6, 6)
    _, _, spatial = formed(compiled.CompiledGates, attention)(x.clone())
    assert attention.channel is not None
    assert attention.spatial is not None
    with torch.inference_mode():
        expected = attention.spatial(x * attention.channel(x))
    torch.testing.assert_close(spatial, expected, atol=1e-5, rtol=1e-5)


def test_what_is_not_a_number_stays_so() -> None:
    x = torch.randn(1, 8, 6, 6)
    x[0, 3, 2, 2] = torch.nan
    refined, channel, spatial = formed(compiled.CompiledGates, trained(CBAM(8)))(x)
    assert refined.isnan().any()
    assert channel.isnan().any()
    assert spatial.isnan().any()


def network(attention: str = "cbam", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    made = cbam.build(
        "resnet18", attention=attention, num_classes=3, width=16, attention_options=options
    )
    for module in made.modules():
        if isinstance(module, CBAM) and module.spatial is not None:
            trained(module)
    return made.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def changed_in(graph: nn.Module) -> int:
    """How many modules' gates have another form in a trunk that was rewritten."""
    used = {str(node.target) for node in graph.graph.nodes if node.op == "call_module"}  # type: ignore[union-attr]
    return sum(isinstance(graph.get_submodule(name), tuple(FORMS)) for name in used)


def same(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> None:
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "modules"),
    [
        ({}, 8),
        ({"reduction": 4, "kernel": 3}, 8),
        ({"pool": "avg"}, 0),
        ({"squeeze": "conv"}, 0),
        ({"order": "spatial-first"}, 0),
        ({"order": "parallel"}, 0),
        ({"gates": "channel"}, 0),
    ],
    ids=str,
)
def test_the_usual_form_is_changed_and_ablations_are_left(
    options: dict[str, Any], modules: int
) -> None:
    made = network(**options)
    trunk = cut_at(made, blocks(made)[-1]).trunk
    x = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    for fast in (fuse(trunk, None, compiled.compile_gates), pair_pools(trunk)):
        assert changed_in(fast) == modules
        with torch.inference_mode():
            same(fast(x), trunk(x))


def test_gates_that_are_told_what_to_say_are_paired_too() -> None:
    made = network()
    last = blocks(made)[-1]
    x = torch.randn(2, 3, 64, 64)
    plain = changeable(made, last)
    assert isinstance(plain.trunk, torch.fx.GraphModule)
    fast = replace(plain, trunk=pair_pools(plain.trunk))
    assert changed_in(fast.trunk) == 8
    paths = ("avg", "max")
    for changes in (
        {},
        {
            "layer1.0.channel": Change.path("avg", paths),
            "layer2.0.spatial": Change.strength(0.3, 1),
        },
        {"layer3.0.spatial": Change.path("max", paths), "layer2.1.channel": Change.held(0.7)},
    ):
        activation, maps = changed(plain, changes).run_trunk(x)
        fast_activation, fast_maps = changed(fast, changes).run_trunk(x)
        same((activation, *maps.values()), (fast_activation, *fast_maps.values()))


def test_another_attention_is_left() -> None:
    made = network("se")
    assert changed_in(fuse(cut_at(made, blocks(made)[-1]).trunk, None, compiled.compile_gates)) == 0


class Twice(nn.Module):
    """A network that looks at a convolution's output again, after the gates."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.attention = nn.Conv2d(3, 16, 3), trained(CBAM(16))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(x)
        return self.attention(x), x


def test_what_somebody_else_looks_at_is_not_overwritten() -> None:
    plain = Twice().eval()
    trunk = torch.fx.symbolic_trace(plain)
    assert changed_in(fuse(trunk, None, compiled.compile_gates)) == 0
    assert changed_in(pair_pools(trunk)) == 1  # overwrites nothing
    x = torch.randn(1, 3, 12, 12)
    with torch.inference_mode():
        for fast in (fuse(trunk, None, compiled.compile_gates), pair_pools(trunk)):
            same(fast(x), plain(x))
