"""SSD and StairNet, one-stage detectors with anchor boxes, on VGG-16, MobileNet and ResNets.

Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, https://arxiv.org/abs/1512.02325; Woo,
Hwang, Kweon, "StairNet", WACV 2018, https://arxiv.org/abs/1709.05788. Heads, anchors, losses,
matching and box coder are torchvision's. CBAM's paper puts its attention before every classifier.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD as TorchvisionSSD
from torchvision.models.detection.ssd import SSDHead
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from cbam.attention import ATTENTION, PLAIN
from cbam.backbones.mobilenet import MobileNet
from cbam.detectors.found import Found, reaches
from cbam.detectors.maps import HALVED, Extras, Maps, maps_of
from cbam.errors import BadOption, look_up

# SSD300's for PASCAL VOC: anchors of each map; their sides relative to the image, and one more.
BOXES = (6, 6, 6, 6, 4, 4)
SCALES = (0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05)
RATIOS: dict[int, list[int]] = {4: [2], 6: [2, 3]}  # anchors of a place -> width to height
SUREST = 400  # boxes of a class that non-maximum suppression compares


class SSD(TorchvisionSSD):  # type: ignore[misc]
    """Images (N, 3, H, W) -> raw outputs at every anchor: (N, P, 1 + classes + 4).

    Class logits, the background's first, then the box relative to the anchor. The P anchors: map
    by map, the finest first, row by row. `boxes`: anchors of a place of each map, 4 or 6; `scales`:
    one more number than maps. `extras`: hidden and output channels of the maps behind the
    backbone's; `last`: the stage with which a ResNet ends, 3 or 4.
    `stairs`: see StairNet; 0: none, each map is read as it is. Photos are bent to squares.
    """

    def __init__(
        self,
        body: nn.Module,
        num_classes: int,
        boxes: Sequence[int] = BOXES,
        scales: Sequence[float] = SCALES,
        extras: Extras | None = None,
        last: int | None = None,
        stairs: int = 0,
        attention: str = PLAIN,
        attention_options: dict[str, Any] | None = None,
    ) -> None:
        options = {"extras": extras} | ({} if last is None else {"last": last})
        maps = maps_of(body, **options)
        planes = maps.out_channels
        count = len(planes)
        if len(boxes) != count or not set(boxes) <= set(RATIOS):
            raise BadOption(f"boxes is {[*boxes]}; it has to be {count} numbers, each 4 or 6.")
        if len(scales) != count + 1:
            raise BadOption(f"scales is {[*scales]}; it has to be {count + 1} numbers.")
        channels = [stairs] * count if stairs else planes
        anchors = DefaultBoxGenerator(
            [RATIOS[each] for each in boxes], scales=[*scales], steps=maps.strides
        )
        super().__init__(
            maps,
            anchors,
            (300, 300),  # of torchvision's own transform, which we leave aside
            num_classes + 1,
            head=_head(channels, boxes, num_classes + 1, 1 if maps.light else 3),
        )
        self.num_classes = num_classes
        self.block_names = [f"backbone.{name}" for name in maps.block_names]
        # Behind the first map that the head reads, paths lead around every block.
        self.cuttable = [f"backbone.{name}" for name in maps.cuttable]
        self.stairs: nn.ModuleList | None = None
        if stairs:
            look_up("attention", attention, ATTENTION)
            self.stairs = nn.ModuleList(
                Stair(
                    each,
                    stairs,
                    step,
                    maps.light,
                    ATTENTION[attention].make(stairs, **(attention_options or {})),
                )
                for each, step in zip(planes, [*maps.steps, None], strict=True)
            )
            self.block_names += [f"stairs.{number}" for number in range(count)]

    def forward(self, images: Tensor) -> Tensor:
        maps = list(self.backbone(images).values())
        if self.stairs is not None:
            coarser, climbed = None, []
            for stair, each in zip(reversed(self.stairs), reversed(maps), strict=True):
                coarser = stair(each, coarser)
                climbed.append(cast(Stair, stair).refine(coarser))
            maps = climbed[::-1]
        found = self.head(maps)
        return torch.cat((found["cls_logits"], found["bbox_regression"]), dim=2)

    def anchors(self, width: int, height: int) -> Tensor:
        """torchvision's anchors for an image of this size: (P, 4), in pixels."""
        maps = cast(Maps, self.backbone)
        rows, columns = (maps.sides(side) for side in (height, width))
        image = ImageList(torch.empty(1, 3, height, width, device="meta"), [(height, width)])
        cells = [torch.empty(1, 1, *grid) for grid in zip(rows, columns, strict=True)]
        anchors: Tensor = self.anchor_generator(image, cells)[0]
        return anchors

    def found(
        self, output: Tensor, width: int, height: int, score: float, iou: float, limit: int
    ) -> Found:
        """What one image's output says, with torchvision's coder and NMS.

        A score is the class's probability; lower ones than `score` are left out. Of two boxes of
        one class that overlap by more than `iou` the surer one stays, and of all boxes the `limit`
        surest. As torchvision's `postprocess_detections`, which does not say which anchor a box
        comes from.
        """
        logits, codes = torch.tensor_split(output, (self.num_classes + 1,), dim=1)
        chances = logits.softmax(dim=1)[:, 1:]
        scores, places = chances.topk(min(SUREST, len(chances)), dim=0)
        ranks, labels = (scores > score).nonzero(as_tuple=True)
        scores, places = scores[ranks, labels], places[ranks, labels]
        anchors = self.anchors(width, height).to(output.device)[places]
        boxes = self.box_coder.decode_single(codes[places], anchors)
        boxes = clip_boxes_to_image(boxes, (height, width))
        said = Found(boxes, scores, labels, places, anchors, chances[places], (width, height))
        return said.some(batched_nms(boxes, scores, labels, iou)[:limit])

    def numbers(self, output: Tensor, found: Found, of: str) -> Tensor:
        """What is explained of each of n boxes, from an output for each (n, P, ...): (n,).

        A class's logit, or how far a side is from its anchor's centre, in pixels.
        """
        rows = output[torch.arange(len(output)), found.places]
        if of == "score":
            return rows.gather(1, found.labels[:, None] + 1)[:, 0]
        boxes = self.box_coder.decode_single(rows[:, -4:], found.anchors)
        return reaches(boxes, found.anchors, of)

    def learn(
        self, images: list[Tensor], targets: list[dict[str, Tensor]], marked: Tensor | None = None
    ) -> dict[str, Tensor]:
        """torchvision's two losses, by name, for images (3, H, W) of one size.

        `targets`: "boxes" (n, 4) in pixels and "labels" (n,) of each image. `marked` (N, classes):
        whether the objects of a class are marked in an image; where not, that class is no answer.
        """
        height, width = images[0].shape[1:]
        output = self(torch.stack(images)).float()
        logits, codes = torch.tensor_split(output, (self.num_classes + 1,), dim=2)
        if marked is not None:
            unknown = nn.functional.pad(~marked, (1, 0))  # the background is always an answer
            logits = logits.masked_fill(unknown[:, None, :], -1e4)
        anchors = self.anchors(width, height).to(output.device)
        nothing = torch.full((len(anchors),), -1, device=output.device)
        matched = [
            self.proposal_matcher(box_iou(each["boxes"], anchors))
            if len(each["boxes"])
            else nothing
            for each in targets
        ]
        shifted = [{**each, "labels": each["labels"] + 1} for each in targets]
        outputs = {"cls_logits": logits, "bbox_regression": codes}
        losses: dict[str, Tensor] = self.compute_loss(
            shifted, outputs, [anchors] * len(images), matched
        )
        return losses


class Stair(nn.Module):
    """One step from a coarser map to a finer one: project, add the coarser one enlarged, refine.

    `step`: stride and padding of the window that made the coarser map from this one; the enlarging
    goes the way back. The order and the norms are those of the StairNet authors' code. `light`:
    for MobileNet, whose StairNet is described nowhere: windows of single channels to enlarge, 1x1
    to refine, one norm. With 128 channels, all parameters of CBAM's paper agree.
    """

    def __init__(
        self,
        planes: int,
        channels: int,
        step: tuple[int, int] | None,
        light: bool,
        attention: nn.Module,
    ) -> None:
        super().__init__()
        norm = nn.Identity if light else nn.BatchNorm2d
        stride, padding = step or HALVED
        self.project = nn.Conv2d(planes, channels, 1, bias=False)
        self.project_bn = norm(channels)
        if step is not None:  # the coarsest map has none above it
            self.enlarge = nn.ConvTranspose2d(
                *(channels, channels, 3, stride, padding),
                groups=channels if light else 1,
                bias=False,
            )
            self.enlarge_bn = norm(channels)
        kernel = 1 if light else 3
        self.conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.attention = attention
        for module in (self.project, self.conv):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, coarser: Tensor | None) -> Tensor:
        """This map (N, planes, h, w) and the coarser step's sum -> the sum (N, channels, h, w)."""
        x = self.project_bn(self.project(x))
        if coarser is None:
            return x
        larger: Tensor = self.enlarge_bn(self.enlarge(coarser, output_size=x.shape[2:]))
        return x + larger

    def refine(self, x: Tensor) -> Tensor:
        """What the predictors read of a step's sum: (N, channels, h, w), behind the attention."""
        refined: Tensor = self.attention(torch.relu(self.bn(self.conv(x))))
        return refined


def stairnet(body: nn.Module, num_classes: int, stairs: int | None = None, **options: Any) -> SSD:
    """SSD whose maps are merged from the coarsest to the finest, all `stairs` channels wide.

    By default 256, on MobileNet 128. `attention`, a name in ATTENTION, stands before every
    classifier. The other options are SSD's.
    """
    wide = stairs or (128 if isinstance(body, MobileNet) else 256)
    return SSD(body, num_classes, stairs=wide, **options)


def _head(channels: Sequence[int], boxes: Sequence[int], classes: int, kernel: int) -> SSDHead:
    """torchvision's predictors, whose windows are 3x3, or 1x1."""
    head = SSDHead([*channels], [*boxes], classes)
    if kernel != 3:
        for part in (head.classification_head, head.regression_head):
            for number, conv in enumerate(part.module_list):
                smaller = nn.Conv2d(conv.in_channels, conv.out_channels, kernel)
                nn.init.xavier_uniform_(smaller.weight)
                nn.init.zeros_(smaller.bias)  # type: ignore[arg-type]
                part.module_list[number] = smaller
    return head
