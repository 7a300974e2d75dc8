"""Training networks that already see, with gates in them: photos, plans, the loop, the command."""

import io
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from carding import a_card
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

import cbam
from app.cli.main import app as command
from cbam.attention import ChannelGate
from cbam.attention.start import gates_in, liven
from cbam.cards.card import Card, write_card
from cbam.errors import BadData, BadRecipe, CannotInsert, MissingFile, NotAvailable, UnknownName
from cbam.images.preprocess import Preprocess
from cbam.trace.insert import insert
from cbam.training import attend as attend_module
from cbam.training.attend import attend
from cbam.training.bank import Bank
from cbam.training.curves import curves
from cbam.training.origin import begin, origin
from cbam.training.plan import Distil, Plan, read_attend_recipe
from cbam.training.recipe import recipe_values, refuse_to_overwrite

COLOURS = {"n1": (220, 40, 40), "n2": (40, 40, 220)}
SEEN = Preprocess(32)
TEACHER = Distil(backend="eager", teacher_size_px=48)
RECIPES = Path(cbam.__file__).parent.parent / "recipes"


def square(colour: tuple[int, int, int], width: int, height: int, seed: int) -> Image.Image:
    """A noisy photo with a square of this colour."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 160, (height, width, 3), dtype=np.uint8)
    top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
    pixels[top : top + height // 2, left : left + width // 2] = colour
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """<class>/<photo>.png: twelve photos of each colour, of several sizes."""
    root = tmp_path_factory.mktemp("photos")
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for number in range(12):
            photo = square(colour, 48 + 4 * number, 72 - 2 * number, number)
            photo.save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def photos(folder: Path) -> Bank:
    return Bank(folder, 48)


@pytest.fixture(scope="module")
def plain(photos: Bank) -> nn.Module:
    """A tiny network of random weights whose norms know the photos, as those of a trained one."""
    torch.manual_seed(0)
    network = cbam.build("resnet18", num_classes=2, width=8)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -0.3, 0.3)
            module.momentum = None  # the mean of all batches
    with torch.no_grad():
        for _ in range(10):
            network.train()(photos.sample(24, SEEN))
    return network.eval()


def plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "samples": 48, "batch_size": 4, "precision": "no", "reports": 2, "distil": TEACHER,
    }  # fmt: skip
    return Plan.model_validate({**values, **changes})


def members(plain: nn.Module, photos: Bank, start: Any = "lively") -> dict[str, nn.Module]:
    found = {}
    for attention in ("none", "cbam"):
        torch.manual_seed(1)
        sample = photos.sample(16, SEEN)
        found[attention] = insert(plain, attention, start=start, photos=sample)
    return found


def silent(line: str) -> None:
    """Nothing is said."""


# Photos.


def test_photos_of_any_sizes_lie_in_one_tensor_with_their_proportions(photos: Bank):
    assert (len(photos), photos.photos.shape) == (24, (24, 3, 48, 48))
    assert photos.photos.dtype == torch.uint8
    assert photos.aspects[0] == pytest.approx(48 / 72)  # the first one: 48 x 72
    assert photos.targets is None


def test_classes_are_kept_if_they_are_asked_for(folder: Path):
    found = Bank(folder, 32, ["n2", "n1"])
    assert found.targets is not None
    assert found.targets.tolist() == [1] * 12 + [0] * 12
    with pytest.raises(BadData, match=r"class 'n2', which the network does not know.*\[distil\]"):
        Bank(folder, 32, ["n1", "n3"])


def write_parquet(path: Path, columns: dict[str, list[Any]], count: int = 6) -> None:
    encoded = []
    for number in range(count):
        buffer = io.BytesIO()
        square(COLOURS["n1"], 60, 40 + number, number).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    pq.write_table(pa.table({**columns, "png": encoded}), path)


def test_parquet_files_need_neither_names_nor_classes(tmp_path: Path):
    write_parquet(tmp_path / "train-0.parquet", {})
    write_parquet(tmp_path / "train-1.parquet", {"wnid": ["n1"] * 6})
    found = Bank(tmp_path, 32)
    assert len(found) == 12
    assert found.aspects[:6].tolist() == pytest.approx([60 / (40 + n) for n in range(6)])
    assert Bank(tmp_path / "train-1.parquet", 32, ["n1"]).targets.tolist() == [0] * 6


def test_kept_photos_are_decoded_once(folder: Path, tmp_path: Path, monkeypatch: Any):
    first = Bank(folder, 32, kept=tmp_path)
    monkeypatch.delattr("cbam.training.bank.decode")
    again = Bank(folder, 32, kept=tmp_path)
    assert torch.equal(first.photos, again.photos)
    assert torch.equal(first.aspects, again.aspects)
    with pytest.raises(NameError):  # another size has to be decoded
        Bank(folder, 40, kept=tmp_path)


@pytest.mark.parametrize("kept", [False, True])
def test_a_photo_that_cannot_be_read_is_left_out_and_named(tmp_path: Path, kept: bool):
    folder = tmp_path / "photos"
    with pytest.raises(MissingFile, match="No photos in"):
        Bank(folder)
    folder.mkdir()
    (folder / "bad.png").write_bytes(b"no photo at all")
    with pytest.raises(BadData, match=r"bad\.png"):
        Bank(folder)
    square((0, 0, 0), 30, 20, 0).save(folder / "good.png")
    found = Bank(folder, 32, kept=tmp_path / "kept" if kept else None)
    assert (len(found), found.photos.shape[0]) == (1, 1)
    assert [each.name for each in found.unread] == [str(folder / "bad.png")]


def test_views_have_the_photos_proportions_again():
    """A disc in a wide photo is squeezed in the bank and round again in the central view."""
    y, x = np.mgrid[:60, :120]
    disc = ((x - 60) ** 2 + (y - 30) ** 2 < 20**2) * np.uint8(255)
    bank = Bank.__new__(Bank)
    wide = Image.fromarray(np.stack([disc] * 3, 2)).resize((60, 60))
    bank.photos = torch.from_numpy(np.asarray(wide).transpose(2, 0, 1).copy())[None]
    bank.aspects = torch.tensor([2.0])
    assert extent(bank.photos[0]) == pytest.approx((20, 40), abs=2)
    assert extent(bank.centres(torch.tensor([0]), 60)[0]) == pytest.approx((40, 40), abs=2)
    shapes = [
        extent(bank.views(torch.tensor([0]), 60, 0.9, 0.0, torch.Generator().manual_seed(n))[0])
        for n in range(20)
    ]
    # Crops are 3:4 to 4:3, cut to the photo; squeezed ones would be about 1:2.
    assert 0.7 < float(np.median([wide / high for wide, high in shapes])) < 1.5


def extent(photo: Tensor) -> tuple[int, int]:
    """Width and height of what is bright."""
    bright = photo[0] > 127
    return int(bright.any(0).sum()), int(bright.any(1).sum())


# The plan.


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "either samples or minutes"),
        ({"samples": 10, "minutes": 1}, "either samples or minutes"),
        ({"samples": 10, "train": "heads"}, "train"),
        ({"samples": 10, "distil": {"temperature": 0}}, "temperature"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused(changes: dict[str, Any], reason: str):
    with pytest.raises(ValueError, match=reason):
        Plan.model_validate(changes)


def test_the_rate_warms_up_and_falls_as_a_cosine():
    given = plan(warmup=0.1)
    assert given.rate(0.0) == pytest.approx(1e-3)
    assert given.rate(0.05) == pytest.approx(0.5, abs=0.01)
    assert given.rate(0.5) == pytest.approx(0.5)
    assert given.rate(1.0) == pytest.approx(0.0)


# The loop.


def states(trained: dict[str, nn.Module]) -> dict[str, Tensor]:
    return {
        f"{name} {key}": value
        for name, network in trained.items()
        for key, value in network.state_dict().items()
    }


class Killed(Exception):
    """Stands for whatever ends a training early."""


def kill_in_step(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    steps = itertools.count()
    usual = attend_module._Training._train

    def train(self: Any, rate: float) -> None:
        if next(steps) == number:
            raise Killed
        usual(self, rate)

    monkeypatch.setattr(attend_module._Training, "_train", train)


@pytest.mark.parametrize(
    "changes",
    [{}, {"train": "gates"}, {"ema_decay": 0.0, "checkpoint_minutes": 0.0}],
    ids=["all", "gates", "last"],
)
def test_a_resumed_training_ends_bit_by_bit_where_an_uninterrupted_one_does(
    plain: nn.Module,
    photos: Bank,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
):
    given = plan(**{"checkpoint_minutes": 1e-9, **changes})

    def trained(run: str) -> dict[str, nn.Module]:
        found = members(plain, photos)
        if given.train == "gates":
            del found["none"]
        attend(found, photos, given, tmp_path / run, plain, SEEN, say=silent)
        return found

    whole = trained("whole")
    with monkeypatch.context() as patch:
        kill_in_step(patch, 7)  # of 12, in the second epoch of five steps
        with pytest.raises(Killed):
            trained("resumed")
    torch.manual_seed(99)  # a new process draws other numbers
    resumed = trained("resumed")
    one, other = states(whole), states(resumed)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(other[name], value), name
    logs = [(tmp_path / run / "log.jsonl").read_text().splitlines() for run in ("whole", "resumed")]
    members_of = [[json.loads(line)["members"] for line in log] for log in logs]
    assert members_of[0] == members_of[1]


def test_a_training_goes_on_for_longer_but_not_as_another(
    plain: nn.Module, photos: Bank, tmp_path: Path
):
    found = members(plain, photos)
    attend(found, photos, plan(samples=8), tmp_path, plain, SEEN, say=silent)
    rows = attend(found, photos, plan(samples=16), tmp_path, plain, SEEN, say=silent)
    assert rows[-1]["photos"] == 16
    with pytest.raises(BadRecipe, match=r"other values of batch_size, members\."):
        attend(
            {"cbam": found["cbam"]}, photos, plan(batch_size=8), tmp_path, plain, SEEN, say=silent
        )


def test_the_students_come_nearer_to_their_teacher(plain: nn.Module, photos: Bank, tmp_path: Path):
    found = members(plain, photos)
    given = plan(
        samples=640, batch_size=16, learning_rate=0.02, held_out=4, reports=5, crop_scale_min=0.6
    )
    rows = attend(found, photos, given, tmp_path, plain, SEEN, say=silent)
    assert [row["photos"] for row in rows] == [0, 128, 256, 384, 512, 640]
    for name in found:
        assert rows[-1]["members"][name]["loss"] < 0.9 * rows[1]["members"][name]["loss"]
    last = rows[-1]["members"]
    assert last["cbam"].keys() == {
        "loss", "right", "right_at_mean", "spread_channel", "spread_spatial",
    }  # fmt: skip
    assert last["none"].keys() == {"loss", "right"}
    assert last["cbam"]["spread_channel"] > 0


def test_classes_are_learned_without_a_teacher(plain: nn.Module, folder: Path, tmp_path: Path):
    photos = Bank(folder, 48, list(COLOURS))
    found = {"cbam": insert(plain, start="lively", photos=photos.sample(24, SEEN))}
    given = plan(distil=None, samples=400, batch_size=8, learning_rate=0.05, ema_decay=0.8)
    attend(found, photos, given, tmp_path, preprocess=SEEN, say=silent)
    images = attend_module.normalise(photos.centres(torch.arange(24), 32), SEEN)
    with torch.no_grad():
        right = (found["cbam"](images).argmax(1) == photos.targets).float().mean()
    assert right > 0.8


def test_training_the_gates_alone_leaves_the_rest(plain: nn.Module, photos: Bank, tmp_path: Path):
    network = members(plain, photos)["cbam"]
    before = {key: value.clone() for key, value in network.state_dict().items()}
    attend({"cbam": network}, photos, plan(train="gates"), tmp_path, plain, SEEN, say=silent)
    changed = {key for key, value in network.state_dict().items() if (value != before[key]).any()}
    assert changed
    assert all(".attention." in key for key in changed)


def test_the_teacher_is_asked_once_a_batch_and_sees_the_same_crop_larger(
    plain: nn.Module, photos: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sizes: list[tuple[int, ...]] = []
    usual = attend_module.Cut.run_trunk

    def run(self: Any, images: Tensor) -> Any:
        sizes.append(tuple(images.shape))
        return usual(self, images)

    monkeypatch.setattr(attend_module.Cut, "run_trunk", run)
    given = plan(held_out=0)
    attend(members(plain, photos), photos, given, tmp_path, plain, SEEN, say=silent)
    assert sizes == [(4, 3, 48, 48)] * 12  # 12 steps, two members


def test_a_training_by_the_clock_ends_in_time(plain: nn.Module, photos: Bank, tmp_path: Path):
    seconds = itertools.count(0, 2)  # every look at the clock takes two seconds
    lines: list[str] = []
    given = plan(samples=None, minutes=1, held_out=4)
    rows = attend(
        members(plain, photos), photos, given, tmp_path, plain, SEEN,
        say=lines.append, clock=lambda: float(next(seconds)),
    )  # fmt: skip
    assert 60 <= rows[-1]["seconds"] < 70
    assert any("min left" in line for line in lines)
    assert "min left" not in lines[-1]
    assert lines[-1].startswith("10")  # per cent, or a step more


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"batch_size": 64}, "less than one batch of 64"),
        ({"distil": None}, r"no classes to learn.*\[distil\]"),
        ({"teacher": None}, "there is no teacher"),
        ({"teacher": 3}, "knows 3 classes and the network 2"),
        ({"train": "gates"}, "'none' has no gates"),
        ({"names": False}, "does not say which blocks"),
    ],
)
def test_what_does_not_go_together_is_refused(
    plain: nn.Module, photos: Bank, tmp_path: Path, options: dict[str, Any], reason: str
):
    found = members(plain, photos)
    if not options.pop("names", True):
        del vars(found["cbam"])["block_names"]
    teacher: Any = options.pop("teacher", plain)
    if teacher == 3:
        teacher = cbam.build("resnet18", num_classes=3, width=8)
    with pytest.raises(BadRecipe, match=reason):
        attend(found, photos, plan(**options), tmp_path, teacher, SEEN, say=silent)


def test_a_teacher_of_another_width_can_teach_answers_alone(
    plain: nn.Module, photos: Bank, tmp_path: Path
):
    wide = cbam.build("resnet18", num_classes=2, width=16).eval()
    found = {"cbam": insert(plain)}
    with pytest.raises(BadRecipe, match="128 channels and the network's 64.*features = 0"):
        attend(found, photos, plan(), tmp_path / "a", wide, SEEN, say=silent)
    answers = plan(distil=Distil(features=0, backend="eager"))
    assert attend(found, photos, answers, tmp_path / "b", wide, SEEN, say=silent)


def test_precision_is_the_faster_one_and_is_kept(
    plain: nn.Module, photos: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lines: list[str] = []
    monkeypatch.setattr(attend_module, "speeds", lambda step, size: {"bf16": 1.0, "no": 2.0})
    given = plan(precision="auto", samples=8)
    attend(members(plain, photos), photos, given, tmp_path, plain, SEEN, say=lines.append)
    assert "precision float32, the faster one here: bf16 1 photos/s" in lines[0]
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["precision"] == "no"


# What became of gates, in small.


def shift(features: Tensor, own: bool) -> float:
    """By how many deviations one step moves the hidden units of a lively gate, on average."""
    torch.manual_seed(0)
    attention, head = cbam.ATTENTION["se"].make(64), nn.Linear(64, 2)
    gate = next(gates_in(attention))
    assert isinstance(gate, ChannelGate)
    liven(gate, features, 0.3)
    optimiser = torch.optim.SGD(attention.parameters(), 0.01)
    rates = [0.01]
    if own:
        ((_, _), (optimiser, rates)) = attend_module._optimisers("", attention, plan())
    pooled = features.mean((2, 3))
    first = gate.mlp[0]
    before = first(pooled).detach()
    logits = head((attention(features) / features.std()).mean((2, 3)))
    nn.functional.cross_entropy(logits, torch.arange(len(features)) % 2).backward()
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate
    optimiser.step()
    return float(((first(pooled).detach() - before).mean(0).abs() / before.std(0)).mean())


def test_only_the_gates_own_steps_do_not_grow_with_what_the_gates_see():
    """At the trunk's rate a step moves a unit by the squared norm of its input: it goes out."""
    features = torch.randn(32, 64, 5, 5) + torch.randn(32, 64, 1, 1) + torch.randn(1, 64, 1, 1)
    ratio = {own: shift(30 * features, own) / shift(features, own) for own in (False, True)}
    assert ratio[False] > 500  # 30 squared is 900
    assert 0.5 < ratio[True] < 2


def test_gates_that_begin_still_can_learn(plain: nn.Module, photos: Bank, tmp_path: Path):
    """Their last layers are zero; a step relative to that size would be zero for ever."""
    network = insert(plain)
    attend({"cbam": network}, photos, plan(), tmp_path, plain, SEEN, say=silent)
    for gate in gates_in(network):
        assert all(p.abs().sum() > 0 for p in gate.parameters())


# Where networks come from.


@pytest.fixture
def card(plain: nn.Module, tmp_path: Path) -> Card:
    """The plain network as a model."""
    folder = tmp_path / "cards" / "resnet18-squares"
    made = a_card(
        name="resnet18-squares",
        family="squares",
        family_title="Squares",
        attention="none",
        labels=("red", "blue"),
        preprocess=SEEN,
        data="squares",
        folders=("n1", "n2"),
        backbone_options={"width": 8},
        folder=folder,
    )
    return write_card(made, plain.state_dict())


def test_a_start_is_a_model_or_a_file_of_its_weights(card: Card, plain: nn.Module, tmp_path: Path):
    of_card = origin(str(card.folder))
    assert (of_card.backbone, of_card.labels, of_card.folders) == (
        "resnet18", ("red", "blue"), ("n1", "n2"),
    )  # fmt: skip
    torch.save(plain.half().state_dict(), tmp_path / "weights.pt")
    save_file(plain.float().state_dict(), tmp_path / "weights.safetensors")
    for name in ("weights.pt", "weights.safetensors"):
        found = origin(str(tmp_path / name), like=str(card.folder))
        assert torch.equal(found.network.fc.weight, plain.fc.weight)
    with pytest.raises(BadRecipe, match="like ="):
        origin(str(tmp_path / "weights.pt"))
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    with pytest.raises(BadRecipe, match=r"broken\.pt do not fit"):
        origin(str(tmp_path / "broken.pt"), like=str(card.folder))


def test_a_start_that_is_unknown_or_has_gates_is_refused():
    with pytest.raises(UnknownName, match="resnet18-tiny-imagenet"):
        origin("resnet19")
    for name in ("alexnet", "wide_resnet18_x2.0", "mobilenet_x1.0"):
        with pytest.raises(UnknownName, match="torchvision:resnet18"):
            origin(f"torchvision:{name}")
    with pytest.raises(CannotInsert, match="has gates already"):
        origin("resnet18-cbam-tiny-imagenet")


def test_torchvisions_weights_are_taken_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    theirs = torchvision.models.resnet18(weights=None).eval()
    weights = torchvision.models.ResNet18_Weights.DEFAULT
    (tmp_path / "checkpoints").mkdir()
    torch.save(theirs.state_dict(), tmp_path / "checkpoints" / Path(weights.url).name)
    found = origin("torchvision:resnet18")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(found.network(images), theirs(images), atol=1e-5)
    assert (found.labels[0], found.preprocess.size_px) == ("tench", 224)
    assert found.preprocess.resize_ratio == pytest.approx(256 / 224)


def test_a_download_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def fail(*args: Any, **options: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    with pytest.raises(NotAvailable, match=r"resnet18 cannot be downloaded \(no network\)"):
        origin("torchvision:resnet18")


def attend_recipe(**start: Any) -> Any:
    values = {
        "family": "attended", "title": "Attended", "data": "squares", "licence": "MIT",
        "samples": 8, "start": {"network": "x", **start},
    }  # fmt: skip
    return read_attend_recipe(Path("squares.toml"), values)


def test_parts_begin_anew_alike_for_all_members(card: Card, photos: Bank):
    found = origin(str(card.folder))
    given = attend_recipe(insert=["none", "se", "cbam"], anew=["layer4"])
    networks = begin(given, found, photos)
    assert list(networks) == ["none", "se", "cbam"]
    for network in networks.values():
        assert torch.equal(network.layer3[0].conv1.weight, found.network.layer3[0].conv1.weight)
        assert not torch.equal(network.layer4[0].conv1.weight, found.network.layer4[0].conv1.weight)
        assert torch.equal(network.layer4[1].conv2.weight, networks["none"].layer4[1].conv2.weight)
    with pytest.raises(UnknownName, match="No part to begin anew 'stage9'"):
        begin(attend_recipe(anew=["stage9"]), found, photos)


# The command.

RECIPE = """
family = "attended"
title = "Squares, attended"
data = "coloured squares"
licence = "MIT"
samples = 16
batch_size = 4
photo_size_px = 32
precision = "no"
reports = 1

[start]
network = "CARD"
insert = ["none", "cbam"]

[distil]
backend = "eager"
"""


@pytest.fixture
def run_command(card: Card, folder: Path, tmp_path: Path) -> Callable[..., Any]:
    path = tmp_path / "attended.toml"
    path.write_text(RECIPE.replace("CARD", str(card.folder)), encoding="utf-8")

    def run(*options: str) -> Any:
        where = ["--runs", str(tmp_path / "runs"), "--models", str(tmp_path / "models")]
        arguments = ["train", str(path), "--data", str(folder), *where, *options]
        return CliRunner().invoke(command, arguments, catch_exceptions=True)

    return run


def test_the_command_makes_models_that_can_be_asked(run_command: Any, tmp_path: Path):
    done = run_command("--set", "batch_size=8", "--set", "start.start=exact")
    assert done.exit_code == 0, done.output
    assert "24 photos" in done.output
    plain, attended = (
        cbam.load(tmp_path / "models" / name)
        for name in ("resnet18-attended", "resnet18-cbam-attended")
    )
    assert (attended.card.attention, attended.card.recipe) == ("cbam", "attended.toml")
    found = cbam.compare([plain, attended], square(COLOURS["n1"], 60, 60, 0))
    assert len(found[1].attention) == 8
    ElementTree.fromstring((tmp_path / "runs" / "attended" / "curves.svg").read_text())
    kept = json.loads((tmp_path / "runs" / "attended" / "plan.json").read_text())
    assert (kept["batch_size"], kept["start"]["start"]) == (8, "exact")


def test_the_command_never_overwrites_another_model_silently(run_command: Any, tmp_path: Path):
    assert run_command("--attention", "cbam").exit_code == 0
    assert run_command("--attention", "cbam").exit_code == 0  # the same training may
    (tmp_path / "runs" / "attended" / "resnet18-cbam-attended" / "wrote.txt").unlink()
    weights = tmp_path / "models" / "resnet18-cbam-attended" / "weights.safetensors"
    before = weights.read_bytes()
    refused = run_command("--attention", "cbam")
    assert isinstance(refused.exception, BadRecipe)
    assert "--force" in str(refused.exception)
    assert weights.read_bytes() == before
    assert run_command("--attention", "cbam", "--force").exit_code == 0


def test_a_bundled_model_is_another_training_s(tmp_path: Path):
    bundled = cbam.available()["resnet18-tiny-imagenet"].folder
    with pytest.raises(BadRecipe, match="holds another model already"):
        refuse_to_overwrite(bundled, tmp_path)


def test_a_recipe_from_scratch_does_not_overwrite_either(tmp_path: Path, folder: Path):
    """The recipe of a bundled family, in a checkout, writes to `models` by default."""
    recipe, models = RECIPES / "tiny-imagenet.toml", cbam.available()["resnet18-tiny-imagenet"]
    where = ["--models", str(models.folder.parent), "--runs", str(tmp_path)]
    done = CliRunner().invoke(command, ["train", str(recipe), "--data", str(folder), *where])
    assert isinstance(done.exception, BadRecipe)
    assert "--force" in str(done.exception)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("batch_size", "KEY=VALUE"),
        ("family.name=x", "'family' is no section"),
        ("start.insert=magic", "no attention 'magic'"),
        ("minutes=3", "either samples or minutes"),
        ("distil.teacher=resnet19", "No model"),
    ],
)
def test_changes_that_do_not_work_are_refused(run_command: Any, change: str, reason: str):
    refused = run_command("--set", change)
    assert refused.exit_code != 0
    assert reason in str(refused.exception)


@pytest.mark.parametrize("name", ["attend-your-network", "imagenet"])
def test_the_projects_recipes_with_a_start_can_be_read(name: str):
    path = RECIPES / f"{name}.toml"
    found = read_attend_recipe(path, recipe_values(path))
    assert found.distil is not None
    assert found.distil.teacher == "before"


def test_curves_show_every_member_over_the_photos_seen():
    rows = [
        {
            "photos": 1000 * number,
            "members": {
                "none": {"right": 0.5 + 0.1 * number},
                "cbam": {"right": 0.4, "right_at_mean": 0.3, "spread_channel": 0.1 * number},
            },
        }
        for number in range(3)
    ]
    picture = ElementTree.fromstring(curves(rows))
    lines = picture.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 4  # two answers, one of them at mean too, and one spread
    assert all(len((line.get("points") or "").split()) == 3 for line in lines)
    words = "".join(picture.itertext())
    for word in ("none", "cbam, gates at mean", "cbam channel", "2k photos"):
        assert word in words
    assert ElementTree.fromstring(curves([])) is not None


def test_a_networks_preprocessing_is_that_of_its_start(card: Card):
    assert origin(str(card.folder)).preprocess == replace(SEEN)
