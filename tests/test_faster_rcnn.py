"""Faster R-CNN on our ResNets: the parameters of torchvision's, and a step of training."""

import pytest
import torch
from torch import nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from cbam.attention import ATTENTION
from cbam.backbones import build
from cbam.detectors import DETECTORS, EXPLAINED


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def with_resnet(name: str, attention: str) -> int:
    """Parameters on a ResNet, without memory for them."""
    with torch.device("meta"):
        body = build(name, attention=attention)
        return parameters(DETECTORS["faster_rcnn"].make(body, 91))


def test_it_has_as_many_parameters_as_torchvisions():
    with torch.device("meta"):
        theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    assert with_resnet("resnet50", "none") == parameters(theirs)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet101"])
@pytest.mark.parametrize("attention", ["se", "cbam"])
def test_attention_adds_what_it_adds_to_the_classifier(name: str, attention: str):
    with torch.device("meta"):
        more = parameters(build(name, attention=attention)) - parameters(build(name))
    assert more > 0
    assert with_resnet(name, attention) - with_resnet(name, "none") == more


@pytest.mark.parametrize("attention", ATTENTION)
def test_a_step_of_training_reaches_every_part(attention: str):
    torch.manual_seed(0)
    body = build("resnet18", attention=attention, num_classes=3, width=8)
    make = DETECTORS["faster_rcnn"].make
    network = make(body, 3, channels=16, min_size=64, max_size=64, box_detections_per_img=5)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    target = {"boxes": torch.tensor([[5.0, 5, 40, 45]]), "labels": torch.tensor([2])}
    losses = network([torch.rand(3, 64, 64), torch.rand(3, 64, 64)], [target, target])
    assert len(losses) == 4
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    optimizer.step()
    first = body.conv1.weight.grad
    assert first is not None
    assert first.abs().max() > 0
    network.eval()
    (found,) = network([torch.rand(3, 64, 48)])
    assert found.keys() == {"boxes", "labels", "scores"}


def test_it_is_not_offered_where_boxes_are_explained():
    assert EXPLAINED == ("fcos",)
