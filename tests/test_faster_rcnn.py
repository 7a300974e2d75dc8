"""Faster R-CNN on our ResNets: torchvision's parameters, losses and boxes, and where they look."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from cbam.attention import ATTENTION
from cbam.backbones import build
from cbam.detectors import DETECTORS, OF, FasterRCNN
from cbam.explain.detection import box_maps, hirescam
from cbam.trace.cut import cut_at

SIDE = 96


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def with_resnet(name: str, attention: str) -> int:
    """Parameters on a ResNet, without memory for them."""
    with torch.device("meta"):
        body = build(name, attention=attention)
        return parameters(DETECTORS["faster_rcnn"].make(body, 90))


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


def tiny(attention: str = "cbam") -> FasterRCNN:
    torch.manual_seed(0)
    body = build("resnet18", attention=attention, num_classes=3, width=8)
    network = FasterRCNN(body, 2, channels=16, rpn_post_nms_top_n_test=30)
    for layer in (
        network.roi_heads.box_predictor.cls_score,
        network.roi_heads.box_predictor.bbox_pred,
    ):
        nn.init.normal_(layer.weight, std=0.5)
    # Its own transform: images come normalised and in the right size.
    network.transform = GeneralizedRCNNTransform(SIDE, SIDE, [0.0] * 3, [1.0] * 3)
    return network


def images(count: int) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def targets() -> list[dict[str, Tensor]]:
    first = {"boxes": torch.tensor([[5.0, 5, 40, 45]]), "labels": torch.tensor([1])}
    return [first, {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}]


@pytest.mark.parametrize("attention", ATTENTION)
def test_a_step_of_training_reaches_every_part(attention: str):
    network = tiny(attention)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    losses = network.learn([*images(2)], targets())
    assert len(losses) == 4
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    optimizer.step()
    first = network.backbone.body.conv1.weight.grad
    assert first is not None
    assert first.abs().max() > 0


def test_its_losses_are_torchvisions():
    network = tiny().train()
    network.transform._skip_resize = True  # it would draw a size
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    shifted = [{**each, "labels": each["labels"] + 1} for each in targets()]
    torch.manual_seed(3)  # some regions are drawn
    theirs = TorchvisionFasterRCNN.forward(network, [*images(2)], shifted)
    torch.manual_seed(3)
    mine = network.learn([*images(2)], targets())
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name])


def test_photos_with_unmarked_classes_teach_nothing():
    network = tiny()
    marked = torch.tensor([[True, True], [False, True]])
    torch.manual_seed(3)
    alone = network.learn([images(2)[0]], targets()[:1])
    torch.manual_seed(3)
    both = network.learn([*images(2)], targets(), marked)
    assert {name: each.item() for name, each in alone.items()} == pytest.approx(
        {name: each.item() for name, each in both.items()}
    )
    assert network.learn([*images(2)], targets(), marked & False) == {}


def test_it_finds_what_torchvisions_own_forward_finds():
    network = tiny().eval().requires_grad_(False)
    network.roi_heads.score_thresh = 0.1
    network.roi_heads.detections_per_img = 20
    image = images(1)
    (theirs,) = TorchvisionFasterRCNN.forward(network, [*image])
    found = network.found(network(image)[0], SIDE, SIDE, score=0.1, iou=0.5, limit=20)
    assert len(theirs["boxes"]) > 5
    torch.testing.assert_close(found.boxes, theirs["boxes"])
    torch.testing.assert_close(found.scores, theirs["scores"])
    assert (found.labels + 1).tolist() == theirs["labels"].tolist()


@pytest.mark.parametrize("of", OF)
def test_the_maps_of_its_boxes_equal_a_hook_for_each(of: str):
    """The proposals are detached in torchvision, too: the second stage alone is explained."""
    network = tiny().eval().requires_grad_(False).double()
    image = images(1).double()
    layer = "backbone.body.layer1.1"
    assert layer in network.cuttable
    cut = cut_at(network, layer)
    activation, _ = cut.run_trunk(image)
    output, _ = cut.run_head(activation)
    found = network.found(output[0], SIDE, SIDE, 0.1, 0.5, 10)
    mine = box_maps(cut, activation, network, found, of, hirescam)
    assert (mine.flatten(1).amax(dim=1) > 0).all()
    for row, map_ in enumerate(mine):
        kept: list[Tensor] = []

        def keep(_: object, __: object, output: Tensor, kept: list[Tensor] = kept) -> None:
            kept.append(output.requires_grad_())
            output.retain_grad()

        handle = network.get_submodule(layer).register_forward_hook(keep)
        maps = network.backbone(image)
        handle.remove()
        pooled = network.roi_heads.box_roi_pool(
            maps, [found.anchors[row : row + 1]], [(SIDE, SIDE)]
        )
        logits, codes = network.roi_heads.box_predictor(network.roi_heads.box_head(pooled))
        label = int(found.labels[row]) + 1
        if of == "score":
            number = logits[0, label]
        else:
            region = found.anchors[row : row + 1]
            box = network.roi_heads.box_coder.decode_single(
                codes[:, 4 * label : 4 * label + 4], region
            )
            x0, y0, x1, y1 = box[0]
            x, y = (region[0, :2] + region[0, 2:]) / 2
            number = {"left": x - x0, "top": y - y0, "right": x1 - x, "bottom": y1 - y}[of]
        number.backward()
        assert kept[0].grad is not None
        expected = (kept[0] * kept[0].grad).sum(dim=1).relu()[0].detach()
        torch.testing.assert_close(map_, expected, rtol=1e-4, atol=1e-9)
