"""The cut into trunk and head: same answers, all gate maps, nothing left behind, thread-safe."""

import dataclasses
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torch.testing import assert_close

from cbam.attention import ATTENTION, Gate
from cbam.backbones import blocks
from cbam.errors import CannotCut, UnknownName
from cbam.explain.methods import METHODS, heat_maps
from cbam.explain.question import chosen_layers
from cbam.explain.targets import ClassLogit
from cbam.model import CUTS_KEPT, Model
from cbam.trace.cut import Cut, cut_at

MakeNetwork = Callable[..., nn.Module]
MakeModel = Callable[..., Model]
MakePhoto = Callable[..., Image.Image]

LAYERS = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]  # ResNet-18


def images(seed: int = 0, count: int = 2, size: int = 48) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def maps_by_hooks(network: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    """What each gate puts out in a plain forward pass."""
    found: dict[str, Tensor] = {}
    handles = []
    for path, module in network.named_modules():
        if isinstance(module, Gate):
            name = f"{path.split('.attention')[0]}.{module.kind.name}"
            handles.append(
                module.register_forward_hook(
                    lambda module, args, output, name=name: found.update({name: output.clone()})
                )
            )
    with torch.no_grad():
        network(batch)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("layer", LAYERS)
def test_head_after_trunk_is_the_network(make_network: MakeNetwork, attention: str, layer: str):
    network = make_network(attention)
    cut = cut_at(network, layer)
    with torch.inference_mode():
        activation, _ = cut.run_trunk(images())
        logits, _ = cut.run_head(activation)
        assert_close(logits, network(images()), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("backbone", ["resnet34", "resnet50"])
def test_head_after_trunk_is_the_network_for_the_larger_ones(
    make_network: MakeNetwork, backbone: str
):
    network = make_network("cbam", backbone)
    with torch.inference_mode():
        for layer in (blocks(network)[0], blocks(network)[-1]):
            cut = cut_at(network, layer)
            logits, _ = cut.run_head(cut.run_trunk(images())[0])
            assert_close(logits, network(images()), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("attention", "options"),
    [
        ("none", {}),
        ("se", {}),
        ("cbam", {}),
        ("cbam", {"order": "spatial-first"}),
        ("cbam", {"order": "parallel", "squeeze": "conv"}),
        ("cbam", {"gates": "spatial"}),
    ],
)
@pytest.mark.parametrize("layer", LAYERS)
def test_all_gate_maps_come_out_of_trunk_or_head_wherever_the_cut_is(
    make_network: MakeNetwork, attention: str, options: dict[str, str], layer: str
):
    network = make_network(attention, attention_options=options)
    cut = cut_at(network, layer)
    activation, trunk_maps = cut.run_trunk(images())
    with torch.inference_mode():
        _, head_maps = cut.run_head(activation)
    expected = maps_by_hooks(network, images())
    assert not trunk_maps.keys() & head_maps.keys()
    maps = {**trunk_maps, **head_maps}
    assert maps.keys() == expected.keys()
    assert len(maps) == 8 * {"none": 0, "se": 1, "cbam": 1 if "gates" in options else 2}[attention]
    for name, values in expected.items():
        assert_close(maps[name], values, atol=1e-6, rtol=1e-6)


def test_the_trunk_holds_the_gates_up_to_the_cut_and_the_head_those_behind(
    make_network: MakeNetwork,
):
    cut = cut_at(make_network("cbam"), "layer2.0")
    assert {name.rsplit(".", 1)[0] for name in cut.trunk_gates} == set(LAYERS[:3])
    assert {name.rsplit(".", 1)[0] for name in cut.head_gates} == set(LAYERS[3:])


@pytest.mark.parametrize("layer", LAYERS)
def test_the_trunks_activation_is_the_layers_output_and_stays_it(
    make_network: MakeNetwork, layer: str
):
    network = make_network("cbam")
    seen: list[Tensor] = []
    handle = network.get_submodule(layer).register_forward_hook(
        lambda module, args, output: seen.append(output.clone())
    )
    with torch.no_grad():
        network(images())
    handle.remove()
    cut = cut_at(network, layer)
    with torch.no_grad():  # not inference mode: there, tensors have no version
        activation, *maps = cut.trunk(images())
        before = [value.clone() for value in (activation, *maps)]
        cut.run_head(activation)
    assert_close(activation, seen[0], atol=1e-6, rtol=1e-6)
    for value, then in zip((activation, *maps), before, strict=True):
        assert torch.equal(value, then)
        assert value._version == 0


def test_only_a_head_of_pooling_and_a_linear_layer_is_taken_for_one(make_network: MakeNetwork):
    network = make_network("cbam")
    assert cut_at(network, "layer4.1").pooled_linear is network.fc
    assert cut_at(network, "layer4.0").pooled_linear is None

    class Squared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.pool = nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)
            self.fc = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.flatten(self.pool(self.body(x) ** 2), 1))

    assert cut_at(Squared().eval(), "body").pooled_linear is None


@pytest.mark.parametrize(
    "pool", [nn.AdaptiveMaxPool2d(1), nn.AdaptiveAvgPool2d((1, 2)), nn.AvgPool2d(2)]
)
def test_another_pooling_is_not_taken_for_average_pooling(
    make_network: MakeNetwork, pool: nn.Module
):
    network = make_network("cbam")
    network.avgpool = pool
    assert cut_at(network, "layer4.1").pooled_linear is None


def test_an_unknown_layer_is_refused_with_those_that_there_are(make_network: MakeNetwork):
    with pytest.raises(UnknownName, match=r"'layer9\.0'.*layer4\.1"):
        cut_at(make_network("cbam"), "layer9.0")


@pytest.mark.parametrize(
    "layer", ["layer1.0.conv1", "layer2.0.bn2", "layer4.1.attention", "layer3.0.attention.spatial"]
)
def test_a_layer_with_a_path_around_it_is_refused(make_network: MakeNetwork, layer: str):
    with pytest.raises(CannotCut, match="whole block"):
        cut_at(make_network("cbam"), layer)


def test_a_model_takes_its_blocks_only_and_keeps_a_cut(make_model: MakeModel):
    model = make_model("cbam")
    with pytest.raises(UnknownName, match=r"layer1\.0, .*layer4\.1\.$"):
        chosen_layers(model, "layer1.0.conv1")
    assert model.cut(("layer2.1",)) is model.cut(("layer2.1",))


@pytest.mark.parametrize("attention", ATTENTION)
def test_of_several_layers_the_trunk_puts_out_every_activation_in_one_pass(
    make_network: MakeNetwork, attention: str
):
    network = make_network(attention)
    cut = cut_at(network, ["layer4.0", "layer2.1", "layer3.0", "layer2.1"])  # any order, twice
    assert [each.layer for each in cut.cuts] == ["layer2.1", "layer3.0", "layer4.0"]
    activation, maps = cut.run_trunk(images())
    outputs = {**maps, cut.layer: activation}
    with torch.inference_mode():
        expected = network(images())
        for each in cut.cuts:
            alone = cut_at(network, each.layer)
            assert_close(outputs[each.layer], alone.run_trunk(images())[0], atol=1e-6, rtol=1e-6)
            logits, head_maps = each.run_head(outputs[each.layer])
            assert_close(logits, expected, atol=1e-6, rtol=1e-6)
            assert head_maps.keys() == set(alone.head_gates)
    gates = maps.keys() - {"layer2.1", "layer3.0"}
    assert gates == set(cut_at(network, "layer4.0").trunk_gates)


def test_one_unknown_layer_of_several_is_refused(make_network: MakeNetwork):
    with pytest.raises(UnknownName, match=r"'layer9\.0'"):
        cut_at(make_network("cbam"), ["layer4.1", "layer9.0"])
    with pytest.raises(CannotCut, match="whole block"):
        cut_at(make_network("cbam"), ["layer4.1", "layer4.0.conv1"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ("layer4.1",)),
        ("", ("layer4.1",)),
        ([], ("layer4.1",)),
        ("layer1.0", ("layer1.0",)),
        ("layer4.1,layer3.1", ("layer3.1", "layer4.1")),
        (" layer3.1 ,, layer4.1,layer3.1", ("layer3.1", "layer4.1")),
        (["layer4.1", "layer1.0,layer2.0"], ("layer1.0", "layer2.0", "layer4.1")),
    ],
)
def test_layers_are_named_one_by_one_or_with_commas(
    make_model: MakeModel, given: str | list[str] | None, expected: tuple[str, ...]
):
    model = make_model("cbam")
    assert chosen_layers(model, given) == expected


def test_a_model_forgets_the_cuts_that_were_not_used_for_longest(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
):
    made: list[tuple[str, ...]] = []

    def counting(network: nn.Module, layers: tuple[str, ...]) -> Cut:
        made.append(layers)
        return cut_at(network, layers)

    model = make_model("cbam")
    monkeypatch.setattr("cbam.model.cut_at", counting)
    monkeypatch.setattr("cbam.model.CUTS_KEPT", 2)
    first = model.cut(("layer1.0",))
    for layer in ("layer2.0", "layer1.0", "layer3.0", "layer1.0"):
        model.cut((layer,))
    assert model.cut(("layer1.0",)) is first
    assert made == [("layer1.0",), ("layer2.0",), ("layer3.0",)]
    model.cut(("layer2.0",))  # had to go for layer3.0
    assert made[3:] == [("layer2.0",)]
    assert CUTS_KEPT > 33  # every block of a ResNet-101


def test_threads_that_ask_for_the_same_cut_get_one(make_model: MakeModel):
    model = make_model("cbam")
    cuts = together([lambda: model.cut(("layer2.0", "layer3.0"))] * 8)
    assert all(cut is cuts[0] for cut in cuts)


@pytest.mark.parametrize("training", [True, False])
def test_cutting_leaves_the_network_as_it_was(make_network: MakeNetwork, training: bool):
    network = make_network("cbam").train(training)
    names = [name for name, _ in network.named_modules()]
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    cut_at(network, "layer3.0")
    assert [name for name, _ in network.named_modules()] == names
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    wrong = [name for name, module in network.named_modules() if module.training is not training]
    assert wrong == []


@pytest.mark.parametrize("layer", ["layer4.1", "layer2.0"])
@pytest.mark.parametrize("method", ["gradcam", "hirescam", "eigencam"])
def test_explaining_leaves_nothing_behind(
    make_model: MakeModel, make_photo: MakePhoto, layer: str, method: str
):
    model = make_model("cbam")
    weights = {name: value.clone() for name, value in model.network.state_dict().items()}
    model.explain(make_photo(), target=1, method=method, layer=layer)
    cut = model.cut((layer,))
    for root in (model.network, cut.trunk, cut.head):
        for module in root.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
            assert not module._backward_hooks
            assert not module._backward_pre_hooks
    assert not any(module.training for module in model.network.modules())
    for parameter in model.network.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, weights[name])


def together(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """The answers of the calls, started in threads of their own at the same moment."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        start.wait(30)
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return [future.result(60) for future in [threads.submit(run, call) for call in calls]]


def test_eight_threads_on_one_model_answer_as_one_after_the_other(
    make_model: MakeModel, make_photo: MakePhoto
):
    model = make_model("cbam")
    methods = [name for name in METHODS if name != "randomcam"]  # it draws its weights
    layers = ("layer4.1", "layer3.0", "layer2.1,layer4.0")

    def job(number: int) -> Callable[[], Any]:
        return lambda: model.explain(
            make_photo(number),
            target=number % 5,
            method=methods[number % len(methods)],
            layer=layers[number % 3],
        )

    jobs = [job(number) for number in range(32)]
    alone = [call() for call in jobs]
    for start in range(0, 32, 8):
        for found, expected in zip(together(jobs[start : start + 8]), alone[start:], strict=False):
            np.testing.assert_allclose(found.heatmap, expected.heatmap, rtol=1e-3, atol=1e-6)
            assert found.predictions == expected.predictions
            for one, other in zip(found.attention, expected.attention, strict=True):
                np.testing.assert_array_equal(one.channel, other.channel)
                np.testing.assert_array_equal(one.spatial, other.spatial)


class Meeting(nn.Module):
    """Lets two threads enter `inner` only together: each is then in the middle of its request."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.barrier = threading.Barrier(2)

    def forward(self, x: Tensor) -> Any:
        self.barrier.wait(30)
        return self.inner(x)


def test_two_requests_in_the_middle_of_each_other_stay_apart(make_network: MakeNetwork):
    network = make_network("cbam").requires_grad_(False)
    cut = cut_at(network, "layer3.1")
    meeting = dataclasses.replace(cut, trunk=Meeting(cut.trunk))

    def ask(cut: Cut, number: int) -> Tensor:
        activation, _ = cut.run_trunk(images(number, count=1))
        return heat_maps(cut, activation, [ClassLogit(number)])[0]

    alone = [ask(cut, 0), ask(cut, 1)]
    both = together([lambda: ask(meeting, 0), lambda: ask(meeting, 1)])
    for found, expected in zip(both, alone, strict=True):
        assert expected.max() > 0
        assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_with_hooks_on_the_shared_network_the_same_two_requests_get_mixed_up(
    make_network: MakeNetwork,
):
    """The usual way, so that the test above is known to be able to fail.

    Both requests' hooks sit on one module when both forward passes run: each collects two
    activations and takes the first for its own, which is wrong for one of them at least.
    """
    network = make_network("cbam").requires_grad_(False)

    def ask(model: nn.Module, number: int, hooked: threading.Barrier) -> np.ndarray:
        with GradCAM(model, [network.layer3[1]]) as cam:
            hooked.wait(30)
            batch = images(number, count=1).requires_grad_()
            return cam(batch, [ClassifierOutputTarget(number)])[0]

    alone = [ask(network, number, threading.Barrier(1)) for number in (0, 1)]
    meeting, hooked = Meeting(network).eval(), threading.Barrier(2)
    try:
        both = together([lambda: ask(meeting, 0, hooked), lambda: ask(meeting, 1, hooked)])
    except Exception:  # mixed up so badly that the package noticed
        return
    assert any(np.abs(a - b).max() > 0.05 for a, b in zip(both, alone, strict=True))


class Waiting(nn.Module):
    """A network that waits in the middle of its forward pass, and so in the middle of its trace."""

    def __init__(self, inner: nn.Module, reached: threading.Event, go_on: threading.Event) -> None:
        super().__init__()
        self.inner, self.reached, self.go_on = inner, reached, go_on

    def forward(self, x: Tensor) -> Any:
        self.reached.set()
        assert self.go_on.wait(30)
        return self.inner(x)


def test_a_request_is_answered_while_another_thread_cuts_a_network(
    make_network: MakeNetwork, make_model: MakeModel, make_photo: MakePhoto
):
    model = make_model("cbam")
    expected = model.explain(make_photo(), target=1)
    reached, go_on = threading.Event(), threading.Event()
    waiting = Waiting(make_network("cbam"), reached, go_on).eval()
    with ThreadPoolExecutor(1) as thread:
        cutting = thread.submit(cut_at, waiting, "inner.layer2.0")
        try:
            assert reached.wait(30)
            found = model.explain(make_photo(), target=1)  # the trace is under way
        finally:
            go_on.set()
        assert len(cutting.result(60).trunk_gates) == 6
    np.testing.assert_array_equal(found.heatmap, expected.heatmap)
    assert found.predictions == expected.predictions


def test_a_network_answers_while_another_thread_cuts_it(make_network: MakeNetwork):
    network = make_network("cbam")
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        expected = network(images)
    reached, go_on = threading.Event(), threading.Event()
    waiting = Waiting(network, reached, go_on).eval()
    with ThreadPoolExecutor(1) as thread:
        cutting = thread.submit(cut_at, waiting, "inner.layer2.0")
        try:
            assert reached.wait(30)
            with torch.no_grad():
                torch.testing.assert_close(network(images), expected, rtol=0, atol=0)
        finally:
            go_on.set()
        cut = cutting.result(60)
    with torch.no_grad():
        activation, _ = cut.run_trunk(images)
        torch.testing.assert_close(cut.run_head(activation)[0], expected, rtol=0, atol=0)


def test_threads_may_cut_networks_at_the_same_time(make_network: MakeNetwork):
    networks = [make_network("cbam", seed=seed) for seed in range(4)]
    jobs = [(network, layer) for network in networks for layer in LAYERS[:2]]
    usual = {name: getattr(nn.Module, name) for name in ("__call__", "__getattr__")}
    try:
        cuts = together([lambda job=job: cut_at(*job) for job in jobs])
        assert usual == {name: getattr(nn.Module, name) for name in usual}
    finally:
        for name, method in usual.items():  # tracing replaces them; spare the other tests
            setattr(nn.Module, name, method)
    for number, cut in enumerate(cuts):
        with torch.inference_mode():
            logits, _ = cut.run_head(cut.run_trunk(images())[0])
            assert_close(logits, networks[number // 2](images()), atol=1e-6, rtol=1e-6)
