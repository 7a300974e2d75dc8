"""What the benchmark explains: photos by networks, ours and as the user of a peer has them."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from cbam.attention import ATTENTION, PLAIN
from cbam.backbones import build
from cbam.cards.card import Card
from cbam.cards.families import available
from cbam.explain.explainer import answer, answer_many
from cbam.explain.explanation import Explanation
from cbam.explain.question import DEFAULTS, Options, resolve
from cbam.images.preprocess import Preprocess
from cbam.model import Model, load


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

    @classmethod
    def of(cls, title: str, model: Model) -> "Subject":
        """With a copy of the model's network for the peers."""
        network = copy.deepcopy(model.network).to(memory_format=torch.contiguous_format)
        return cls(title, model, network.requires_grad_(True))

    def in_backend(self, name: str) -> "Subject":
        """Our model in another back end; the weights and the peers' network are shared."""
        return replace(self, model=Model(self.model.card, self.model.network, name))

    @property
    def channels_last(self) -> nn.Module:
        """For a peer in the memory format that our models have."""
        return copy.deepcopy(self.network).to(memory_format=torch.channels_last)

    def photos(self, count: int) -> list[Image.Image]:
        """Smooth random pictures, the same in every run. Nothing to resize: that is no part."""
        size = self.model.card.preprocess.size_px
        blobs = np.random.default_rng(0).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
        return [
            Image.fromarray(each).resize((size, size), Image.Resampling.BICUBIC) for each in blobs
        ]

    def tensor(self, photos: Sequence[Image.Image]) -> Tensor:
        """What the network takes: (N, 3, S, S). Every side makes it for itself."""
        return torch.stack([self.model.card.preprocess(photo) for photo in photos])

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
    return Subject.of(resnet50_title(plan), resnet50_model(plan))


def resnet50_title(plan: Plan) -> str:
    """As rows name it."""
    return "tiny ResNet-50" if plan.tiny else "ResNet-50"


def resnet50_model(plan: Plan) -> Model:
    """Ours alone: 224 pixels, a thousand classes."""
    torch.manual_seed(0)
    classes, width, size_px = (10, 8, 64) if plan.tiny else (1000, 64, 224)
    network = build("resnet50", num_classes=classes, width=width)
    card = Card(
        name="resnet50",
        family="benchmark",
        family_title="Networks with random weights",
        backbone="resnet50",
        attention=PLAIN,
        labels=tuple(f"class {index}" for index in range(classes)),
        preprocess=Preprocess(size_px),
        licence="MIT",
        data="none: random weights",
        recipe="none",
        weights_sha256="",
        storage="float32",
    )
    return Model(card, network)


def resnet18(plan: Plan, attention: str = PLAIN) -> Subject:
    """The bundled ResNet-18 with this attention; a tiny one if the plan says so."""
    if not plan.tiny:
        found = next(
            card
            for card in available().values()
            if card.backbone == "resnet18" and card.attention == attention
        )
        return Subject.of(_title("ResNet-18", attention), load(found.name))
    card = replace(resnet50_model(plan).card, name="resnet18", backbone="resnet18")
    torch.manual_seed(0)
    network = build("resnet18", attention=attention, num_classes=len(card.labels), width=8)
    return Subject.of(_title("tiny ResNet-18", attention), Model(card, network))


def _title(backbone: str, attention: str) -> str:
    title = ATTENTION[attention].title
    return f"{title}-{backbone}" if title else backbone


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
