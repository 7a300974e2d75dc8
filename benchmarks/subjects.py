"""What the benchmark explains: photos by networks, ours and as the user of a peer has them."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from cbam.attention import PLAIN
from cbam.backends.choose import EAGER
from cbam.cards.card import Card
from cbam.explain.explainer import answer, answer_many
from cbam.explain.explanation import Explanation
from cbam.explain.question import DEFAULTS, Options, resolve
from cbam.images.preprocess import Preprocess
from cbam.model import Model

# The sides of every comparison.
OURS, FORWARD, AS_BUILT = "ours", "forward", "forward, network as built"
OURS_OV, FORWARD_OV = "ours, OpenVINO", "forward, OpenVINO"

Maps = NDArray[np.float32]  # (N, h, w) or (N, H, W), whatever a peer makes
Explain = Callable[[nn.Module, nn.Module, Tensor, Sequence[int]], Maps]


@dataclass(frozen=True)
class Plan:
    """How much is measured. The defaults take some minutes on two CPUs."""

    rounds: int = 15
    limit_s: float = 12  # for one race; it runs at least timing.MIN_ROUNDS
    tiny: bool = False  # tiny networks: the table's form, not its numbers
    full: bool = False  # what takes minutes for a single number, too
    batch: int = 8
    clients: tuple[int, ...] = (1, 4, 16)
    requests: int = 48  # a round of the service's load, at least 2 a client
    service_rounds: int = 5
    memory_rounds: int = 2

    @classmethod
    def quick(cls) -> "Plan":
        """A smoke run."""
        return cls(
            rounds=2,
            limit_s=1,
            tiny=True,
            batch=2,
            clients=(1, 2),
            requests=4,
            service_rounds=1,
            memory_rounds=1,
        )


@dataclass(frozen=True)
class Subject:
    """A network twice, ours and as a peer's user has it, with photos of its input's size."""

    title: str
    model: Model
    network: nn.Module  # the same weights as built: trainable, in torch's default memory format
    memory_format: torch.memory_format = torch.contiguous_format  # of that network

    @classmethod
    def of(cls, title: str, model: Model) -> "Subject":
        """With a copy of the model's network for the peers."""
        network = copy.deepcopy(model.network).to(memory_format=torch.contiguous_format)
        return cls(title, model, network.requires_grad_(True))

    def in_backend(self, name: str) -> "Subject":
        """Our model in another back end; the weights and the peers' network are shared."""
        return replace(self, model=Model(self.model.card, self.model.network, name))

    def in_channels_last(self) -> "Subject":
        """The peers' network in the memory format that our models have."""
        network = copy.deepcopy(self.network).to(memory_format=torch.channels_last)
        return replace(self, network=network, memory_format=torch.channels_last)

    def photos(self, count: int) -> list[Image.Image]:
        """Smooth random pictures, the same in every run. Nothing to resize: that is no part."""
        size = self.model.card.preprocess.size_px
        blobs = np.random.default_rng(0).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
        return [
            Image.fromarray(each).resize((size, size), Image.Resampling.BICUBIC) for each in blobs
        ]

    def tensor(self, photos: Sequence[Image.Image]) -> Tensor:
        """What the peers' network takes: (N, 3, S, S). Every side makes it for itself."""
        images = torch.stack([self.model.card.preprocess(photo) for photo in photos])
        return images.to(memory_format=self.memory_format)

    def as_built(self, photos: Sequence[Image.Image]) -> Tensor:
        """What somebody pays who only wants the logits: the network itself, no gradients."""
        with torch.inference_mode():
            logits: Tensor = self.network(self.tensor(photos))
            return logits

    def by_peer(
        self,
        explain: Explain,
        photos: Sequence[Image.Image],
        classes: Sequence[int],
        layer: str | None = None,
    ) -> Maps:
        """A peer's maps, by default of the last layer."""
        module = self.network.get_submodule(layer or self.model.layers[-1])
        return explain(self.network, module, self.tensor(photos), classes)

    def forward(self, photos: Sequence[Image.Image]) -> Tensor:
        """The plain forward pass of the trunk and head that `explain` runs: logits."""
        cut = self.model.cut()
        images = self.tensor(photos).to(memory_format=torch.channels_last)
        activation, _ = cut.run_trunk(images)
        with torch.inference_mode():
            logits: Tensor = cut.run_head(activation)[0]
            return logits

    def explained(
        self, photos: Sequence[Image.Image], options: Options = DEFAULTS
    ) -> list[Explanation]:
        """Our answer on each photo."""
        question = resolve([self.model], options)
        if len(photos) == 1:
            return answer(question, photos[0])
        found: list[Explanation] = []
        for each in answer_many([(question, photo) for photo in photos]):
            if isinstance(each, Exception):
                raise each
            found += each
        return found


def resnet50(plan: Plan) -> Subject:
    """ResNet-50 with random weights; its size is what matters."""
    model = random_model(random_card(plan, "resnet50"))
    return Subject.of(title_of(plan, model.card), model)


def title_of(plan: Plan, card: Card) -> str:
    """As rows name it."""
    return "tiny " * plan.tiny + card.title


def random_model(card: Card, backend: str = EAGER) -> Model:
    """Ours alone, with random weights, which it holds once, as a loaded one does."""
    return Model(card, random_network(card), backend, own=True)


def random_network(card: Card) -> nn.Module:
    """As built, with the weights of `random_model`."""
    torch.manual_seed(0)
    return card.network()


def random_card(plan: Plan, backbone: str, attention: str = PLAIN) -> Card:
    """A network for 224 pixels and a thousand classes; a tiny one if the plan says so."""
    classes, width, size_px = (10, 8, 64) if plan.tiny else (1000, 64, 224)
    return Card(
        name=backbone,
        family="benchmark",
        family_title="Networks with random weights",
        backbone=backbone,
        attention=attention,
        labels=tuple(f"class {index}" for index in range(classes)),
        preprocess=Preprocess(size_px),
        licence="MIT",
        data="none: random weights",
        recipe="none",
        weights_sha256="",
        storage="float32",
        backbone_options={"width": width},
    )


def resnet18(plan: Plan, attention: str = PLAIN) -> Subject:
    """ResNet-18 with this attention and random weights; its size is what matters."""
    model = random_model(random_card(plan, "resnet18", attention))
    return Subject.of(title_of(plan, model.card), model)


def difference(ours: Sequence[Explanation], theirs: object) -> float:
    """Largest difference between our maps and a peer's (N, h, w), both scaled to [0, 1].

    A peer that enlarges its maps to the image is compared at that size.
    """
    other = torch.as_tensor(np.asarray(theirs, dtype=np.float32))
    mine = _scaled(torch.from_numpy(np.stack([each.heatmap for each in ours])))
    if mine.shape[1:] != other.shape[1:]:
        enlarged = F.interpolate(mine[:, None], list(other.shape[1:]), mode="bilinear")
        mine = _scaled(enlarged[:, 0])
    return float((mine - _scaled(other)).abs().max())


def _scaled(maps: Tensor) -> Tensor:
    """(N, h, w) -> each in [0, 1]."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low + 1e-7)
