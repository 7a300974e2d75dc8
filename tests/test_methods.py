"""CAM methods: by hand, by autograd, and the grad-cam package on whole networks as oracle."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam
import torch
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputReST, ClassifierOutputTarget
from torch import Tensor, nn
from torch.testing import assert_close

from cbam.attention import ATTENTION
from cbam.explain.formulas import FUSIONS, Case, ablationcam, fused
from cbam.explain.methods import METHODS, gradcam, heat_maps, pooled_gradcam
from cbam.explain.targets import ClassLogit, rivals
from cbam.trace.cut import Cut, cut_at

MakeNetwork = Callable[..., nn.Module]


def images(seed: int = 0, size: int = 64) -> Tensor:
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


def raw_maps(
    network: nn.Module, batch: Tensor, layer: str, classes: list[int], method: str, **options: Any
) -> Tensor:
    cut = cut_at(network, layer)
    activation, _ = cut.run_trunk(batch)
    targets = [ClassLogit(index) for index in classes]
    return heat_maps(cut, activation, targets, METHODS[method], image=batch, **options)


def by_autograd(network: nn.Module, batch: Tensor, layer: str, index: int) -> Tensor:
    """Grad-CAM straight from its formula, block after block."""
    x = network.maxpool(torch.relu(network.bn1(network.conv1(batch))))
    kept: Tensor | None = None
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        for number, block in enumerate(network.get_submodule(stage)):
            x = block(x)
            if f"{stage}.{number}" == layer:
                kept = x = x.detach().requires_grad_()
    logits = network.fc(network.avgpool(x).flatten(1))
    (gradient,) = torch.autograd.grad(logits[0, index], kept)
    alpha = gradient[0].mean(dim=(1, 2))
    return torch.relu(torch.einsum("c,chw->hw", alpha, kept[0].detach()))


def test_grad_cam_equals_its_formula_by_hand():
    activation = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])  # two channels of 1 x 2
    gradient = torch.tensor([[[[1.0, 3.0]], [[-2.0, 0.0]]]])  # means 2 and -1
    # 2 * 1 - 3 = -1 -> 0; 2 * 2 - 0 = 4
    assert_close(gradcam(activation, gradient), torch.tensor([[[0.0, 4.0]]]))


def test_the_closed_form_equals_its_formula_by_hand():
    activation = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])
    rows = torch.tensor([[4.0, -2.0], [-1.0, 1.0]])
    # class 0: (4 - 6) / 2 = -1 -> 0, (8 - 0) / 2 = 4; class 1: (-1 + 3) / 2 = 1, -2 / 2 -> 0
    expected = torch.tensor([[[0.0, 4.0]], [[1.0, 0.0]]])
    assert_close(pooled_gradcam(activation, rows), expected)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("layer", ["layer4.1", "layer4.0", "layer3.1", "layer1.0"])
def test_grad_cam_equals_autograds(make_network: MakeNetwork, attention: str, layer: str):
    network = make_network(attention)
    found = raw_maps(network, images(), layer, [0, 1, 2, 3, 4], "gradcam")
    scale = found.max()  # early layers have small gradients
    assert scale > 0
    for index in range(5):
        expected = by_autograd(network, images(), layer, index)
        assert_close(found[index] / scale, expected / scale, atol=2e-6, rtol=0)


def test_values_are_in_logits(make_network: MakeNetwork):
    # With no negative weight nothing is cut off: the map's cells add up to the logit less its bias.
    network = make_network("cbam")
    with torch.no_grad():
        network.fc.weight.abs_()
        network.fc.bias.uniform_(-1, 1)
        logits = network(images())[0]
    maps = raw_maps(network, images(), "layer4.1", [0, 1, 2, 3, 4], "gradcam")
    assert_close(maps.sum(dim=(1, 2)), (logits - network.fc.bias).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "gradcam++", "xgradcam", "layercam"])
def test_a_map_with_only_negative_evidence_is_zero(make_network: MakeNetwork, method: str):
    network = make_network("cbam")
    with torch.no_grad():
        network.fc.weight.copy_(-network.fc.weight.abs())
    found = raw_maps(network, images(), "layer4.1", [2], method)
    assert torch.equal(found, torch.zeros_like(found))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", ["layer4.1", "layer3.0"])
def test_every_method_gives_raw_maps_class_by_class(
    make_network: MakeNetwork, method: str, layer: str
):
    network = make_network("cbam")
    cells = 2 if layer == "layer4.1" else 4
    found = raw_maps(network, images(), layer, [3, 1], method)
    assert found.shape == (2, cells, cells)
    assert found.dtype == torch.float32
    assert found.min() >= 0
    assert found.isfinite().all()
    assert not found.requires_grad


def minus(index: int) -> Callable[[Tensor], Tensor]:
    return lambda logits: -logits[index]


# Our name -> the package's class. For the counterfactual, of another score.
PACKAGE = {name: method.package or "GradCAM" for name, method in METHODS.items()}
COMPARED = [name for name in METHODS if name != "randomcam"]  # compared below, with its seed
CLASSLESS = ("eigencam", "kpcacam", "randomcam")  # these do not ask the network anything


def theirs(
    network: nn.Module,
    batch: Tensor,
    layers: str | Sequence[str],
    index: int,
    method: str,
    unscaled: bool = False,
) -> np.ndarray:
    """The grad-cam package the usual way: hooks on blocks of the whole network.

    `unscaled`: without the scaling that comes last, for one layer only.
    """
    kind = {"counterfactual": minus, "shapleycam": ClassifierOutputReST}
    target = kind.get(method, ClassifierOutputTarget)(index)
    names = [layers] if isinstance(layers, str) else layers
    modules = [network.get_submodule(name) for name in names]
    with getattr(pytorch_grad_cam, PACKAGE[method])(network, modules) as cam:
        if unscaled:
            cam.aggregate_multi_layers = lambda maps: maps[0][:, 0]
        if method == "finercam":
            return cam(batch, target_idx=index)[0]
        return cam(batch, [target])[0]


def scaled_like_theirs(raw: Tensor, size: int) -> np.ndarray:
    """The package's own two steps: each layer's map to [0, 1] and enlarged, then their mean."""
    return scale_cam_image(scale_cam_image(raw.numpy(), (size, size)))[0]


@pytest.mark.parametrize("method", COMPARED)
@pytest.mark.parametrize("layer", ["layer4.1", "layer3.1", "layer2.0"])
def test_every_method_equals_the_packages_on_the_whole_network(
    make_network: MakeNetwork, method: str, layer: str
):
    painted = 0
    for seed, attention in enumerate(("none", "se", "cbam")):
        network, batch, index = make_network(attention, seed=seed), images(seed, size=96), 4 - seed
        raw = raw_maps(network, batch, layer, [index], method)
        expected = theirs(network, batch, layer, index, method)
        np.testing.assert_allclose(scaled_like_theirs(raw, 96), expected, atol=1e-4)
        painted += bool(expected.max() > 0.9)
    assert painted  # not a comparison of zeros


@pytest.mark.parametrize("method", COMPARED)
def test_several_layers_are_averaged_as_the_package_does(make_network: MakeNetwork, method: str):
    layers = ["layer2.1", "layer3.1", "layer4.1"]
    network, batch = make_network("cbam", seed=4), images(4, size=96)
    cut = cut_at(network, layers)
    activation, maps = cut.run_trunk(batch)
    outputs = {**maps, cut.layer: activation}
    painted = 0
    for index in (1, 4):
        raw = [
            heat_maps(each, outputs[each.layer], [ClassLogit(index)], METHODS[method], image=batch)
            for each in cut.cuts
        ]
        mean = fused(raw, (96, 96))
        assert mean.shape == (1, 96, 96)
        assert mean.min() >= 0
        assert mean.max() <= 1
        if method == "shapleycam":  # the package frees its graph after the first of several layers
            each = [theirs(network, batch, layer, index, method, True) for layer in layers]
            expected = scale_cam_image(np.mean(each, axis=0, keepdims=True))[0]
        else:
            expected = theirs(network, batch, layers, index, method)
        np.testing.assert_allclose(scale_cam_image(mean.numpy())[0], expected, atol=1e-4)
        painted += bool(expected.max() > 0.9)
    assert painted


def test_layers_are_scaled_and_enlarged_before_they_are_fused():
    small = torch.tensor([[[2.0, 4.0]]])  # becomes 0, 0, 1, 1 in one row of four, bilinear
    large = torch.tensor([[[0.0, 10.0, 0.0, 5.0]]])
    scaled, as_is = [0.0, 0.25, 0.75, 1.0], [0.0, 1.0, 0.0, 0.5]
    wanted = {
        "mean": [(a + b) / 2 for a, b in zip(scaled, as_is, strict=True)],
        "max": [max(a, b) for a, b in zip(scaled, as_is, strict=True)],
    }
    assert set(wanted) == set(FUSIONS)
    for name, fusion in FUSIONS.items():
        found = fused([small, large], (1, 4), fusion)
        assert found.shape == (1, 1, 4)
        np.testing.assert_allclose(found[0, 0], wanted[name], atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_ignores_the_class_if_its_record_says_so(make_network: MakeNetwork, method: str):
    network, maps = make_network("cbam", seed=4), []
    for index in (1, 2):
        np.random.seed(0)  # Random-CAM draws its weights there
        maps.append(raw_maps(network, images(4, size=96), "layer3.1", [index], method))
    assert torch.equal(*maps) == METHODS[method].ignores_class
    assert any(each.max() > 0 for each in maps)


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].pooled])
def test_a_closed_form_is_what_the_method_gives_without_it(make_network: MakeNetwork, method: str):
    network = make_network("cbam", seed=4)
    cut = cut_at(network, "layer4.1")
    activation, _ = cut.run_trunk(images(4))
    closed = METHODS[method].pooled(activation, network.fc, range(5))
    slow = dataclasses.replace(cut, pooled_linear=None)
    expected = heat_maps(
        slow, activation, [ClassLogit(index) for index in range(5)], METHODS[method]
    )
    assert (expected.amax(dim=(1, 2)) > 0).sum() >= 4
    assert_close(closed.detach(), expected, rtol=1e-4, atol=1e-6)


def test_ablation_cam_equals_its_formula_by_hand():
    # Two channels of 1 x 2 cells, logits = (sum of channel 0, sum of everything).
    class Sums(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (torch.stack([x[:, 0].sum(dim=(1, 2)), x.sum(dim=(1, 2, 3))], dim=1),)

    activation = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])
    cut = Cut("", nn.Identity(), Sums(), (), (), None)
    # Class 0: y = 3; without channel 0 nothing is left, without channel 1 all. Class 1: y = 6.
    assert_close(ablationcam(Case(cut, activation, ClassLogit(0))), torch.tensor([[[1.0, 2.0]]]))
    assert_close(ablationcam(Case(cut, activation, ClassLogit(1))), torch.tensor([[[2.0, 1.0]]]))


def test_counterfactual_and_grad_cam_share_no_cell(make_network: MakeNetwork):
    network = make_network("cbam")
    for layer in ("layer4.1", "layer3.0"):
        speaks_for = raw_maps(network, images(), layer, [0, 1, 2], "gradcam")
        against = raw_maps(network, images(), layer, [0, 1, 2], "counterfactual")
        assert against.max() > 0
        assert torch.equal(speaks_for * against, torch.zeros_like(against))
        values = cut_at(network, layer).run_trunk(images())[0]
        cells = values.shape[2] * values.shape[3]
        assert ((speaks_for + against) > 0).sum() > 2 * cells  # of three maps' cells


def test_finer_cam_explains_the_difference_to_the_class_it_is_given(make_network: MakeNetwork):
    # With one rival its weight cancels: W[1] - W[3] takes the place of W[1].
    network, batch = make_network("cbam", seed=2), images(2)
    activation, _ = cut_at(network, "layer4.1").run_trunk(batch)
    rows = (network.fc.weight[1:2] - network.fc.weight[3:4]).detach()
    found = raw_maps(network, batch, "layer4.1", [1], "finercam", versus=[3])
    assert found.max() > 0
    assert_close(found, pooled_gradcam(activation, rows), rtol=1e-4, atol=1e-6)
    other = raw_maps(network, batch, "layer4.1", [1], "finercam", versus=[0])
    assert not torch.allclose(found, other)


def test_rivals_are_the_classes_with_the_nearest_logits():
    logits = torch.tensor([5.0, 1.0, 4.0, 4.5, -9.0])
    assert rivals(logits, 0) == (3, 2, 1)
    assert rivals(logits, 2) == (3, 0, 1)
    assert rivals(logits, 4, count=1) == (1,)
    assert rivals(logits[:2], 1) == (0,)
    assert rivals(torch.tensor([2.0, 2.0]), 1) == (0,)


def test_finer_cam_of_a_single_class_is_grad_cam(make_network: MakeNetwork):
    network = make_network("cbam", num_classes=1)
    found = raw_maps(network, images(), "layer3.0", [0], "finercam")
    assert_close(found, raw_maps(network, images(), "layer3.0", [0], "gradcam"))


def test_score_cam_without_the_image_says_that_it_needs_it(make_network: MakeNetwork):
    cut = cut_at(make_network("cbam"), "layer3.0")
    with pytest.raises(ValueError, match="masks the image"):
        heat_maps(cut, cut.run_trunk(images())[0], [ClassLogit(0)], METHODS["scorecam"])


def bias_shares(network: nn.Module, batch: Tensor, index: int) -> tuple[Tensor, Tensor]:
    """A logit, and what Full-Grad adds up to it: input times gradient, biases times theirs."""
    outputs: list[tuple[nn.BatchNorm2d, Tensor]] = []
    handles = [
        module.register_forward_hook(lambda module, args, output: outputs.append((module, output)))
        for module in network.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    batch = batch.clone().requires_grad_()
    logit = network(batch)[0, index]
    for handle in handles:
        handle.remove()
    slope, *slopes = torch.autograd.grad(logit, [batch, *(output for _, output in outputs)])
    total = (batch * slope).sum() + network.fc.bias[index]
    for (norm, _), slope in zip(outputs, slopes, strict=True):
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        total = total + ((norm.bias - norm.running_mean * scale)[:, None, None] * slope).sum()
    return logit.detach(), total.detach()


def test_full_grad_adds_up_for_a_plain_network_only_so_it_is_not_offered(
    make_network: MakeNetwork,
):
    """Full-Grad (https://arxiv.org/abs/1905.00780) shares a logit out among input and biases.

    A sigmoid has a bias of its own at every point, which neither the method nor the package counts,
    so the parts of a network with gates would not add up, and maps of a family would not be
    comparable. It also looks through the whole network whatever the layer, so no head would do.
    """
    logit, total = bias_shares(make_network("none"), images(), 1)
    assert_close(total, logit, rtol=1e-3, atol=1e-3)
    for attention in ("se", "cbam"):
        logit, total = bias_shares(make_network(attention), images(), 1)
        assert (total - logit).abs() > 0.05 * logit.abs()
    assert "fullgrad" not in METHODS


def test_grad_cam_equals_the_packages_for_a_bottleneck_network(make_network: MakeNetwork):
    network = make_network("cbam", "resnet50")
    for layer in ("layer4.2", "layer3.5"):
        raw = raw_maps(network, images(size=96), layer, [1], "gradcam")
        expected = theirs(network, images(size=96), layer, 1, "gradcam")
        assert expected.max() > 0.9  # not a comparison of zeros
        np.testing.assert_allclose(scaled_like_theirs(raw, 96), expected, atol=1e-4)


def test_random_cam_is_the_packages_with_its_random_weights(make_network: MakeNetwork):
    network = make_network("cbam")
    np.random.seed(3)  # the package draws from the global generator
    raw = raw_maps(network, images(), "layer4.1", [1], "randomcam")
    np.random.seed(3)
    expected = theirs(network, images(), "layer4.1", 1, "randomcam")
    assert expected.max() > 0.9  # not a comparison of zeros
    np.testing.assert_allclose(scaled_like_theirs(raw, 64), expected, atol=1e-4)


def state(*roots: nn.Module) -> dict[str, Any]:
    """All that a method could leave behind on shared modules."""
    found: dict[str, Any] = {}
    for number, root in enumerate(roots):
        for path, module in root.named_modules():
            found[f"{number} {path}"] = (
                module.training,
                list(module._modules),
                len(module._forward_hooks) + len(module._forward_pre_hooks),
                len(module._backward_hooks) + len(module._backward_pre_hooks),
                sorted(vars(module)),
            )
        for path, value in root.named_parameters():
            found[f"{number} {path} weight"] = (value.grad, value.requires_grad, value._version)
        for path, value in root.named_buffers():
            found[f"{number} {path} buffer"] = value._version
    return found


@pytest.mark.parametrize("method", METHODS)
def test_a_method_leaves_nothing_behind(make_network: MakeNetwork, method: str):
    network = make_network("cbam")  # its parameters are not frozen: they could collect gradients
    cut = cut_at(network, "layer3.0")
    activation, _ = cut.run_trunk(images())
    cut.head.fc.train()  # a mode is the owner's, not the method's
    before = state(network, cut.trunk, cut.head)
    heat_maps(cut, activation, [ClassLogit(1), ClassLogit(2)], METHODS[method], image=images())
    assert state(network, cut.trunk, cut.head) == before


@pytest.mark.parametrize("method", [name for name in METHODS if name not in CLASSLESS])
def test_a_method_that_fails_leaves_nothing_behind(make_network: MakeNetwork, method: str):
    network = make_network("cbam")
    cut = cut_at(network, "layer3.0")
    activation, _ = cut.run_trunk(images())
    before = state(network, cut.trunk, cut.head)
    with pytest.raises(IndexError):
        heat_maps(cut, activation, [ClassLogit(99)], METHODS[method], image=images())
    assert state(network, cut.trunk, cut.head) == before


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_what_it_means_what_it_costs_and_where_it_is_from(name: str):
    method = METHODS[name]
    assert method.title
    assert method.cost
    assert method.note.endswith(".")
    assert method.paper.startswith("https://")
    assert method.cost_class in ("low", "medium", "high")


def test_maps_do_not_depend_on_the_memory_format(make_network: MakeNetwork):
    network = make_network("cbam")
    channels_last = images().to(memory_format=torch.channels_last)
    for method in ("gradcam", "hirescam"):
        one = raw_maps(network, images(), "layer3.0", [1], method)
        other = raw_maps(network, channels_last, "layer3.0", [1], method)
        assert_close(one, other, atol=1e-5, rtol=1e-4)
