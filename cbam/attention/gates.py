"""The two gates of CBAM. A gate's output *is* its map; its owner multiplies.

Woo, Park, Lee, Kweon, "CBAM: Convolutional Block Attention Module", ECCV 2018,
https://arxiv.org/abs/1807.06521. Where the authors' released code differs from the formulas
(https://github.com/Jongchan/attention-module), the gates follow the code: the shared MLP has
biases, the spatial convolution has none and is followed by BatchNorm, and the two pooled planes
are stacked as [max, mean].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, fx, nn

from cbam.attention.pools import over_channels, over_places
from cbam.errors import UnknownName

# Each is one step of a traced network.
fx.wrap("over_places")
fx.wrap("over_channels")

ChannelPool = Literal["avg", "max", "both"]
SpatialSqueeze = Literal["pool", "conv"]


Use = Literal["multiplied", "added", "shown"]


@dataclass(frozen=True)
class Kind:
    """A kind of gate: the shape of its map, and what it says, for whoever shows it."""

    name: str  # its key in explanations and in JSON
    axes: str  # along which the map varies: "C", "HW", "CHW" ...; the others have size 1
    word: str  # the question that it answers: "what", "where"
    says: str  # how the page goes on after the title: "The channel gate"
    title: str = ""  # by default its name and "gate"
    use: Use = "multiplied"  # with the features, or added to them; "shown": a step on the way
    lowest: float | None = 0.0  # the ends of its range; None: it has none
    highest: float | None = 1.0
    neutral: float | None = 0.5  # where it takes no side; None: there is no such value
    text: str = ""  # what other languages file `says` under; by default its name

    def __post_init__(self) -> None:
        if not self.title:
            object.__setattr__(self, "title", f"{self.name} gate")
        if not self.text:
            object.__setattr__(self, "text", self.name)

    @property
    def open(self) -> float | None:
        """The value that leaves the features as they are; None if it is not applied to them."""
        return {"multiplied": 1.0, "added": 0.0, "shown": None}[self.use]


PATHS = {"avg": "average", "max": "maximum", "learned": "learned projection"}  # for people


@dataclass(frozen=True, eq=False)
class Path:
    """What one path sees of the features, and what it adds to the logits of every value."""

    pooled: Tensor  # (N, C, 1, 1) or (N, 1, H, W)
    logits: Tensor  # of the same shape as the gate's map
    hidden: Tensor | None = None  # (N, hidden), behind the ReLU of a channel gate's MLP


@dataclass(frozen=True, eq=False)
class Steps:
    """How a gate comes to its map: `sigmoid(sum of its paths' logits + bias)`."""

    paths: Mapping[str, Path]  # by a name in PATHS
    bias: float = 0.0
    window: Tensor | None = None  # (paths, k, k): the weights of a spatial gate, norm folded in
    dilation: int = 1  # the window takes every so many-th place
    weights: Tensor | None = None  # (C, hidden): the last layer of a channel gate's MLP
    weights_bias: Tensor | None = None  # (C,): its bias, which counts once for each path


class Gate(nn.Module):
    """A module whose output is a gate map: (N, C or 1, H or 1, W or 1).

    Its owner does with it what its kind's `use` says. Whoever cuts a network finds gates by this
    class.
    """

    kind: ClassVar[Kind]
    paths: tuple[str, ...] = ()  # what its answer is the sum of, such as "avg" and "max"

    def weighed(self, x: Tensor, weights: Tensor) -> Tensor:
        """Its map where each of its `paths` counts by its weight; 1 for all is its own map."""
        raise NotImplementedError("Only a gate with `paths` is asked for this.")

    def steps(self, *inputs: Tensor) -> Steps | None:
        """How it comes to its map, from what its `forward` takes; None if it does not say."""
        return None

    def dilate(self, factor: int) -> None:
        """See the same with features that are sampled `factor` times more densely.

        A gate that looks at single places or at all of them has nothing to do.
        """


def reduced(channels: int, reduction: int) -> int:
    """C / reduction rounded to a whole number, half upwards; at least 1.

    The paper does not say how it rounds. Rounding gives its 2.71 M parameters of MobileNet x0.7
    with SE (Table 5), where some channel counts are no multiples of 16; rounding down gives 2.70 M.
    """
    return max(1, int(channels / reduction + 0.5))


class ChannelGate(Gate):
    """Which channels matter: (N, C, H, W) -> map (N, C, 1, 1) in (0, 1).

    `sigmoid(MLP(avgpool x) + MLP(maxpool x))`, one MLP C -> C/reduction -> C shared by both
    (section 3, eq. 2). `pool` offers the ablation of the paper's Table 1; "avg" is SE's squeeze.
    """

    kind = Kind(
        "channel",
        "C",
        "what",
        "has one value per feature channel, shared by all places: it says which features to trust.",
    )

    def __init__(self, channels: int, reduction: int = 16, pool: ChannelPool = "both") -> None:
        super().__init__()
        if pool not in get_args(ChannelPool):
            raise UnknownName.of("channel pooling", pool, get_args(ChannelPool))
        self.pool = pool
        self.paths = ("avg", "max") if pool == "both" else ()
        hidden = reduced(channels, reduction)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels)
        )

    def pooled(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the MLP sees of features (N, C, H, W): one or two vectors (N, C)."""
        if self.pool == "avg":
            return (x.mean(dim=(2, 3)),)
        if self.pool == "max":
            return (x.amax(dim=(2, 3)),)
        mean, top = over_places(x)
        return mean, top

    def forward(self, x: Tensor) -> Tensor:
        first, *second = self.pooled(x)
        logits = self.mlp(first)
        for each in second:
            logits = logits + self.mlp(each)
        return torch.sigmoid(logits).unsqueeze(-1).unsqueeze(-1)  # (N, C, 1, 1)

    def weighed(self, x: Tensor, weights: Tensor) -> Tensor:
        average, maximum = map(self.mlp, self.pooled(x))
        logits = average * weights[0] + maximum * weights[1]
        return torch.sigmoid(logits).unsqueeze(-1).unsqueeze(-1)

    def steps(self, *inputs: Tensor) -> Steps:
        names = ("avg", "max") if self.pool == "both" else (self.pool,)
        first, relu, last = self.mlp
        assert isinstance(last, nn.Linear)
        paths: dict[str, Path] = {}
        for name, pooled in zip(names, self.pooled(*inputs), strict=True):
            hidden: Tensor = relu(first(pooled))
            logits: Tensor = last(hidden)
            paths[name] = Path(pooled[..., None, None], logits[..., None, None], hidden)
        return Steps(paths, weights=last.weight, weights_bias=last.bias)


class SpatialGate(Gate):
    """Where it matters: (N, C, H, W) -> map (N, 1, H, W) in (0, 1).

    `sigmoid(BN(conv_kxk([max over channels; mean over channels])))` (section 3, eq. 3), or with
    `squeeze="conv"` a learned 1x1 convolution in place of the pooling (Table 2, which needs the
    number of `channels`). The BatchNorm's weight starts at zero as in the authors' code: an
    untrained gate is 0.5 everywhere, on purpose.
    """

    kind = Kind(
        "spatial",
        "HW",
        "where",
        "has one value per place, shared by all channels: it says where the next layers should "
        "look.",
    )

    def __init__(
        self, kernel: int = 7, squeeze: SpatialSqueeze = "pool", channels: int | None = None
    ) -> None:
        super().__init__()
        if squeeze not in get_args(SpatialSqueeze):
            raise UnknownName.of("spatial squeeze", squeeze, get_args(SpatialSqueeze))
        if kernel % 2 == 0:
            raise UnknownName.of("spatial kernel", kernel, ("3", "7", "or another odd size"))
        self.squeeze: nn.Module | None = None
        if squeeze == "conv":
            if channels is None:
                raise ValueError("SpatialGate(squeeze='conv') needs channels=.")
            self.squeeze = nn.Conv2d(channels, 1, 1, bias=False)
        planes = 1 if squeeze == "conv" else 2
        self.paths = ("avg", "max") if squeeze == "pool" else ()
        self.conv = nn.Conv2d(planes, 1, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(1, momentum=0.01)
        nn.init.zeros_(self.bn.weight)

    def dilate(self, factor: int) -> None:
        """The window takes every `factor`-th place; its weights stay."""
        rows, columns = self.conv.kernel_size
        self.conv.dilation = (factor, factor)
        self.conv.padding = (factor * (rows // 2), factor * (columns // 2))

    def planes(self, x: Tensor) -> Tensor:
        """What the convolution sees of features (N, C, H, W): (N, 1 or 2, H, W)."""
        if self.squeeze is not None:
            squeezed: Tensor = self.squeeze(x)
            return squeezed
        pooled: Tensor = over_channels(x)
        return pooled

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.bn(self.conv(self.planes(x))))

    def weighed(self, x: Tensor, weights: Tensor) -> Tensor:
        """As for every gate: a plane of weight 0 is zero everywhere, as if it had seen nothing."""
        own = self.planes(x)  # [max, mean]
        planes = torch.cat((own[:, :1] * weights[1], own[:, 1:] * weights[0]), dim=1)
        return torch.sigmoid(self.bn(self.conv(planes)))

    def steps(self, *inputs: Tensor) -> Steps:
        planes = self.planes(*inputs)
        norm = self.bn
        assert norm.running_var is not None
        assert norm.running_mean is not None
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()  # (1,)
        window = self.conv.weight[0] * scale  # (planes, k, k)
        names = ("max", "avg") if self.squeeze is None else ("learned",)
        paths = {
            name: Path(plane, self._convolved(plane, weights))
            for name, plane, weights in zip(
                names, torch.split(planes, 1, dim=1), window, strict=True
            )
        }
        bias = float(norm.bias - norm.running_mean * scale)
        return Steps(paths, bias, window, self.conv.dilation[0])

    def _convolved(self, plane: Tensor, window: Tensor) -> Tensor:
        """A plane (N, 1, H, W) under a window (k, k), as the gate's own convolution does it."""
        padding, dilation = self.conv.padding, self.conv.dilation
        assert not isinstance(padding, str)
        return nn.functional.conv2d(plane, window[None, None], padding=padding, dilation=dilation)
