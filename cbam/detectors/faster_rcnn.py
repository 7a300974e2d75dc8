"""Faster R-CNN with a feature pyramid, a two-stage detector, on our ResNets with any attention.

Ren, He, Girshick, Sun, "Faster R-CNN", NeurIPS 2015, https://arxiv.org/abs/1506.01497; the pyramid:
Lin et al. 2017, https://arxiv.org/abs/1612.03144. Everything behind the backbone is torchvision's.
"""

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from cbam.backbones.resnet import ResNet


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


def faster_rcnn(body: ResNet, num_classes: int, channels: int = 256, **options: Any) -> FasterRCNN:
    """torchvision's FasterRCNN on a ResNet: it takes lists of images in [0, 1] and targets.

    `num_classes` counts the background, class 0, as torchvision does. `options` are torchvision's,
    such as `min_size`.
    """
    body.avgpool, body.fc = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    return FasterRCNN(AllStages(body, channels), num_classes, **options)
