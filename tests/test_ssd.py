"""SSD and StairNet: torchvision's boxes and losses, the paper's parameters, maps equal to hooks."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.ssd import SSD as TorchvisionSSD
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from cbam.attention import ATTENTION
from cbam.backbones import build
from cbam.detectors import DETECTORS, OF, SSD
from cbam.detectors.maps import maps_of
from cbam.errors import BadOption, OptionClash, UnknownName
from cbam.explain.detection import box_maps
from cbam.trace.cut import cut_at

SIDE = 96
# Three maps of a narrow network, of 6 x 6 cells and less on a photo of 96 pixels.
SMALL = {"extras": ((8, 16),), "boxes": (6, 6, 4), "scales": (0.2, 0.4, 0.6, 0.9)}


def body(name: str = "resnet18", attention: str = "none") -> nn.Module:
    torch.manual_seed(0)
    return build(name, attention=attention, num_classes=3, width=8)


def tiny(kind: str = "ssd", name: str = "resnet18", attention: str = "none") -> SSD:
    """Untrained, with predictors that say something."""
    in_head = DETECTORS[kind].in_head
    options = {"attention": attention, "stairs": 16} if in_head else {}
    made = DETECTORS[kind].make(body(name, "none" if in_head else attention), 2, **SMALL, **options)
    assert isinstance(made, SSD)
    for part in (made.head.classification_head, made.head.regression_head):
        for conv in part.module_list:
            nn.init.normal_(conv.weight, std=0.1)
    for module in made.modules():  # statistics of what it will see
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        made.train()(images(2))
    # Its own transform: images come normalised and in the right size.
    made.transform = GeneralizedRCNNTransform(SIDE, SIDE, [0.0] * 3, [1.0] * 3, 1, (SIDE, SIDE))
    return made


def images(count: int) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def targets() -> list[dict[str, Tensor]]:
    return [
        {"boxes": torch.tensor([[10.0, 12, 60, 70]]), "labels": torch.tensor([1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]


def test_ssd300_on_vgg16_is_torchvisions_to_the_last_weight():
    """Its state dict loads strictly, and both put out the same."""
    with torch.device("meta"):  # drawing fresh weights twice takes longer than all else
        theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=3).eval()
        ours = SSD(build("vgg16"), 2, boxes=(4, 6, 6, 6, 4, 4)).eval()
    draw = torch.Generator().manual_seed(0)
    weights = {
        name: torch.empty(value.shape).normal_(0, 0.03, generator=draw)
        for name, value in theirs.state_dict().items()
    }
    for network in (theirs, ours):
        network.load_state_dict(weights, assign=True)
    image = torch.randn(1, 3, 300, 300, generator=draw)
    with torch.inference_mode():
        maps = list(theirs.backbone(image).values())
        expected = theirs.head(maps)
        found = ours(image)
    torch.testing.assert_close(found[..., :3], expected["cls_logits"])
    torch.testing.assert_close(found[..., 3:], expected["bbox_regression"])
    assert ours.anchors(300, 300).shape == (8732, 4)  # SSD300's famous number
    assert [each.shape[2] for each in maps] == ours.backbone.sides(300)


@pytest.mark.parametrize(
    ("make", "sides"),
    [
        (lambda: maps_of(body("mobilenet_x1.0")), (300, 224, 97)),
        (lambda: maps_of(body()), (300, 97)),
        (lambda: maps_of(body(), last=4), (300, 97)),
        (lambda: maps_of(body("wide_resnet18_x1.5")), (96,)),
    ],
)
def test_maps_have_the_channels_and_sides_that_they_say(
    make: Callable[[], nn.Module], sides: tuple[int, ...]
):
    maps = make().eval()
    for side in sides:
        with torch.inference_mode():
            found = list(maps(torch.zeros(1, 3, side, side + 8)).values())
        assert [each.shape[1] for each in found] == maps.out_channels
        assert [each.shape[2] for each in found] == maps.sides(side)
        assert [each.shape[3] for each in found] == maps.sides(side + 8)


def test_it_finds_what_torchvisions_own_forward_finds():
    ours = tiny().eval().requires_grad_(False)
    ours.score_thresh, ours.nms_thresh, ours.detections_per_img = 0.5, 0.5, 30
    (theirs,) = TorchvisionSSD.forward(ours, [*images(1)])
    found = ours.found(ours(images(1))[0], SIDE, SIDE, score=0.5, iou=0.5, limit=30)
    assert len(theirs["boxes"]) > 5
    torch.testing.assert_close(found.boxes, theirs["boxes"])
    torch.testing.assert_close(found.scores, theirs["scores"])
    assert (found.labels + 1).tolist() == theirs["labels"].tolist()
    rows = torch.arange(len(found.labels))
    torch.testing.assert_close(found.chances[rows, found.labels], found.scores)


def test_its_losses_are_torchvisions():
    ours = tiny().train()
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    shifted = [{**each, "labels": each["labels"] + 1} for each in targets()]
    theirs = TorchvisionSSD.forward(ours, [*images(2)], shifted)
    mine = ours.learn([*images(2)], targets())
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name])


def test_a_class_that_is_not_marked_in_a_photo_is_no_answer_there():
    ours = tiny().train()
    marked = torch.tensor([[True, True], [False, True]])
    logits = ours.head.classification_head.module_list
    # The second photo alone has no object, hence no loss: both get one.
    both = [targets()[0], targets()[0]]
    losses = ours.learn([*images(2)], both, marked)
    bias = [conv.bias for conv in logits]
    with_first = torch.autograd.grad(losses["classification"], bias)
    unmarked = ours.learn([*images(2)], both, torch.tensor([[False, True]] * 2))
    without = torch.autograd.grad(unmarked["classification"], bias)
    first_class = [each.reshape(-1, 3)[:, 1] for each in without]  # background, first, second
    assert all((each == 0).all() for each in first_class)
    assert any((each.reshape(-1, 3)[:, 1] != 0).any() for each in with_first)


@pytest.mark.parametrize("attention", ATTENTION)
def test_every_attention_can_stand_before_the_classifiers(attention: str):
    ours = tiny("stairnet", attention=attention).train()
    assert ours(images(2)).shape == (2, (12 * 12 + 6 * 6) * 6 + 3 * 3 * 4, 3 + 4)
    sum(ours.learn([*images(2)], targets()).values()).backward()
    for stair in ours.stairs:
        for name, parameter in stair.named_parameters():
            assert parameter.grad is not None, name


@pytest.mark.parametrize(("kind", "name"), [("ssd", "resnet18"), ("stairnet", "mobilenet_x1.0")])
def test_training_steps_lower_the_loss_on_a_few_photos(kind: str, name: str):
    ours = tiny(kind, name, "cbam").train()
    optimizer = torch.optim.Adam(ours.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        loss = sum(ours.learn([*images(2)], targets()).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("kind", "name"),
    [("ssd", "resnet18"), ("ssd", "mobilenet_x1.0"), ("stairnet", "resnet18")],
)
@pytest.mark.parametrize("of", OF)
def test_the_maps_of_boxes_equal_a_hook_for_each(kind: str, name: str, of: str):
    ours = tiny(kind, name, "cbam").eval().requires_grad_(False).double()
    image = images(1).double()
    layer = ours.cuttable[-1]
    cut = cut_at(ours, layer)
    activation, _ = cut.run_trunk(image)
    output, _ = cut.run_head(activation)
    found = ours.found(output[0], SIDE, SIDE, 0.4, 0.5, 10)
    assert len(found.boxes) > 3
    mine = box_maps(cut, activation, ours, found, of)
    compared = 0
    for row, map_ in enumerate(mine):
        kept: list[Tensor] = []

        def keep(_: object, __: object, output: Tensor, kept: list[Tensor] = kept) -> None:
            kept.append(output.requires_grad_())
            output.retain_grad()

        handle = ours.get_submodule(layer).register_forward_hook(keep)
        whole = ours(image)[0]
        handle.remove()
        said = whole[found.places[row]]
        if of == "score":
            number = said[1 + found.labels[row]]
        else:
            x0, y0, x1, y1 = found.anchors[row]
            width, height = x1 - x0, y1 - y0
            x, y = said[-4] / 10 * width, said[-3] / 10 * height  # the centre's way from its anchor
            half = (said[-2] / 5).exp() * width / 2, (said[-1] / 5).exp() * height / 2
            number = {
                "left": half[0] - x,
                "top": half[1] - y,
                "right": half[0] + x,
                "bottom": half[1] + y,
            }[of]
        number.backward()
        assert kept[0].grad is not None
        expected = (kept[0] * kept[0].grad).sum(dim=1).relu()[0].detach()
        torch.testing.assert_close(map_, expected, rtol=1e-4, atol=1e-9)
        compared += bool(expected.max() > 0)
    assert compared > 1


def test_gates_before_the_classifiers_come_along():
    ours = tiny("stairnet", attention="cbam").eval().requires_grad_(False)
    cut = cut_at(ours, ours.cuttable[-1])
    activation, _ = cut.run_trunk(images(1))
    _, gates = cut.run_head(activation)
    assert {name for name in gates if name.startswith("stairs.")} == {
        f"stairs.{number}.{gate}" for number in range(3) for gate in ("channel", "spatial")
    }


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: SSD(body(), 2, boxes=(6, 6)), BadOption, "6 numbers, each 4 or 6"),
        (lambda: SSD(body(), 2, scales=(0.1,)), BadOption, "7 numbers"),
        (lambda: SSD(body(), 2, last=2), BadOption, "3 or 4"),
        (lambda: SSD(body("mobilenet_x1.0"), 2, last=4), OptionClash, "MobileNet"),
        (lambda: SSD(body("vgg16"), 2), OptionClash, "full width"),
        (lambda: SSD(nn.Identity(), 2), BadOption, "a VGG, a MobileNet or a ResNet"),
        (lambda: tiny("stairnet", attention="cbum"), UnknownName, "cbum"),
    ],
)
def test_what_cannot_be_built_is_said(make: Callable[[], SSD], error: type, says: str):
    with pytest.raises(error, match=says):
        make()
