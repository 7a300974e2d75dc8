"""Equally large photos: read from parquet files, and augmented a batch at a time."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from test_training import COLOURS
from test_training import recipe as squares
from torch import Tensor
from torchvision.transforms.v2 import functional

from cbam.errors import BadRecipe
from cbam.training import views as views_module
from cbam.training.data import InMemory, Stacked, training_photos
from cbam.training.loop import train
from cbam.training.recipe import Recipe
from cbam.training.views import jittered, random_views

CPU = torch.device("cpu")


def recipe(**changes: Any) -> Recipe:
    """The one of the other training tests, for small images."""
    small = {
        "backbone_options": {"width": 8, "stem": "small"},
        "phases": [{"image_size_px": 32, "epochs": 2}, {"image_size_px": 40, "epochs": 1}],
    }
    return squares(**{**small, **changes})


def write_parquet(path: Path, sides: list[int]) -> None:
    """Photos of one colour each, red and blue in turn."""
    rows: dict[str, list[object]] = {"name": [], "wnid": [], "webp": []}
    for number, side in enumerate(sides):
        folder = list(COLOURS)[number % 2]
        buffer = io.BytesIO()
        Image.new("RGB", (side, side), COLOURS[folder]).save(buffer, "WEBP", lossless=True)
        rows["name"].append(f"train/{folder}/{number}")
        rows["wnid"].append(folder)
        rows["webp"].append(buffer.getvalue())
    pq.write_table(pa.table(rows), path)


@pytest.fixture
def stacked(tmp_path: Path) -> Stacked:
    write_parquet(tmp_path / "train-0.parquet", [32] * 8)
    write_parquet(tmp_path / "train-1.parquet", [32] * 6)
    found = training_photos(tmp_path, list(COLOURS))
    assert isinstance(found, Stacked)
    return found


def test_all_parquet_files_of_a_folder_lie_in_one_tensor(stacked: Stacked) -> None:
    assert (stacked.photos.shape, stacked.photos.dtype) == ((14, 3, 32, 32), torch.uint8)
    assert stacked.targets.tolist() == [0, 1] * 7
    for photo, target in zip(stacked.photos, stacked.targets, strict=True):
        assert tuple(photo[:, 5, 5].tolist()) == list(COLOURS.values())[int(target)]


def test_a_folder_of_photos_stays_a_folder_of_photos(tmp_path: Path) -> None:
    (tmp_path / "n1").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "n1" / "0.png")
    assert isinstance(training_photos(tmp_path, ["n1"]), InMemory)


def test_other_classes_and_sizes_than_expected_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [32, 32])
    with pytest.raises(BadRecipe, match="class n2, which the recipe lacks"):
        Stacked([tmp_path / "train.parquet"], ["n1"])
    with pytest.raises(BadRecipe, match="No photos of the recipe's classes n3"):
        Stacked([tmp_path / "train.parquet"], ["n1", "n2", "n3"])
    write_parquet(tmp_path / "train.parquet", [32, 40])
    with pytest.raises(BadRecipe, match="train/n2/1 is not as large"):
        Stacked([tmp_path / "train.parquet"], ["n1", "n2"])


def epoch_of(stacked: Stacked, epoch: int, **place: int) -> list[tuple[Tensor, Tensor]]:
    return list(stacked.batches(recipe(), epoch, CPU, **place))


def test_every_epoch_has_its_size_and_whole_batches(stacked: Stacked) -> None:
    for epoch, size in enumerate((32, 32, 40)):
        found = epoch_of(stacked, epoch)
        assert [tuple(views.shape) for views, _ in found] == [(4, 3, size, size)] * 3


def test_views_keep_their_classes(stacked: Stacked) -> None:
    for views, targets in epoch_of(stacked, 0):
        expected = torch.tensor(list(COLOURS.values()))[targets]
        assert torch.equal(views[:, :, 7, 7].long(), expected)


def test_an_epoch_can_be_had_again_and_another_is_another(stacked: Stacked) -> None:
    stacked.photos = torch.randint(0, 256, (14, 3, 32, 32), dtype=torch.uint8)
    first, again, other = (epoch_of(stacked, epoch)[0][0] for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_two_processes_share_an_epoch(stacked: Stacked) -> None:
    stacked.targets = torch.arange(14)  # to see which photo is whose
    parts = [
        torch.cat([seen for _, seen in epoch_of(stacked, 0, rank=rank, processes=2)])
        for rank in (0, 1)
    ]
    assert len(parts[0]) == len(parts[1]) == 4  # as many steps for both: 14 photos, 2 x 4 a step
    assert len(set(torch.cat(parts).tolist())) == 8


def gradient(side: int = 64) -> Tensor:
    """(1, 3, side, side): red grows to the right, green downwards, 0 to 252."""
    steps = torch.arange(side, dtype=torch.uint8) * (252 // (side - 1))
    photo = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    photo[0, 0], photo[0, 1] = steps[None, :], steps[:, None]
    return photo


def test_crops_have_the_areas_and_aspects_asked_for() -> None:
    views = random_views(
        gradient().repeat(400, 1, 1, 1), 64, 0.25, 0.0, torch.Generator().manual_seed(0)
    ).float()
    # The colour range in a view says how much of the photo's width and height it shows.
    wide = (views[:, 0].amax((1, 2)) - views[:, 0].amin((1, 2))) / 252
    high = (views[:, 1].amax((1, 2)) - views[:, 1].amin((1, 2))) / 252
    area = wide * high
    assert 0.2 < area.min() < 0.3
    assert 0.9 < area.max() <= 1
    assert 0.7 < (wide / high).min() < 0.85
    assert 1.2 < (wide / high).max() < 1.4
    mirrored = views[:, 0, 0, 0] > views[:, 0, 0, -1]
    assert 0.4 < mirrored.float().mean() < 0.6


def test_a_crop_of_everything_is_the_photo_or_its_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views_module, "ASPECT", 0.0)  # square crops only
    photo = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    found = random_views(photo.repeat(16, 1, 1, 1), 32, 1.0, 0.0, torch.Generator().manual_seed(1))
    mirrored = [torch.equal(view, photo.flip(2)) for view in found]
    assert all(
        torch.equal(view, photo) or other for view, other in zip(found, mirrored, strict=True)
    )
    assert 0 < sum(mirrored) < 16


def test_a_view_of_half_the_size_is_the_mean_of_two_by_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views_module, "ASPECT", 0.0)
    photo = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    small = random_views(photo, 32, 1.0, 0.0, torch.Generator().manual_seed(1)).float()
    mean = torch.nn.functional.avg_pool2d(photo.float(), 2)
    assert min((small - each).abs().max() for each in (mean, mean.flip(3))) <= 0.51  # rounding


@pytest.mark.parametrize(
    ("factors", "theirs"),
    [
        ((1.3, 1.0, 1.0), lambda image: functional.adjust_brightness(image, 1.3)),
        ((1.0, 0.6, 1.0), lambda image: functional.adjust_contrast(image, 0.6)),
        ((1.0, 1.0, 1.4), lambda image: functional.adjust_saturation(image, 1.4)),
        ((1.0, 1.0, 1.0), lambda image: image),
    ],
    ids=["brightness", "contrast", "saturation", "nothing"],
)
def test_colours_are_jittered_as_torchvision_does(factors: tuple[float, ...], theirs: Any) -> None:
    photo = torch.from_numpy(np.random.default_rng(0).random((2, 3, 16, 16), np.float32))
    mine = jittered(photo * 255, *(torch.full((2, 1, 1, 1), factor) for factor in factors))
    torch.testing.assert_close(mine / 255, theirs(photo), atol=2e-3, rtol=0)


def test_a_family_learns_from_parquet_files(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [32] * 48)
    given = recipe(
        phases=[{"image_size_px": 32, "epochs": 5}],
        batch_size=16,
        learning_rate=0.02,
        crop_scale_min=0.5,
        label_smoothing=0.0,
    )
    photos = Stacked([tmp_path / "train.parquet"], list(COLOURS))
    trained = train(given, "cbam", photos, tmp_path / "run", workers=0)
    assert trained.accuracy > 0.9  # two plain colours
    assert trained.weights.is_file()
