"""Faster R-CNN with a feature pyramid, a two-stage detector, on our ResNets with any attention.

Ren, He, Girshick, Sun, "Faster R-CNN", NeurIPS 2015, https://arxiv.org/abs/1506.01497; the pyramid:
Lin et al. 2017, https://arxiv.org/abs/1612.03144. Everything behind the backbone is torchvision's.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import (
    FeaturePyramidNetwork,
    batched_nms,
    clip_boxes_to_image,
    remove_small_boxes,
)
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from cbam.backbones.resnet import ResNet
from cbam.detectors.found import BODY, Found, reaches

STRIDES = (4, 8, 16, 32, 64)  # of the pyramid's maps


class AllStages(nn.Module):
    """Images -> five maps of equal width from the four stages of a ResNet, by name: "0" to "pool".

    torchvision's own way to get at the stages counts on the order of a network's children, which
    says nothing of the activations between ours.
    """

    def __init__(self, body: ResNet, channels: int) -> None:
        super().__init__()
        self.body = body
        self.out_channels = channels
        self.fpn = FeaturePyramidNetwork(body.stage_channels, channels, LastLevelMaxPool())

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        stages = self.body.stages(images)
        named = OrderedDict((str(number), stage) for number, stage in enumerate(stages))
        maps: OrderedDict[str, Tensor] = self.fpn(named)
        return maps


class FasterRCNN(TorchvisionFasterRCNN):  # type: ignore[misc]
    """Images (N, 3, H, W), normalised, sides multiples of 32 -> its maps as (N, P, channels).

    The P places: those of five maps, the finest first, row by row. Which regions are looked at
    depends on the maps, so that `found` is where the two stages run. `channels`: width of the
    pyramid; `options` are torchvision's. `num_classes` does not count the background.
    """

    def __init__(self, body: ResNet, num_classes: int, channels: int = 256, **options: Any) -> None:
        body.avgpool, body.fc = nn.Identity(), nn.Identity()  # type: ignore[assignment]
        super().__init__(AllStages(body, channels), num_classes + 1, **options)
        self.block_names = [BODY + name for name in body.block_names]
        # The pyramid looks at every stage: behind the first one, paths lead around each block.
        self.cuttable = self.block_names[: len(body.layer1)]

    def forward(self, images: Tensor) -> Tensor:
        maps = self.backbone(images).values()
        return torch.cat([each.flatten(2).transpose(1, 2) for each in maps], dim=1)

    def maps(self, output: Tensor, width: int, height: int) -> OrderedDict[str, Tensor]:
        """The five maps (N, channels, h, w) in what `forward` returned, by torchvision's names."""
        names = (*(str(number) for number in range(len(STRIDES) - 1)), "pool")
        grids = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
        parts = torch.split(output, [rows * columns for rows, columns in grids], dim=1)
        return OrderedDict(
            (name, part.transpose(1, 2).reshape(len(part), -1, *grid))
            for name, part, grid in zip(names, parts, grids, strict=True)
        )

    def second_stage(
        self, maps: OrderedDict[str, Tensor], regions: Sequence[Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Class logits (n, 1 + classes) and codes (n, 1 + classes, 4) of each image's regions.

        `size`: width and height of the images.
        """
        heads = self.roi_heads
        pooled = heads.box_roi_pool(maps, [*regions], [size[::-1]] * len(regions))
        logits, codes = heads.box_predictor(heads.box_head(pooled))
        return logits, codes.unflatten(1, (-1, 4))

    def found(
        self, output: Tensor, width: int, height: int, score: float, iou: float, limit: int
    ) -> Found:
        """What one image's output (P, channels) says, with torchvision's proposals, coder and NMS.

        A score is the class's probability; lower ones than `score` are left out. Of two boxes of
        one class that overlap by more than `iou` the surer one stays, and of all boxes the `limit`
        surest. As torchvision's `postprocess_detections`, which does not say which proposal a box
        comes from.
        """
        maps = self.maps(output[None], width, height)
        image = ImageList(torch.empty(1, 3, height, width, device="meta"), [(height, width)])
        (regions,), _ = self.rpn(image, maps)
        logits, codes = self.second_stage(maps, [regions], (width, height))
        chances = logits.softmax(dim=1)[:, 1:]
        places, labels = (chances > score).nonzero(as_tuple=True)
        scores = chances[places, labels]
        boxes = self._decoded(codes, places, labels, regions[places])
        boxes = clip_boxes_to_image(boxes, (height, width))
        size = (width, height)
        said = Found(boxes, scores, labels, places, regions[places], chances[places], size)
        said = said.some(remove_small_boxes(boxes, min_size=1e-2))
        return said.some(batched_nms(said.boxes, said.scores, said.labels, iou)[:limit])

    def numbers(self, output: Tensor, found: Found, of: str) -> Tensor:
        """What is explained of each of n boxes, from an output for each (n, P, channels): (n,).

        The proposals stay as they were found: only the second stage is differentiated. A class's
        logit, or how far a side is from its proposal's centre, in pixels.
        """
        maps = self.maps(output, *found.size)
        logits, codes = self.second_stage(maps, found.anchors[:, None].unbind(), found.size)
        if of == "score":
            return logits.gather(1, found.labels[:, None] + 1)[:, 0]
        rows = torch.arange(len(output))
        boxes = self._decoded(codes, rows, found.labels, found.anchors)
        return reaches(boxes, found.anchors, of)

    def _decoded(self, codes: Tensor, rows: Tensor, labels: Tensor, regions: Tensor) -> Tensor:
        """The boxes (n, 4) that some rows' codes give for their labels, each from its region."""
        chosen = codes[rows, labels + 1]
        boxes: Tensor = self.roi_heads.box_coder.decode_single(chosen, regions)
        return boxes

    def learn(
        self, images: list[Tensor], targets: list[dict[str, Tensor]], marked: Tensor | None = None
    ) -> dict[str, Tensor]:
        """torchvision's four losses, by name, for images (3, H, W) of any sizes.

        `targets`: "boxes" (n, 4) in pixels and "labels" (n,) of each image. In images where some
        class is not marked (`marked`, (N, classes)), regions without an object teach nothing
        certain; such images are left out. Returns no loss if none is left.
        """
        whole = (
            [*range(len(images))] if marked is None else marked.all(dim=1).nonzero()[:, 0].tolist()
        )
        if not whole:
            return {}
        batch = self.transform.batch_images([images[each] for each in whole], size_divisible=32)
        sizes = [(each.shape[1], each.shape[2]) for each in (images[one] for one in whole)]
        wanted = [{**targets[each], "labels": targets[each]["labels"] + 1} for each in whole]
        maps = self.backbone(batch)
        regions, first = self.rpn(ImageList(batch, sizes), maps, wanted)
        _, second = self.roi_heads(maps, regions, sizes, wanted)
        losses: dict[str, Tensor] = {**second, **first}
        return losses
