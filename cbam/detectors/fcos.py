"""FCOS, a one-stage detector without anchor boxes, on the last two stages of a ResNet.

Tian, Shen, Chen, He, "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019,
https://arxiv.org/abs/1904.01355. The pyramid, the heads, the assignment of places to objects, the
losses and the box coder are torchvision's; what is small here is their width.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOS as TorchvisionFCOS
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork, batched_nms, clip_boxes_to_image

from cbam.backbones.resnet import ResNet
from cbam.detectors.found import BODY, SIDES, Found
from cbam.errors import BadOption

FINEST = (8, 16)  # strides that the finest map can have


class Pyramid(nn.Module):
    """Maps of equal width from a backbone's last two stages, of strides 16 and 32.

    Each map is enlarged and added to the finer one: "Feature Pyramid Networks", Lin et al. 2017,
    https://arxiv.org/abs/1612.03144. With `finest` = 8 there is a third one, for which a transposed
    convolution enlarges the finer stage: the "simple feature pyramid" of Li et al. 2022,
    https://arxiv.org/abs/2203.16527.
    """

    def __init__(self, body: ResNet, channels: int, finest: int) -> None:
        super().__init__()
        widths = body.stage_channels[-2:]
        if finest not in FINEST:
            raise BadOption.of("finest", finest, f"a stride: {' or '.join(map(str, FINEST))}")
        self.body = body
        self.out_channels = channels
        self.finer = nn.ModuleList()
        if finest == 8:
            self.finer.append(nn.ConvTranspose2d(widths[0], channels, 2, stride=2))
            widths = [channels, *widths]
        self.neck = FeaturePyramidNetwork(widths, channels, norm_layer=partial(nn.GroupNorm, 32))

    def merge(self, stages: Sequence[Tensor]) -> OrderedDict[str, Tensor]:
        """The last two stages' outputs -> the pyramid's maps by name, the finest one first."""
        stages = [*(finer(stages[0]) for finer in self.finer), *stages]
        named = OrderedDict((str(number), stage) for number, stage in enumerate(stages))
        merged: OrderedDict[str, Tensor] = self.neck(named)
        return merged

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        return self.merge(self.body.stages(images)[-2:])


class FCOS(TorchvisionFCOS):  # type: ignore[misc]
    """Images (N, 3, H, W), sides multiples of 32 -> raw outputs at every place, as `forward` says.

    `channels`: width of the pyramid and the heads, a multiple of 32; `convs`: 3x3 convolutions
    before each head's last. `radius`: how far from an object's centre a place may answer for it, in
    half strides. `finest`: the finest map's stride, 8 or 16. Objects belong to a map by how far
    their farthest side is from the place: nearer than 32 px to that of stride 8, nearer than 64 px
    to that of 16. `cuttable`: the blocks behind which the network can be cut in two.
    """

    def __init__(
        self,
        body: ResNet,
        num_classes: int,
        channels: int = 128,
        convs: int = 2,
        radius: float = 3.0,
        finest: int = 16,
    ) -> None:
        strides = [stride for stride in (8, 16, 32) if stride >= finest]
        body.avgpool, body.fc = nn.Identity(), nn.Identity()  # type: ignore[assignment]
        super().__init__(
            Pyramid(body, channels, finest),
            num_classes,
            # Half the strides, because torchvision gives each map distances of 4 to 8 sizes.
            anchor_generator=AnchorGenerator(
                tuple((stride // 2,) for stride in strides), ((1.0,),) * len(strides)
            ),
            head=FCOSHead(channels, 1, num_classes, convs),
            center_sampling_radius=radius,
        )
        self.strides = strides
        # Distances are rectified: begun at 0, many would never learn.
        nn.init.constant_(self.head.regression_head.bbox_reg.bias, 3.0)
        self.block_names = [BODY + name for name in body.block_names]
        # A path leads around those of the last stage: the head looks at the stage before it, too.
        self.cuttable = self.block_names[: -len(body.layer4)]

    def forward(self, images: Tensor) -> Tensor:
        """All outputs in one tensor: (N, P, classes + 4 + 1), which `parts` takes apart.

        P places: those of the finest map row by row, then the coarser ones'.
        """
        return torch.cat(self.outputs(self.backbone.body.stages(images)[-2:]), dim=2)

    def outputs(self, stages: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits (N, P, classes), distances to the sides (N, P, 4), centredness (N, P, 1).

        `stages`: the outputs of the backbone's last two stages.
        """
        found = self.head(list(self.backbone.merge(stages).values()))
        return found["cls_logits"], found["bbox_regression"], found["bbox_ctrness"]

    def places(self, width: int, height: int, count: int = 1) -> tuple[list[Tensor], list[int]]:
        """torchvision's anchors (P, 4) for each of `count` images, and each map's number of places.

        An anchor's centre is the place, its side the unit of the place's distances.
        """
        grids = [(height // stride, width // stride) for stride in self.strides]
        images = ImageList(torch.empty(count, 3, height, width), [(height, width)] * count)
        anchors: list[Tensor] = self.anchor_generator(
            images, [torch.empty(1, 1, *g) for g in grids]
        )
        return anchors, [rows * columns for rows, columns in grids]

    def found(
        self, output: Tensor, width: int, height: int, score: float, iou: float, limit: int
    ) -> Found:
        """What one image's output (P, classes + 5) says, with torchvision's coder and NMS.

        A score is the geometric mean of class probability and centredness; lower ones than `score`
        are left out. Of two boxes of one class that overlap by more than `iou` the surer one stays,
        and of all boxes the `limit` surest. As torchvision's `postprocess_detections`, which does
        not say which place a box comes from.
        """
        logits, distances, centredness = torch.tensor_split(output, (-5, -1), dim=1)
        scores = (logits.sigmoid() * centredness.sigmoid()).sqrt()
        places, labels = (scores > score).nonzero(as_tuple=True)
        chosen = scores[places, labels]
        (anchors,), _ = self.places(width, height)
        anchors = anchors.to(output.device)[places]
        boxes = self.box_coder.decode(distances[places], anchors)
        boxes = clip_boxes_to_image(boxes, (height, width))
        chances = logits.sigmoid()[places]
        said = Found(boxes, chosen, labels, places, anchors, chances, (width, height))
        return said.some(batched_nms(boxes, chosen, labels, iou)[:limit])

    def numbers(self, output: Tensor, found: Found, of: str) -> Tensor:
        """What is explained of each of n boxes, from an output for each (n, P, classes + 5): (n,).

        A class's logit, or how far a side is from the place, in its own unit.
        """
        rows = output[torch.arange(len(output)), found.places]
        sides = rows.shape[1] - 5
        columns = found.labels if of == "score" else sides + SIDES.index(of)
        numbers: Tensor = rows[torch.arange(len(rows)), columns]
        return numbers

    def learn(
        self, images: list[Tensor], targets: list[dict[str, Tensor]], marked: Tensor | None = None
    ) -> dict[str, Tensor]:
        """torchvision's three losses, by name, for images (3, H, W), as `losses` says.

        Smaller ones are filled up to the size of the largest.
        """
        batch = self.transform.batch_images([*images], size_divisible=32)
        height, width = batch.shape[2:]
        outputs = self.outputs(self.backbone.body.stages(batch)[-2:])
        return self.losses(outputs, targets, width, height, marked)

    def losses(
        self,
        outputs: tuple[Tensor, Tensor, Tensor],
        targets: list[dict[str, Tensor]],
        width: int,
        height: int,
        marked: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """torchvision's three losses, by name, for a batch of images of one size.

        `targets`: "boxes" (n, 4) in pixels and "labels" (n,) of each image. `marked` (N, classes):
        whether the objects of a class are marked in an image; where not, its logits have no loss.
        """
        logits, distances, centredness = outputs
        if marked is not None:
            # The focal loss of so low a logit without an object is 0, and so is its gradient.
            logits = logits.masked_fill(~marked[:, None, :], -1e4)
        anchors, per_map = self.places(width, height, len(logits))
        head_outputs = {
            "cls_logits": logits.float(),
            "bbox_regression": distances.float(),
            "bbox_ctrness": centredness.float(),
        }
        anchors = [each.to(logits.device) for each in anchors]
        found: dict[str, Tensor] = self.compute_loss(targets, head_outputs, anchors, per_map)
        return found
