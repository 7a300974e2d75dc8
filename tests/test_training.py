"""Recipes and the training loop, on photos of coloured squares."""

import copy
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import cbam
from cbam.attention import ATTENTION
from cbam.errors import BadRecipe
from cbam.training import loop
from cbam.training.data import (
    InMemory,
    augmentation,
    batches,
    normalise,
    training_photos,
)
from cbam.training.recipe import Recipe, read_recipe, recipe_values, write_model

RECIPES = Path(cbam.__file__).parent.parent / "recipes"
COLOURS = {"n1": (220, 40, 40), "n2": (40, 40, 220)}


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "family": "squares",
        "title": "Squares",
        "labels": {"n1": "red square", "n2": "blue square"},
        "data": "coloured squares, drawn for the test",
        "licence": "MIT",
        "backbone_options": {"width": 8},
        "phases": [{"image_size_px": 32, "epochs": 2}, {"image_size_px": 48, "epochs": 1}],
        "batch_size": 4,
        "warmup_epochs": 1,
        "precision": "no",
    }
    return Recipe.model_validate({**values, **changes})


TOML = """
family = "squares"
title = "Squares"
data = "coloured squares"
licence = "MIT"
phases = [{ image_size_px = 32, epochs = 2 }, { image_size_px = 48, epochs = 1 }]
learning_rate = 0.1

[labels]
n1 = "red square"
n2 = "blue square"

[attention_options.cbam]
kernel = 3
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """<class>/<photo>.png: six noisy squares of each colour, 48 x 48."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for folder, colour in COLOURS.items():
        (root / folder).mkdir()
        for number in range(6):
            pixels = rng.integers(90, 160, (48, 48, 3), dtype=np.uint8)
            top, left = rng.integers(0, 24, 2)
            pixels[top : top + 24, left : left + 24] = colour
            Image.fromarray(pixels).save(root / folder / f"{number}.png")
    return root


@pytest.fixture
def dataset(photos: Path) -> InMemory:
    return InMemory(photos, list(COLOURS))


def test_a_recipe_holds_only_what_differs(tmp_path: Path):
    path = tmp_path / "squares.toml"
    path.write_text(TOML, encoding="utf-8")
    found = read_recipe(path)
    assert (found.learning_rate, found.momentum, found.backbone) == (0.1, 0.9, "resnet18")
    assert found.attention == ["none", "se", "cbam"]
    assert found.labels == {"n1": "red square", "n2": "blue square"}


def test_phases_give_each_epoch_its_size():
    found = recipe()
    assert found.epochs == 3
    assert [found.image_size_px(epoch) for epoch in range(3)] == [32, 32, 48]
    with pytest.raises(IndexError):
        found.image_size_px(3)


def test_finishes_have_their_sizes_after_the_phases():
    first, second = {"image_size_px": 64, "epochs": 2}, {"image_size_px": 40, "epochs": 1}
    found = recipe(finish=[first, second])
    assert (found.main_epochs, found.epochs) == (3, 6)
    assert [found.image_size_px(epoch) for epoch in range(6)] == [32, 32, 48, 64, 64, 40]
    with pytest.raises(IndexError):
        found.image_size_px(6)


def test_the_learning_rate_warms_up_linearly_and_falls_as_a_cosine():
    given = recipe(phases=[{"image_size_px": 32, "epochs": 10}], warmup_epochs=2)
    assert 0 < given.rate(0) < 0.01  # not zero: the first step counts
    assert given.rate(0.5) == pytest.approx(0.25)
    assert given.rate(1) == pytest.approx(0.5)
    assert given.rate(2) == pytest.approx(1)
    # a quarter of the way: (1 + cos 45 degrees) / 2; half: 1 / 2
    assert given.rate(4) == pytest.approx(0.5 + math.sqrt(0.5) / 2)
    assert given.rate(6) == pytest.approx(0.5)
    assert given.rate(10) == pytest.approx(0)
    assert given.rate(11) == pytest.approx(0)


def test_without_warm_up_the_learning_rate_begins_at_the_top():
    assert recipe(warmup_epochs=0).rate(0) == pytest.approx(1)


def test_every_finish_has_a_cosine_of_its_own():
    first = {"image_size_px": 64, "epochs": 4, "learning_rate": 0.02}
    second = {"image_size_px": 40, "epochs": 2, "learning_rate": 0.04}
    given = recipe(learning_rate=0.05, finish=[first, second])
    assert given.rate(2.999) == pytest.approx(0, abs=1e-3)
    assert given.rate(3) == pytest.approx(0.4)  # 0.02 of 0.05
    assert given.rate(5) == pytest.approx(0.2)
    assert given.rate(7) == pytest.approx(0.8)  # a warm restart at 0.04 of 0.05
    assert given.rate(8) == pytest.approx(0.4)
    assert given.rate(9) == pytest.approx(0)


def test_members_are_named_by_backbone_attention_and_family():
    names = [recipe().model_name(attention) for attention in ("none", "se", "cbam")]
    assert names == ["resnet18-squares", "resnet18-se-squares", "resnet18-cbam-squares"]


def test_members_differ_in_attention_only():
    found = recipe(attention_options={"cbam": {"kernel": 3}})
    common = {"num_classes": 2, "width": 8}
    assert found.build_options("none") == {"attention": "none", "attention_options": {}, **common}
    assert found.build_options("cbam") == {
        "attention": "cbam", "attention_options": {"kernel": 3}, **common,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('title = "Squares"', "", "title"),
        ('title = "Squares"', "title = ", "Invalid value"),
        ("learning_rate = 0.1", "learning_rat = 0.1", "learning_rat"),
        ("learning_rate = 0.1", 'optimizer = "sdg"', "optimizer"),
        ("learning_rate = 0.1", "label_smoothing = 1.0", "label_smoothing"),
        ("learning_rate = 0.1", 'precision = "fp8"', "precision"),
        ("learning_rate = 0.1", 'backbone = "resnet19"', "'resnet19'.*resnet18"),
        ("learning_rate = 0.1", 'attention = ["none", "magic"]', "'magic'.*cbam"),
        ("image_size_px = 32", "image_size_px = 31", "image_size_px"),
        ("epochs = 2", "epochs = 0", "epochs"),
        ("learning_rate = 0.1", "finish = [{ epochs = 2 }]", "finish.0.image_size_px"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused_with_the_reason(
    tmp_path: Path, old: str, new: str, reason: str
):
    assert old in TOML
    path = tmp_path / "squares.toml"
    path.write_text(TOML.replace(old, new), encoding="utf-8")
    with pytest.raises(BadRecipe, match=reason) as caught:
        read_recipe(path)
    assert "squares.toml" in str(caught.value)


def test_a_recipe_may_be_based_on_another(tmp_path: Path):
    (tmp_path / "small.toml").write_text(TOML)
    (tmp_path / "large.toml").write_text('base = "small.toml"\nbatch_size = 512\n')
    small, large = read_recipe(tmp_path / "small.toml"), read_recipe(tmp_path / "large.toml")
    assert large == small.model_copy(update={"batch_size": 512})
    (tmp_path / "lost.toml").write_text('base = "none.toml"\n')
    with pytest.raises(BadRecipe, match=r"none\.toml"):
        read_recipe(tmp_path / "lost.toml")


def test_a_missing_or_unreadable_recipe_is_refused(tmp_path: Path):
    with pytest.raises(BadRecipe, match=r"gone\.toml"):
        read_recipe(tmp_path / "gone.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(BadRecipe, match=r"binary\.toml"):
        read_recipe(tmp_path / "binary.toml")


OTHERS = {"start", "detector", "photo_px"}  # sections of other kinds of recipes
FROM_SCRATCH = [path for path in RECIPES.glob("*.toml") if not OTHERS & recipe_values(path).keys()]


@pytest.mark.parametrize("path", sorted(FROM_SCRATCH), ids=lambda path: path.stem)
def test_the_projects_recipes_can_be_read(path: Path):
    found = read_recipe(path)
    assert found.family == path.stem
    for attention in found.attention:
        with torch.device("meta"):
            cbam.build(found.backbone, **found.build_options(attention))


def test_a_trained_member_becomes_a_model_with_what_the_recipe_says(tmp_path: Path):
    from safetensors.torch import save_file

    given = recipe(attention_options={"cbam": {"kernel": 3}}, test_size_px=64, test_fit="stretch")
    network = cbam.build(given.backbone, **given.build_options("cbam"))
    save_file(network.state_dict(), tmp_path / "trained.safetensors")
    write_model(
        given, "cbam", tmp_path / "trained.safetensors", tmp_path / "models", "squares.toml"
    )
    model = cbam.load(tmp_path / "models" / "resnet18-cbam-squares")
    card = model.card
    assert (card.family, card.family_title, card.attention) == ("squares", "Squares", "cbam")
    assert (card.labels, card.folders) == (("red square", "blue square"), ("n1", "n2"))
    assert (card.preprocess.size_px, card.preprocess.fit) == (64, "stretch")
    assert (card.recipe, card.licence) == ("squares.toml", "MIT")
    assert model.network.get_submodule("layer1.0.attention.spatial.conv").kernel_size == (3, 3)
    # The small tensors are stored as they are.
    assert torch.equal(model.network.fc.weight, network.fc.weight)


def test_photos_are_held_as_bytes_with_the_recipes_classes(photos: Path):
    dataset = InMemory(photos, ["n2", "n1"])  # the recipe's order, not the alphabet's
    assert len(dataset) == 12
    assert dataset.targets == [1] * 6 + [0] * 6
    photo, target = dataset[0]
    assert (photo.shape, photo.dtype, target) == ((3, 48, 48), torch.uint8, 1)


def test_other_classes_than_the_recipes_are_refused(photos: Path, tmp_path: Path):
    with pytest.raises(BadRecipe, match="n1, n2.*n1, n3"):
        InMemory(photos, ["n1", "n3"])
    with pytest.raises(BadRecipe, match="<class>/<photo>"):
        InMemory(tmp_path / "gone", ["n1"])


def test_photos_are_normalised_by_hand():
    found = normalise(
        torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 3, 1, 1).repeat(1, 1, 4, 4),
        recipe(mean=(0.5, 0.25, 0.1), std=(0.25, 0.5, 0.2)),
    )
    expected = torch.tensor([2.0, -0.5, 0.5]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    torch.testing.assert_close(found, expected.clone(), check_stride=False)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_training_and_explaining_normalise_alike():
    from cbam.images.preprocess import Preprocess

    image = Image.effect_noise((32, 32), 80).convert("RGB")
    given = recipe()
    served = Preprocess(32, "stretch", given.mean, given.std)(image)
    trained = normalise(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None], given)
    torch.testing.assert_close(trained[0], served, atol=1e-5, rtol=1e-5, check_stride=False)


def test_augmentation_gives_the_epochs_size():
    photo = torch.zeros(3, 48, 48, dtype=torch.uint8)
    for jitter in (0.0, 0.4):
        for epoch, size in enumerate((32, 32, 48)):
            found = augmentation(recipe(colour_jitter=jitter), epoch)(photo)
            assert (found.shape, found.dtype) == ((3, size, size), torch.uint8)


def test_a_finish_has_its_own_crops_and_label_smoothing():
    milder = {"image_size_px": 64, "epochs": 1, "crop_scale_min": 0.5}
    sure = {"image_size_px": 64, "epochs": 1, "label_smoothing": 0.0}
    found = recipe(crop_scale_min=0.25, label_smoothing=0.2, finish=[milder, sure])
    assert [found.crop_scale(epoch) for epoch in range(5)] == [0.25, 0.25, 0.25, 0.5, 0.5]
    assert [found.smoothing(epoch) for epoch in range(5)] == [0.2, 0.2, 0.2, 0.2, 0.0]


def all_batches(dataset: InMemory, epoch: int, **changes: Any) -> list[torch.Tensor]:
    return [photos for photos, _ in batches(dataset, recipe(**changes), epoch, workers=0)]


def test_every_member_sees_the_same_batches_whatever_was_drawn_before(dataset: InMemory):
    found = []
    for number, attention in enumerate(ATTENTION):
        torch.manual_seed(number)
        cbam.build("resnet18", width=8, attention=attention)  # draws more or less, by attention
        found.append(all_batches(dataset, epoch=1))
    assert len(found[0]) == 3
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_another_epoch_or_seed_gives_other_batches(dataset: InMemory):
    first = all_batches(dataset, epoch=0)[0]
    assert not torch.equal(first, all_batches(dataset, epoch=1)[0])
    assert not torch.equal(first, all_batches(dataset, epoch=0, seed=1)[0])
    assert all_batches(dataset, epoch=2)[0].shape == (4, 3, 48, 48)


def test_an_incomplete_batch_is_left_out(dataset: InMemory):
    assert [len(batch) for batch in all_batches(dataset, 0, batch_size=5)] == [5, 5]


# The loop.


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_kernels_decay_and_biases_and_norms_do_not(optimizer: str):
    network = cbam.build("resnet18", width=8, attention="cbam")
    groups = loop._optimizer(recipe(optimizer=optimizer, weight_decay=0.01), network).param_groups
    assert [group["weight_decay"] for group in groups] == [0.01, 0.0]
    assert all(p.ndim > 1 for p in groups[0]["params"])
    assert all(p.ndim == 1 for p in groups[1]["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))


def weights(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


class Killed(Exception):
    """Stands for whatever ends a training early."""


def kill_after(monkeypatch: pytest.MonkeyPatch, photos: int) -> None:
    """Let the data set fail when this many photos were read."""
    read, usual = iter(range(photos)), InMemory.__getitem__

    def get(self: InMemory, index: int) -> Any:
        if next(read, None) is None:
            raise Killed
        return usual(self, index)

    monkeypatch.setattr(InMemory, "__getitem__", get)


# 18 photos: in the middle of the second epoch of 12; 40: of the fourth.
@pytest.mark.parametrize(
    ("changes", "photos_read"),
    [
        ({}, 18),
        ({"ema_decay": 0.0, "optimizer": "adamw"}, 18),
        ({"ema_decay": 0.9, "finish": [{"image_size_px": 40, "epochs": 2, "ema_decay": 0.5}]}, 40),
    ],
    ids=["averaged", "adamw", "finish"],
)
def test_a_resumed_training_ends_where_an_uninterrupted_one_does(
    dataset: InMemory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    photos_read: int,
):
    given = recipe(**changes)
    whole = loop.train(given, "cbam", dataset, tmp_path / "whole", workers=0)
    assert math.isfinite(whole.loss)
    assert 0 <= whole.accuracy <= 1

    with monkeypatch.context() as patch:
        kill_after(patch, photos_read)
        with pytest.raises(Killed):
            loop.train(given, "cbam", dataset, tmp_path / "resumed", workers=0)
    assert (tmp_path / "resumed" / "checkpoint.pt").exists()
    assert not (tmp_path / "resumed" / "weights.safetensors").exists()
    torch.manual_seed(99)  # a new process draws other numbers
    resumed = loop.train(given, "cbam", dataset, tmp_path / "resumed", workers=0)

    one, other = weights(whole.weights), weights(resumed.weights)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=1e-6, rtol=0)
    assert resumed.loss == pytest.approx(whole.loss, abs=1e-5)


def test_trained_weights_fit_the_network_and_learn_the_squares(dataset: InMemory, tmp_path: Path):
    given = recipe(
        phases=[{"image_size_px": 48, "epochs": 25}],
        batch_size=12,
        optimizer="adamw",
        learning_rate=0.005,
        ema_decay=0.7,
        crop_scale_min=0.8,
    )
    trained = loop.train(given, "none", dataset, tmp_path, workers=0)
    network = cbam.build("resnet18", **given.build_options("none"))
    network.load_state_dict(weights(trained.weights))
    network.eval()
    with torch.inference_mode():
        found = network(normalise(torch.stack(dataset.photos), given)).argmax(1)
    assert (found == torch.tensor(dataset.targets)).float().mean() >= 0.9
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_the_average_of_the_weights_is_left_and_not_the_last_ones(
    dataset: InMemory, tmp_path: Path
):
    averaged = loop.train(recipe(ema_decay=0.9), "none", dataset, tmp_path / "a", workers=0)
    last = loop.train(recipe(ema_decay=0.0), "none", dataset, tmp_path / "b", workers=0)
    one, other = weights(averaged.weights), weights(last.weights)
    assert averaged.loss == pytest.approx(last.loss)  # averaging does not disturb the training
    assert not torch.equal(one["fc.weight"], other["fc.weight"])
    state = torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)
    assert torch.equal(one["fc.weight"], state["average"]["module.fc.weight"])
    assert torch.equal(other["fc.weight"], state["network"]["fc.weight"])  # where both ended


def test_in_training_too_all_members_see_the_same_views(
    dataset: InMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: dict[str, list[torch.Tensor]] = {}
    usual = InMemory.__getitem__
    given = recipe(phases=[{"image_size_px": 32, "epochs": 1}])
    for attention in ("none", "se", "cbam"):
        views = seen.setdefault(attention, [])

        def get(self: InMemory, index: int, views: list[torch.Tensor] = views) -> Any:
            photo, target = usual(self, index)
            views.append(photo)
            return photo, target

        monkeypatch.setattr(InMemory, "__getitem__", get)
        loop.train(given, attention, dataset, tmp_path / attention, workers=0)
    assert len(seen["none"]) == 12
    for attention in ("se", "cbam"):
        pairs = zip(seen["none"], seen[attention], strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


def gradients(gates: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """The output, the gradient of the sum of its squares, and those of the parameters."""
    x = x.clone().requires_grad_()
    out = gates(x)
    out.float().square().sum().backward()
    assert x.grad is not None
    return out.detach(), x.grad, *(p.grad for p in gates.parameters() if p.grad is not None)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_compiled_gates_compute_in_float32(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    compiled: list[Any] = []

    def compiler(what: Any, **_: Any) -> Any:
        compiled.append(what)
        return what

    monkeypatch.setattr(torch, "compile", compiler)
    network = cbam.build("resnet18", width=8, attention="cbam")
    assert loop._compiled(network, network, torch.device(device)) is network
    assert compiled == ([network] if device == "cuda" else compiled[:8])
    assert compiled
    x = torch.randn(2, 8, 6, 6)
    gates = network.get_submodule("layer1.0.attention")
    with torch.autocast("cpu", torch.bfloat16):
        found = gates(x)
    assert torch.equal(found, type(gates).forward(gates, x))  # rounded to bf16 they would differ


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_gates_have_the_gradients_of_plain_ones() -> None:
    plain = nn.Sequential(ATTENTION["cbam"].make(32))
    nn.init.constant_(plain.get_submodule("0.spatial.bn").weight, 0.5)
    compiled = copy.deepcopy(plain)
    loop._compiled(compiled, compiled, torch.device("cpu"))
    x = torch.randn(4, 32, 12, 12).bfloat16().to(memory_format=torch.channels_last)
    expected = gradients(plain, x.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(compiled, x)
    for one, other in zip(found, expected, strict=True):
        atol = 0.01 * float(other.abs().max())
        torch.testing.assert_close(one.float(), other, rtol=0.02, atol=atol)


def test_a_finished_training_is_not_trained_again(
    dataset: InMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    given = recipe(phases=[{"image_size_px": 32, "epochs": 1}])
    before = weights(loop.train(given, "se", dataset, tmp_path, workers=0).weights)
    # The same seed would give the same weights again: what tells is that no photo is asked for.
    monkeypatch.delattr(loop, "_loader")
    after = weights(loop.train(given, "se", dataset, tmp_path, workers=0).weights)
    assert list(after) == list(before)
    assert all(torch.equal(before[name], after[name]) for name in before)


# ImageNet-1K: as the paper trained, and as one does today.


def test_the_papers_learning_rate_falls_to_a_tenth_every_thirty_epochs():
    found = read_recipe(RECIPES / "imagenet-paper.toml")
    rates = [found.learning_rate * found.rate(epoch) for epoch in (0, 29.9, 30, 59.9, 60, 89.9)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert (found.epochs, found.weight_decay, found.momentum) == (90, 1e-4, 0.9)
    assert (found.batch_of_all, found.nesterov, found.decay_norms) == (256, False, True)
    assert len(found.labels) == 1000


def test_a_batch_of_all_is_shared_by_the_processes():
    found = recipe(batch_of_all=256)
    assert [found.shared_by(count).batch_size for count in (1, 4, 8)] == [256, 64, 32]
    assert recipe(batch_size=4).shared_by(8).batch_size == 4  # without it, each has its own
    with pytest.raises(BadRecipe, match="256 photos a step cannot be shared by 3"):
        found.shared_by(3)


def test_norms_decay_and_steps_are_plain_only_if_the_recipe_says_so():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    ours = loop._optimizer(recipe(weight_decay=0.1), network)
    theirs = loop._optimizer(recipe(weight_decay=0.1, decay_norms=True, nesterov=False), network)
    assert [group["weight_decay"] for group in ours.param_groups] == [0.1, 0.0]
    assert [group["weight_decay"] for group in theirs.param_groups] == [0.1, 0.1]
    assert (ours.defaults["nesterov"], theirs.defaults["nesterov"]) == (True, False)


def test_photos_on_disk_are_those_in_memory(photos: Path):
    on_disk = training_photos(photos, list(COLOURS), in_memory=False)
    held = training_photos(photos, list(COLOURS))
    assert isinstance(held, InMemory)
    assert not isinstance(on_disk, InMemory)
    assert len(on_disk) == len(held) == 12
    for (one, target), (other, same) in zip(on_disk, held, strict=True):
        assert torch.equal(one, other)
        assert target == same


@pytest.mark.parametrize("name", ["imagenet-paper", "imagenet-modern"])
def test_the_recipes_for_imagenet_train_on_a_folder_of_photos(
    name: str, photos: Path, tmp_path: Path
):
    """The recipe as it is but for its size: two classes, one epoch, a thin network."""
    whole = read_recipe(RECIPES / f"{name}.toml")
    small = whole.model_copy(
        update={
            "labels": {"n1": "red square", "n2": "blue square"},
            "backbone": "resnet18",
            "backbone_options": {"width": 8},
            "phases": [whole.phases[0].model_copy(update={"epochs": 1, "image_size_px": 32})],
            "batch_of_all": 6,
            "precision": "no",
        }
    )
    data = training_photos(photos, list(small.labels), small.in_memory)
    assert not isinstance(data, InMemory)  # ImageNet is larger than memory
    trained = loop.train(small, "cbam", data, tmp_path / "run", workers=0)
    assert math.isfinite(trained.loss)
    card = write_model(small, "cbam", trained.weights, tmp_path / "models", f"{name}.toml")
    assert card.preprocess.resize_ratio == whole.test_resize_ratio == 1.143
