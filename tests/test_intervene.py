"""Gates as inputs: a network that is told what its gates say."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from cbam.attention import ATTENTION
from cbam.backends.choose import accelerate
from cbam.errors import CBAMLensError, UnknownName
from cbam.trace.cut import Cut, cut_at
from cbam.trace.intervene import Intervened, intervene

MakeNetwork = Callable[..., nn.Module]
WITH_GATES = [name for name, record in ATTENTION.items() if record.gates]


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def run(part: Cut | Intervened, x: Tensor, *gates: dict[str, Tensor]) -> tuple[Tensor, dict]:
    """Logits and all gate maps."""
    activation, maps = part.run_trunk(x, *gates)
    with torch.inference_mode():
        logits, more = part.run_head(activation, *gates)
    return logits, {**maps, **more}


@pytest.mark.parametrize("attention", WITH_GATES)
@pytest.mark.parametrize("layer", ["layer4.1", "layer2.0", ["layer2.0", "layer3.1"]])
def test_fed_its_own_gates_a_network_answers_as_it_is(
    make_network: MakeNetwork, attention: str, layer: str | list[str]
):
    cut = cut_at(make_network(attention), layer)
    logits, maps = run(cut, images())
    own = {name: maps[name] for name in cut.places}
    told, told_maps = run(intervene(cut, list(own)), images(), own)
    assert_close(told, logits)
    assert set(told_maps) == set(maps)
    for name, value in maps.items():
        assert_close(told_maps[name], value)


def test_an_open_gate_lets_everything_through(make_network: MakeNetwork):
    network = make_network("cbam")
    open_gates = intervene(cut_at(network, "layer4.1"), ["layer3.0.channel", "layer3.0.spatial"])
    one = torch.tensor(1.0)
    given = {"layer3.0.channel": one, "layer3.0.spatial": one}
    found, _ = run(open_gates, images(), given)
    network.layer3[0].attention = nn.Identity()
    with torch.inference_mode():
        assert_close(found, network(images()))


def test_gates_behind_a_changed_one_see_the_change(make_network: MakeNetwork):
    cut = cut_at(make_network("cbam"), "layer2.1")
    logits, maps = run(cut, images())
    shut = {"layer1.0.channel": torch.zeros(1)}
    told, told_maps = run(intervene(cut, list(shut)), images(), shut)
    assert not torch.allclose(told, logits)
    assert_close(told_maps["layer1.0.channel"], torch.zeros(1))
    # Before it nothing changes, after it everything does, behind the cut, too.
    assert_close(cut.run_trunk(images())[1]["layer1.0.channel"], maps["layer1.0.channel"])
    for name in ("layer1.1.channel", "layer2.0.spatial", "layer4.1.spatial"):
        assert not torch.allclose(told_maps[name], maps[name])


def test_the_head_can_still_be_differentiated(make_network: MakeNetwork):
    cut = cut_at(make_network("cbam").requires_grad_(False), "layer3.1")
    told = intervene(cut, ["layer4.0.spatial"])
    gates = {"layer4.0.spatial": torch.tensor(1.0)}
    leaf = told.run_trunk(images(1), gates)[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(told.run_head(leaf, gates)[0][0, 1], leaf)
    assert gradient.abs().max() > 0


def test_the_cut_stays_as_it_is(make_network: MakeNetwork):
    cut = cut_at(make_network("cbam"), "layer4.1")
    before = cut.trunk.code, run(cut, images())[0]
    intervene(cut, list(cut.places))
    assert cut.trunk.code == before[0]
    assert_close(run(cut, images())[0], before[1])


def test_a_gate_that_there_is_not_is_refused(make_network: MakeNetwork):
    cut = cut_at(make_network("se"), "layer4.1")
    with pytest.raises(UnknownName, match=r"'layer1\.0\.spatial'.*layer1\.0\.channel"):
        intervene(cut, ["layer1.0.spatial"])


def test_a_trunk_in_a_back_end_is_refused(make_network: MakeNetwork):
    cut, _ = accelerate(cut_at(make_network("se"), "layer4.1"), "eager", 48)
    with pytest.raises(CBAMLensError, match="runs in a back end"):
        intervene(cut, ["layer1.0.channel"])
