"""CAM methods: by hand, by autograd, and the grad-cam package on whole networks as oracle."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from cbam.attention import ATTENTION
from cbam.errors import UnknownName
from cbam.explain.methods import METHODS, gradcam, heat_maps, pooled_gradcam
from cbam.explain.split import split

MakeNetwork = Callable[..., nn.Module]


def images(seed: int = 0, size: int = 64) -> Tensor:
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


def raw_maps(network: nn.Module, batch: Tensor, layer: str, classes: list[int], method: str):
    cut = split(network, layer)
    activation, _ = cut.run_trunk(batch)
    return heat_maps(cut, activation, classes, method)


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


def theirs(network: nn.Module, batch: Tensor, layer: str, index: int, method: str) -> np.ndarray:
    """The grad-cam package the usual way: hooks on a block of the whole network."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    package_class = getattr(pytorch_grad_cam, METHODS[method].package_class or "GradCAM")
    with package_class(network, [network.get_submodule(layer)]) as cam:
        return cam(batch, [ClassifierOutputTarget(index)])[0]


def scaled_like_theirs(raw: Tensor, size: int) -> np.ndarray:
    """The package's own two steps: each layer's map to [0, 1] and enlarged, then their mean."""
    from pytorch_grad_cam.utils.image import scale_cam_image

    return scale_cam_image(scale_cam_image(raw.numpy(), (size, size)))[0]


@pytest.mark.parametrize("method", [name for name in METHODS if name != "randomcam"])
@pytest.mark.parametrize("layer", ["layer4.1", "layer3.1", "layer2.0"])
def test_every_method_equals_the_packages_on_the_whole_network(
    make_network: MakeNetwork, method: str, layer: str
):
    pytest.importorskip("pytorch_grad_cam")
    painted = 0
    for seed, attention in enumerate(ATTENTION):
        network = make_network(attention, seed=seed)
        for index in (0, 2, 4):
            batch = images(10 * seed + index, size=96)
            raw = raw_maps(network, batch, layer, [index], method)
            expected = theirs(network, batch, layer, index, method)
            np.testing.assert_allclose(scaled_like_theirs(raw, 96), expected, atol=1e-4)
            painted += bool(expected.max() > 0.9)
    assert painted >= 5  # of nine: not a comparison of zeros


def test_grad_cam_equals_the_packages_for_a_bottleneck_network(make_network: MakeNetwork):
    pytest.importorskip("pytorch_grad_cam")
    network = make_network("cbam", "resnet50")
    for layer in ("layer4.2", "layer3.5"):
        raw = raw_maps(network, images(size=96), layer, [1], "gradcam")
        expected = theirs(network, images(size=96), layer, 1, "gradcam")
        np.testing.assert_allclose(scaled_like_theirs(raw, 96), expected, atol=1e-4)


def test_random_cam_is_the_packages_with_its_random_weights(make_network: MakeNetwork):
    pytest.importorskip("pytorch_grad_cam")
    network = make_network("cbam")
    np.random.seed(3)  # the package draws from the global generator
    raw = raw_maps(network, images(), "layer4.1", [1], "randomcam")
    np.random.seed(3)
    expected = theirs(network, images(), "layer4.1", 1, "randomcam")
    np.testing.assert_allclose(scaled_like_theirs(raw, 64), expected, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_parameters_collect_no_gradients(make_network: MakeNetwork, method: str):
    network = make_network("cbam")  # not frozen: they could
    raw_maps(network, images(), "layer3.0", [1], method)
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


def test_an_unknown_method_is_refused_with_those_that_there_are(make_network: MakeNetwork):
    with pytest.raises(UnknownName) as caught:
        raw_maps(make_network("cbam"), images(), "layer4.1", [0], "gradcan")
    assert "'gradcan'" in str(caught.value)
    assert all(name in str(caught.value) for name in METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_what_it_means_what_it_costs_and_where_it_is_from(name: str):
    method = METHODS[name]
    assert method.title
    assert method.cost
    assert method.note.endswith(".")
    assert method.paper.startswith("https://")


def test_maps_do_not_depend_on_the_memory_format(make_network: MakeNetwork):
    network = make_network("cbam")
    channels_last = images().to(memory_format=torch.channels_last)
    for method in ("gradcam", "hirescam"):
        one = raw_maps(network, images(), "layer3.0", [1], method)
        other = raw_maps(network, channels_last, "layer3.0", [1], method)
        assert_close(one, other, atol=1e-5, rtol=1e-4)
