"""Where a training starts: a plain network that already sees, and what it needs to be a model."""

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cbam.attention import PLAIN
from cbam.backbones import BACKBONES, build
from cbam.cards.card import Card, load_network, write_card
from cbam.cards.int8 import STORAGE
from cbam.errors import BadRecipe, CannotInsert, NotAvailable, UnknownName
from cbam.images.preprocess import Preprocess
from cbam.model import find_card
from cbam.trace.insert import insert
from cbam.training.bank import Bank
from cbam.training.plan import AttendRecipe
from cbam.training.recipe import model_name
from cbam.zoo.wrap import preprocess_of

TORCHVISION = "torchvision:"
SEEN = 256  # photos from which gates take their lively start


@dataclass(frozen=True)
class Origin:
    """A plain network in eval mode, and how it is built and used."""

    network: nn.Module
    backbone: str
    backbone_options: dict[str, Any]
    labels: tuple[str, ...]
    folders: tuple[str, ...]
    preprocess: Preprocess

    @property
    def class_folders(self) -> tuple[str, ...]:
        """How data sets name each class, in class order."""
        return self.folders or self.labels


def origin(name: str, like: str = "") -> Origin:
    """The plain network of a model (its name or folder), of torchvision, or of a file of weights.

    `torchvision:resnet18` has torchvision's best weights, downloaded if they are not there yet. A
    file (safetensors, or a state dict of PyTorch) holds weights for the network of the model
    `like`. Raises UnknownName, BadRecipe for weights that do not fit or have gates, NotAvailable
    if a download fails.
    """
    if name.startswith(TORCHVISION):
        return _torchvision(name.removeprefix(TORCHVISION))
    if Path(name).is_file():
        if not like:
            raise BadRecipe(
                f"{name} holds weights, but not for what: name a model with such a network, "
                'like = "resnet50-imagenet", for example.'
            )
        return replace(_of_model(like), network=_from_file(Path(name), _card(like)))
    return _of_model(name)


def begin(recipe: AttendRecipe, found: Origin, photos: Bank) -> dict[str, nn.Module]:
    """The networks to be trained, by attention: `found` with gates in it, its `anew` parts fresh.

    All members have the same fresh weights, and their gates look at the same photos.
    """
    start, seed = recipe.start, recipe.seed
    size_px = recipe.image_size_px or found.preprocess.size_px
    torch.manual_seed(seed)
    plain = insert(found.network, PLAIN).requires_grad_(True)
    for name in start.anew:
        try:
            _renew(plain.get_submodule(name))
        except AttributeError as error:
            known = [path for path, _ in plain.named_children()]
            raise UnknownName.of("part to begin anew", name, known) from error
    sample = photos.sample(SEEN, replace(found.preprocess, size_px=size_px), seed)
    members = {}
    for attention in start.members:
        torch.manual_seed(seed)
        members[attention] = insert(
            plain,
            attention,
            start=start.start,
            photos=sample,
            spread=start.spread,
            **recipe.attention_options.get(attention, {}),
        )
    return members


def write_attended(
    recipe: AttendRecipe,
    found: Origin,
    attention: str,
    network: nn.Module,
    models: Path,
    recipe_name: str,
) -> Card:
    """A trained network as a model under `models`: its weights as int8, and its card."""
    name = model_name(found.backbone, attention, recipe.family)
    card = Card(
        name=name,
        family=recipe.family,
        family_title=recipe.title,
        backbone=found.backbone,
        attention=attention,
        labels=found.labels,
        folders=found.folders,
        preprocess=replace(
            found.preprocess, size_px=recipe.test_size_px or found.preprocess.size_px
        ),
        licence=recipe.licence,
        data=recipe.data,
        recipe=recipe_name,
        weights_sha256="",
        storage=STORAGE,
        backbone_options=found.backbone_options,
        attention_options=recipe.attention_options.get(attention, {}),
        folder=models / name,
    )
    return write_card(card, {key: each.cpu() for key, each in network.state_dict().items()})


def _renew(part: nn.Module) -> None:
    """Fresh weights, as a backbone's."""
    for module in part.modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _card(name: str) -> Card:
    card = find_card(name)
    if card.attention != PLAIN:
        raise CannotInsert(f"'{name}' has gates already; start from a plain model of its family.")
    return card


def _of_model(name: str) -> Origin:
    card = _card(name)
    return Origin(
        load_network(card),
        card.backbone,
        card.backbone_options,
        card.labels,
        card.folders,
        card.preprocess,
    )


def _from_file(path: Path, card: Card) -> nn.Module:
    network = card.network()
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict({key: _float32(value) for key, value in weights.items()})
    except (
        *(OSError, ValueError, RuntimeError, AttributeError),
        *(SafetensorError, UnpicklingError, EOFError, zipfile.BadZipFile),
    ) as error:
        raise BadRecipe(f"The weights in {path} do not fit '{card.name}': {error}") from error
    return network.eval()


def _float32(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def _torchvision(name: str) -> Origin:
    theirs = [each for each in BACKBONES if each in torchvision.models.list_models()]
    if name not in theirs:
        known = (f"{TORCHVISION}{each}" for each in theirs)
        raise UnknownName.of("network of torchvision that we can build", name, known)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    labels = tuple(weights.meta["categories"])
    network = build(name, num_classes=len(labels))
    try:
        network.load_state_dict(weights.get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError) as error:
        raise NotAvailable(
            f"The weights of torchvision's {name} cannot be downloaded ({error}). They are looked "
            f"for in {torch.hub.get_dir()}/checkpoints."
        ) from error
    return Origin(network.eval(), name, {}, labels, (), preprocess_of(weights.transforms()))
