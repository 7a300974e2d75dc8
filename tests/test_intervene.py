"""A network that is told what its gates say, against networks with other modules in their place."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from cbam.attention import ATTENTION
from cbam.attention.gates import ChannelGate, SpatialGate
from cbam.errors import UnknownName
from cbam.trace.cut import Cut, cut_at
from cbam.trace.intervene import Change, changeable, changed
from cbam.trace.rewrite import fuse

MakeNetwork = Callable[..., nn.Module]
WITH_GATES = [name for name, record in ATTENTION.items() if record.gates]
LAYERS = ["layer4.1", "layer2.0", ["layer2.0", "layer3.1"]]  # gates before and behind the cut


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def run(cut: Cut, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and all maps."""
    activation, maps = cut.run_trunk(x)
    with torch.inference_mode():
        logits, more = cut.run_head(activation)
    return logits, {**maps, **more}


def told(network: nn.Module, layer: str | list[str], changes: Mapping[str, Change]) -> Tensor:
    return run(changed(changeable(network, layer), changes), images())[0]


class Says(nn.Module):
    """In a gate's place: says the same of every photo."""

    def __init__(self, value: Tensor | float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor | float:
        return self.value


def replaced(network: nn.Module, gates: Mapping[str, nn.Module]) -> Tensor:
    """Logits of a copy of the network with other modules in the place of gates."""
    other = copy.deepcopy(network)
    for name, module in gates.items():
        block, kind = name.rsplit(".", 1)
        setattr(other.get_submodule(f"{block}.attention"), kind, module)
    with torch.inference_mode():
        logits: Tensor = other(images())
    return logits


@pytest.mark.parametrize("attention", WITH_GATES)
@pytest.mark.parametrize("layer", LAYERS)
def test_told_nothing_a_network_answers_as_it_is_bit_for_bit(
    make_network: MakeNetwork, attention: str, layer: str | list[str]
):
    network = make_network(attention)
    logits, maps = run(cut_at(network, layer), images())
    full = Change.strength(1.0, 1.0)
    cut = changeable(network, layer)
    for changes in ({}, dict.fromkeys(cut.places, full)):
        found, found_maps = run(changed(cut, changes), images())
        assert torch.equal(found, logits)
        assert found_maps.keys() == maps.keys()
        for name, value in maps.items():
            assert torch.equal(found_maps[name], value), name


def test_a_trunk_in_fewer_passes_is_told_as_well(make_network: MakeNetwork):
    network = make_network("cbam").requires_grad_(False)
    plain = cut_at(network, "layer4.1")
    plain = replace(plain, trunk=fuse(plain.trunk, {}))
    cut = changeable(network, "layer4.1")
    cut = replace(cut, trunk=fuse(cut.trunk, {}))
    assert torch.equal(run(changed(cut, {}), images())[0], run(plain, images())[0])
    shut = {"layer1.0.channel": Change.held(0.25)}
    assert_close(run(changed(cut, shut), images())[0], told(network, "layer4.1", shut))


@pytest.mark.parametrize("layer", LAYERS)
def test_gates_that_say_one_are_no_gates(make_network: MakeNetwork, layer: str | list[str]):
    network = make_network("cbam")
    off = dict.fromkeys(cut_at(network, "layer4.1").places, Change.strength(0.0, 1.0))
    without = replaced(network, {name: Says(1.0) for name in off})
    assert_close(told(network, layer, off), without)
    # The same network with the same weights, built without attention.
    plain = make_network("none")
    missing = plain.load_state_dict(network.state_dict(), strict=False)
    assert not missing.missing_keys
    with torch.inference_mode():
        assert_close(without, plain.eval()(images()))


@pytest.mark.parametrize("layer", LAYERS)
def test_a_held_gate_is_a_constant_in_its_place(make_network: MakeNetwork, layer: str | list[str]):
    network = make_network("cbam")
    maps = run(cut_at(network, "layer4.1"), images())[1]
    for name in ("layer1.0.channel", "layer2.1.spatial", "layer4.0.channel"):
        value = torch.rand(maps[name].shape[1:], generator=torch.Generator().manual_seed(1))
        found = told(network, layer, {name: Change.held(value)})
        assert_close(found, replaced(network, {name: Says(value)}))
        assert not torch.allclose(found, replaced(network, {}))


class Alone(nn.Module):
    """A gate of CBAM that sees one of its two poolings only, as the paper's equations say it."""

    def __init__(self, gate: nn.Module, path: str) -> None:
        super().__init__()
        self.gate, self.path = gate, path

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.gate, ChannelGate):
            pooled = x.mean((2, 3)) if self.path == "avg" else x.flatten(2).max(2).values
            return self.gate.mlp(pooled).sigmoid()[:, :, None, None]
        assert isinstance(self.gate, SpatialGate)
        window = self.gate.conv.weight  # (1, 2, k, k) for [max, mean]
        which, plane = (1, x.mean(1, True)) if self.path == "avg" else (0, x.amax(1, True))
        seen = nn.functional.conv2d(plane, window[:, which : which + 1], padding=3)
        return self.gate.bn(seen).sigmoid()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("path", ["avg", "max"])
@pytest.mark.parametrize("name", ["layer1.1.channel", "layer3.0.spatial"])
def test_one_path_of_a_gate_decides_alone(
    make_network: MakeNetwork, layer: str | list[str], path: str, name: str
):
    network = make_network("cbam")
    block, kind = name.rsplit(".", 1)
    gate = network.get_submodule(f"{block}.attention.{kind}")
    assert isinstance(gate, ChannelGate | SpatialGate)
    found = told(network, layer, {name: Change.path(path, gate.paths)})
    assert_close(found, replaced(network, {name: Alone(gate, path)}))
    assert not torch.allclose(found, replaced(network, {}))


def test_a_share_of_its_strength_lies_between_open_and_its_own():
    own = torch.tensor([[[0.2]], [[0.8]]])
    for share, expected in ((0.0, [1, 1]), (0.5, [0.6, 0.9]), (1.0, [0.2, 0.8])):
        change = Change.strength(share, 1.0)
        assert_close((own * change.keep + change.given).flatten(), torch.tensor(expected).float())


def test_a_painted_gate_keeps_its_own_value_where_nothing_is_painted():
    own = torch.tensor([[[0.2, 0.3], [0.4, 0.5]]])
    change = Change.painted(torch.tensor([[[0.0, float("nan")], [1.0, float("nan")]]]))
    assert torch.equal(own * change.keep + change.given, torch.tensor([[[0, 0.3], [1, 0.5]]]))


def test_chosen_channels_can_be_changed_alone():
    own = torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    chosen = torch.tensor([False, True, False])[:, None, None]
    change = Change.strength(0.0, 1.0).but(chosen, Change())
    assert torch.equal((own * change.keep + change.given).flatten(), torch.tensor([1, 0.3, 1]))


def test_gates_behind_a_changed_one_see_the_change(make_network: MakeNetwork):
    network = make_network("cbam")
    logits, maps = run(cut_at(network, "layer2.1"), images())
    cut = changed(changeable(network, "layer2.1"), {"layer1.0.channel": Change.held(0.0)})
    found, found_maps = run(cut, images())
    assert not torch.allclose(found, logits)
    assert torch.equal(found_maps["layer1.0.channel"], 0 * maps["layer1.0.channel"])
    # After it everything changes, behind the cut, too.
    for name in ("layer1.1.channel", "layer2.0.spatial", "layer4.1.spatial"):
        assert not torch.allclose(found_maps[name], maps[name])


def test_the_head_can_still_be_differentiated(make_network: MakeNetwork):
    cut = changeable(make_network("cbam").requires_grad_(False), "layer3.1")
    cut = changed(cut, {"layer4.0.spatial": Change.held(1.0)})
    leaf = cut.run_trunk(images(1))[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cut.run_head(leaf)[0][0, 1], leaf)
    assert gradient.abs().max() > 0


def test_the_network_stays_as_it_is_and_another_change_needs_no_new_trace(
    make_network: MakeNetwork,
):
    network = make_network("cbam")
    with torch.inference_mode():
        before = network(images())
    cut = changeable(network, "layer4.1")
    code = cut.trunk.code
    answers = [
        run(changed(cut, {"layer1.0.channel": Change.held(value)}), images())[0]
        for value in (0.0, 0.5, 0.0)
    ]
    assert torch.equal(answers[0], answers[2])
    assert not torch.allclose(answers[0], answers[1])
    assert cut.trunk.code == code
    with torch.inference_mode():
        assert torch.equal(network(images()), before)


def test_a_gate_that_there_is_not_is_refused(make_network: MakeNetwork):
    cut = changeable(make_network("se"), "layer4.1")
    with pytest.raises(UnknownName, match=r"'layer1\.0\.spatial'.*layer1\.0\.channel"):
        changed(cut, {"layer1.0.spatial": Change()})
