"""ResNets with attention in every block, after its convolutions and before the residual add.

He, Zhang, Ren, Sun, "Deep Residual Learning", CVPR 2016, https://arxiv.org/abs/1512.03385; the
place of the attention: Woo et al. 2018, fig. 3. Wide: Zagoruyko and Komodakis 2016,
https://arxiv.org/abs/1605.07146; ResNeXt: Xie et al. 2016, https://arxiv.org/abs/1611.05431.
Parameter names are torchvision's, so that its state dicts load strictly into the plain network.
Nothing is done in place: an activation or a gate map that the trunk returns must stay what it was
when it was computed.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from cbam.attention import ATTENTION, PLAIN, Gate, NoAttention
from cbam.errors import OptionClash, UnknownName

Stem = Literal["imagenet", "small"]
StrideIn = Literal["3x3", "1x1"]
AttentionMaker = Callable[[int], nn.Module]

PLACEMENTS = {
    "block": "in every block, after its convolutions and before the residual add",
    "late": "the same, in the second, third and fourth stage only",
    "conv": "in every block, between its (last) 3x3 convolution and the norm",
    "stage": "once behind each of the first three stages",
    "own": "where the authors of the attention put it",
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (ResNet-18, 34): (N, inplanes, H, W) -> (N, planes, H/s, W/s)."""

    expansion = 1

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int,
        dilations: tuple[int, int],
        stride_in: StrideIn,
        grouping: tuple[int, int],
        make: AttentionMaker,
        at_conv: bool,
    ) -> None:
        super().__init__()
        if dilations != (1, 1):
            raise OptionClash(
                "replace_stride_with_dilation needs bottleneck blocks, which ResNet-50 and 101 "
                "have; ResNet-18 and 34 keep their strides, as torchvision's do."
            )
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.attention = make(planes)
        self.at_conv = at_conv
        self.downsample = _downsample(inplanes, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = torch.relu(self.bn1(self.conv1(x)))
        if self.at_conv:
            return torch.relu(self.bn2(self.attention(self.conv2(out))) + identity)
        out = self.bn2(self.conv2(out))
        # No ReLU before the attention: as in the authors' code, its input may be negative.
        return torch.relu(self.attention(out) + identity)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions (ResNet-50, 101): (N, inplanes, H, W) -> (N, 4 planes, ...).

    The stride sits in the 3x3 (torchvision and the authors' code) or in the first 1x1 (the original
    ResNet, with which the paper's GFLOPs agree). `dilations`: how much denser than by strides alone
    the block's input and its output are sampled. `grouping`: groups of the 3x3 convolution and the
    channels of each per 64 planes; (1, 64) but for ResNeXt. `at_conv`: the attention stands behind
    the 3x3 convolution.
    """

    expansion = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int,
        dilations: tuple[int, int],
        stride_in: StrideIn,
        grouping: tuple[int, int],
        make: AttentionMaker,
        at_conv: bool,
    ) -> None:
        super().__init__()
        groups, per_group = grouping
        inner = max(1, planes * per_group // 64) * groups
        before, behind = dilations
        # The 3x3 looks at the block's input if it strides itself, else at what the 1x1 left.
        dilation = behind if stride_in == "1x1" else before
        in_1x1, in_3x3 = (stride, 1) if stride_in == "1x1" else (1, stride)
        self.conv1 = nn.Conv2d(inplanes, inner, 1, in_1x1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(
            inner, inner, 3, in_3x3, dilation, dilation, groups=groups, bias=False
        )
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.attention = make(inner if at_conv else 4 * planes)
        _dilate(self.attention, behind)
        self.at_conv = at_conv
        self.downsample = _downsample(inplanes, 4 * planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = torch.relu(self.bn1(self.conv1(x)))
        if self.at_conv:
            out = torch.relu(self.bn2(self.attention(self.conv2(out))))
            return torch.relu(self.bn3(self.conv3(out)) + identity)
        out = torch.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return torch.relu(self.attention(out) + identity)


def _dilate(attention: nn.Module, factor: int) -> None:
    for module in attention.modules():
        if isinstance(module, (Gate, NoAttention)):
            module.dilate(factor)


def _downsample(inplanes: int, planes: int, stride: int) -> nn.Module | None:
    """The identity's projection where its shape changes: (N, inplanes, H, W) -> (N, planes, .)."""
    if stride == 1 and inplanes == planes:
        return None
    return nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))


class ResNet(nn.Module):
    """Images (N, 3, H, W) of any size -> logits (N, num_classes).

    `attention` is a name in ATTENTION, `attention_options` its own options, `placement` a name in
    PLACEMENTS: where it stands. `width` is the channels of the stem and of the first stage; `widen`
    multiplies those of all stages, but not the stem's; `grouping` makes a ResNeXt, see Bottleneck.
    `stem` "imagenet" (7x7, stride 2, max-pool) or "small" (3x3, no pooling;
    for images of some 64 pixels). `replace_stride_with_dilation`, as torchvision's: whether the
    second, third, fourth stage keeps the size of its input, its windows dilated instead; the same
    weights then see the same, on maps of more places. Raises UnknownName for another attention,
    placement, stem or place of the stride, OptionClash for basic blocks to be dilated.
    `block_names` lists its blocks, the first one first; an attention behind a stage is one, too.
    `stage_channels` lists the channels of each stage's output.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        attention: str = PLAIN,
        num_classes: int = 1000,
        attention_options: dict[str, Any] | None = None,
        width: int = 64,
        stem: Stem = "imagenet",
        stride_in: StrideIn = "3x3",
        replace_stride_with_dilation: Sequence[bool] = (False, False, False),
        placement: str = "block",
        widen: float = 1.0,
        grouping: tuple[int, int] = (1, 64),
    ) -> None:
        super().__init__()
        if attention not in ATTENTION:
            raise UnknownName.of("attention", attention, ATTENTION)
        if placement not in PLACEMENTS:
            raise UnknownName.of("placement", placement, PLACEMENTS)
        if placement == "own":
            placement = ATTENTION[attention].placement
        if stem not in get_args(Stem):
            raise UnknownName.of("stem", stem, get_args(Stem))
        if stride_in not in get_args(StrideIn):
            raise UnknownName.of("place of the stride", stride_in, get_args(StrideIn))
        if len(replace_stride_with_dilation) != 3:
            raise UnknownName.of(
                "replace_stride_with_dilation",
                list(replace_stride_with_dilation),
                ("three of true and false, for the second, third and fourth stage",),
            )
        options = attention_options or {}

        def make(channels: int) -> nn.Module:
            return ATTENTION[attention].make(channels, **options)

        def make_none(channels: int) -> nn.Module:
            return ATTENTION[PLAIN].make(channels)

        if stem == "imagenet":
            self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(width)
        stages: list[nn.Sequential] = []
        inplanes, dilation = width, 1
        for stage, (depth, dilated) in enumerate(
            zip(depths, (False, *replace_stride_with_dilation), strict=True)
        ):
            planes = int(width * widen) * 2**stage
            inside = placement in ("block", "conv") or (placement == "late" and stage > 0)
            blocks = nn.Sequential()
            for index in range(depth):
                stride, before = 1, dilation
                if stage > 0 and index == 0:
                    stride, dilation = (1, 2 * dilation) if dilated else (2, dilation)
                made = block(
                    inplanes,
                    planes,
                    stride,
                    (before, dilation),
                    stride_in,
                    grouping,
                    make if inside else make_none,
                    placement == "conv",
                )
                blocks.append(made)
                inplanes = planes * block.expansion
            if placement == "stage" and attention != PLAIN and stage < 3:
                behind = make(inplanes)
                _dilate(behind, dilation)
                blocks.add_module("attention", behind)
            stages.append(blocks)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.block_names = [
            f"layer{number}.{name}"
            for number, stage in enumerate(stages, start=1)
            for name, _ in stage.named_children()
        ]
        self.stage_channels = [
            int(width * widen) * 2**stage * block.expansion for stage in range(4)
        ]
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inplanes, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stages(self, x: Tensor) -> list[Tensor]:
        """What each of the four stages puts out: (N, channels, h, w) each, the first one first."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        outputs: list[Tensor] = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            outputs.append(x)
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(x)[-1]
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def resnet18(**options: Any) -> ResNet:
    """ResNet-18: 8 basic blocks. Options as in ResNet."""
    return ResNet(BasicBlock, (2, 2, 2, 2), **options)


def resnet34(**options: Any) -> ResNet:
    """ResNet-34: 16 basic blocks. Options as in ResNet."""
    return ResNet(BasicBlock, (3, 4, 6, 3), **options)


def resnet50(**options: Any) -> ResNet:
    """ResNet-50: 16 bottleneck blocks. Options as in ResNet."""
    return ResNet(Bottleneck, (3, 4, 6, 3), **options)


def resnet101(**options: Any) -> ResNet:
    """ResNet-101: 33 bottleneck blocks. Options as in ResNet."""
    return ResNet(Bottleneck, (3, 4, 23, 3), **options)


def wide_resnet18_x15(**options: Any) -> ResNet:
    """ResNet-18 with 1.5 times the channels in its stages; the stem keeps 64."""
    return ResNet(BasicBlock, (2, 2, 2, 2), **{"widen": 1.5, **options})


def wide_resnet18_x2(**options: Any) -> ResNet:
    """ResNet-18 with twice the channels in its stages; the stem keeps 64."""
    return ResNet(BasicBlock, (2, 2, 2, 2), **{"widen": 2.0, **options})


def resnext50(**options: Any) -> ResNet:
    """ResNeXt-50 32x4d: ResNet-50 whose 3x3 convolutions have 32 groups of 4 to 32 channels."""
    return ResNet(Bottleneck, (3, 4, 6, 3), **{"grouping": (32, 4), **options})


def resnext101(**options: Any) -> ResNet:
    """ResNeXt-101 32x4d: ResNet-101 whose 3x3 convolutions have 32 groups of 4 to 32 channels."""
    return ResNet(Bottleneck, (3, 4, 23, 3), **{"grouping": (32, 4), **options})
