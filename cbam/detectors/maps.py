"""What SSD looks at: a backbone's last maps and some smaller ones, from the finest to the coarsest.

The names of the modules are torchvision's where it has such a network, so that weights fit.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.detection.ssd import SSDFeatureExtractorVGG

from cbam.backbones.mobilenet import MobileNet, Unit
from cbam.backbones.resnet import ResNet
from cbam.backbones.vgg import VGG
from cbam.errors import BadOption, OptionClash

Extras = Sequence[Sequence[int]]  # hidden and output channels of each further map
EXTRAS: Extras = ((256, 512), (128, 256), (128, 256), (128, 256))
LIGHT_EXTRAS: Extras = ((256, 512), (128, 256), (128, 256), (64, 128))
COUNT = 6  # maps

HALVED, SHRUNK = (2, 1), (1, 0)  # stride and padding of the 3x3 window that makes the next map


def _further(channels: int, extras: Extras) -> nn.ModuleList:
    """SSD's own layers, each of which halves the map: 1x1, ReLU, 3x3 of stride 2, ReLU."""
    layers = nn.ModuleList()
    for hidden, planes in extras:
        layers.append(
            nn.Sequential(
                nn.Conv2d(channels, hidden, 1),
                nn.ReLU(),
                nn.Conv2d(hidden, planes, 3, stride=2, padding=1),
                nn.ReLU(),
            )
        )
        channels = planes
    for module in layers.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return layers


class VGGMaps(SSDFeatureExtractorVGG):  # type: ignore[misc]
    """torchvision's six maps of SSD300 from a VGG-16 of ours; their sides at 300 px: 38 to 1.

    `steps`: how many windows make one map from the one before. Needs images of 257 px at least.
    """

    light = False
    strides: list[int] | None = [8, 16, 32, 64, 100, 300]  # as published, at 300 px

    def __init__(self, body: VGG, extras: Extras | None = None) -> None:
        if extras is not None:
            raise OptionClash("SSD on VGG-16 has torchvision's further maps; leave out `extras`.")
        last = [module for module in body.features if isinstance(module, nn.Conv2d)][-1]
        if last.out_channels != 512:
            raise OptionClash("SSD300 stands on a VGG-16 of the full width: leave out `width`.")
        pools = [at for at, layer in enumerate(body.features) if isinstance(layer, nn.MaxPool2d)]
        super().__init__(body.features, highres=False)
        for module in self.modules():  # nothing is done in place: what we look at stays
            if isinstance(module, nn.ReLU):
                module.inplace = False
        self.out_channels = [512, 1024, 512, 256, 256, 256]
        self.steps = [HALVED, HALVED, HALVED, SHRUNK, SHRUNK]
        numbers = [int(name.partition(".")[2]) for name in body.block_names]
        self.cuttable = [f"features.{at}" for at in numbers if at < pools[3]]
        behind = [f"extra.0.{at - pools[3]}" for at in numbers if at > pools[3]]
        self.block_names = [*self.cuttable, *behind]

    def sides(self, side: int) -> list[int]:
        """The maps' height for an image's height, and the same for widths."""
        first = -(-(side // 4) // 2)  # two pools round down, the third one rounds up
        return [first, *_sides(first // 2, self.steps[1:])]


class MobileNetMaps(nn.Module):
    """Six maps from a MobileNet: of its 11th and 13th block, and four smaller ones.

    The arrangement is that of the common SSD on MobileNet: its layers' widths and, with
    predictors of 1x1, its number of parameters.
    """

    light = True
    strides: list[int] | None = None

    def __init__(self, body: MobileNet, extras: Extras | None = None) -> None:
        super().__init__()
        body.avgpool, body.fc = nn.Identity(), nn.Identity()  # type: ignore[assignment]
        self.body = body
        self.sources = (22, 26)  # units: a stem, and two for each block
        units = [body.features[at] for at in self.sources]
        channels = [unit.conv.out_channels for unit in units if isinstance(unit, Unit)]
        extras = LIGHT_EXTRAS if extras is None else extras
        self.extra = _further(channels[-1], extras)
        self.out_channels = [*channels, *(planes for _, planes in extras)]
        self.steps = [HALVED] * (1 + len(extras))
        self.block_names = [f"body.{name}" for name in body.block_names]
        self.cuttable = self.block_names[: self.sources[0] + 1]

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        x, maps = images, []
        for number, unit in enumerate(self.body.features):
            x = unit(x)
            if number in self.sources:
                maps.append(x)
        for layer in self.extra:
            x = layer(x)
            maps.append(x)
        return OrderedDict((str(number), each) for number, each in enumerate(maps))

    def sides(self, side: int) -> list[int]:
        """The maps' height for an image's height, and the same for widths."""
        return _sides(-(-side // 16), self.steps)


class ResNetMaps(nn.Module):
    """Six maps from a ResNet: of its second stage to the `last` one, and smaller ones."""

    light = False
    strides: list[int] | None = None

    def __init__(self, body: ResNet, extras: Extras | None = None, last: int = 3) -> None:
        super().__init__()
        if last not in (3, 4):
            raise BadOption.of("last", last, "3 or 4, the stage with which the network ends")
        body.avgpool, body.fc = nn.Identity(), nn.Identity()  # type: ignore[assignment]
        names = body.block_names
        if last == 3:
            body.layer4 = nn.Sequential()
            names = [name for name in names if not name.startswith("layer4.")]
        self.body, self.last = body, last
        channels = body.stage_channels[1:last]
        extras = EXTRAS[: COUNT - len(channels)] if extras is None else extras
        self.extra = _further(channels[-1], extras)
        self.out_channels = [*channels, *(planes for _, planes in extras)]
        self.steps = [HALVED] * (len(self.out_channels) - 1)
        self.block_names = [f"body.{name}" for name in names]
        self.cuttable = [name for name in self.block_names if name < "body.layer3"]

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        maps = self.body.stages(images)[1 : self.last]
        for layer in self.extra:
            maps.append(layer(maps[-1]))
        return OrderedDict((str(number), each) for number, each in enumerate(maps))

    def sides(self, side: int) -> list[int]:
        """The maps' height for an image's height, and the same for widths."""
        return _sides(-(-side // 8), self.steps)


Maps = VGGMaps | MobileNetMaps | ResNetMaps


def maps_of(body: nn.Module, **options: int | Extras | None) -> Maps:
    """The maps of a backbone of ours, whose classifier goes. Raises BadOption for another one."""
    kinds: dict[type[nn.Module], type[nn.Module]] = {
        VGG: VGGMaps,
        MobileNet: MobileNetMaps,
        ResNet: ResNetMaps,
    }
    for kind, maps in kinds.items():
        if isinstance(body, kind):
            try:
                made: Maps = maps(body, **options)  # type: ignore[assignment]
            except TypeError as error:
                raise OptionClash(f"SSD's maps of a {kind.__name__}: {error}.") from error
            return made
    raise BadOption.of("body", body, "a VGG, a MobileNet or a ResNet of this project")


def _sides(first: int, steps: Sequence[tuple[int, int]]) -> list[int]:
    """The sides of maps, each from the one before by a window of 3x3."""
    sides = [first]
    for stride, padding in steps:
        sides.append((sides[-1] + 2 * padding - 3) // stride + 1)
    return sides
