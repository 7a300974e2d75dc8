"""The paper's ablations at a small scale: the same recipe and data order for every variant.

A run is one variant with one seed. A study that was stopped goes on where it was. Needs the extra
`[train]`.
"""

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from cbam.backbones import build
from cbam.data.parquet import read_rows
from cbam.errors import BadData, UnknownName
from cbam.evaluate.mean_gates import logits_with_mean_gates
from cbam.training.ablation_study import VARIANTS, Ablation, Run, finished
from cbam.training.data import Stacked, normalise
from cbam.training.loop import train
from cbam.training.recipe import Recipe

BATCH = 100  # photos at once when a trained network is judged
TIMED_STEPS = 4


@dataclass(frozen=True, eq=False)
class Photos:
    """Training photos and test photos of the same classes."""

    training: Stacked
    test: Tensor  # uint8 (N, 3, S, S)
    targets: Tensor  # (N,)


def read_photos(recipe: Ablation, training: Path, test: Path) -> Photos:
    """The recipe's classes from two parquet files, every photo squashed to `photo_px` squared.

    Other classes are left out. Raises BadData for a class that has no photo.
    """
    return Photos(Stacked.of(*_squares(recipe, training)), *_squares(recipe, test))


def _squares(recipe: Ablation, source: Path) -> tuple[Tensor, Tensor]:
    index = {folder: position for position, folder in enumerate(recipe.labels)}
    size = (recipe.photo_px, recipe.photo_px)
    photos: list[Tensor] = []
    targets: list[int] = []
    for row in read_rows([source]):
        if row.folder in index:
            with Image.open(io.BytesIO(row.data)) as image:
                small = image.convert("RGB").resize(size, Image.Resampling.BICUBIC, reducing_gap=2)
            photos.append(torch.from_numpy(np.array(small)))
            targets.append(index[row.folder])
    missing = [folder for folder, position in index.items() if position not in targets]
    if missing:
        raise BadData(f"{source} has no photo of {', '.join(missing[:5])}.")
    return torch.stack(photos).permute(0, 3, 1, 2).contiguous(), torch.tensor(targets)


def digest(recipe: Ablation, photos: Photos) -> str:
    """Twelve characters that stand for everything that runs have in common."""
    words = {"seed", "seeds", "title", "data", "licence"}
    common = recipe.model_dump_json(exclude_defaults=True, exclude=words)
    data = f"{common} {tuple(photos.training.photos.shape)} {tuple(photos.test.shape)}"
    return hashlib.sha256(data.encode()).hexdigest()[:12]


def study(
    recipe: Ablation,
    photos: Photos,
    results: Path,
    folder: Path,
    variants: Sequence[str] = tuple(VARIANTS),
    say: Callable[[str], None] = print,
) -> list[Run]:
    """Do what is missing of all variants and seeds; all finished runs.

    Every variant is run with the first seed, then with the next, so that a study which is stopped
    is even. Appends each run to `results`; `folder` holds the checkpoints. Raises UnknownName.
    """
    for name in variants:
        if name not in VARIANTS:
            raise UnknownName.of("variant", name, VARIANTS)
    common = digest(recipe, photos)
    done = finished(results, common)
    known = {(run.variant, run.seed) for run in done}
    wanted = [(name, seed) for seed in range(recipe.seeds) for name in variants]
    missing = [each for each in wanted if each not in known]
    for number, (name, seed) in enumerate(missing, start=1):
        made = one_run(recipe, photos, name, seed, folder / f"{common}-{name}-{seed}")
        results.parent.mkdir(parents=True, exist_ok=True)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(made)) + "\n")
        done.append(made)
        left = (len(missing) - number) * made.seconds / 3600
        say(
            f"{number}/{len(missing)} {name}, seed {seed}: {made.accuracy:.3f} "
            f"({made.seconds:.0f} s; at this pace {left:.1f} h to go)"
        )
    return done


def recipe_of(recipe: Ablation, name: str, seed: int) -> Recipe:
    """The recipe of one run."""
    variant = VARIANTS[name]
    return recipe.model_copy(
        update={
            "seed": seed,
            "attention": [variant.attention],
            "attention_options": {variant.attention: dict(variant.options)},
        }
    )


def one_run(recipe: Ablation, photos: Photos, name: str, seed: int, folder: Path) -> Run:
    """Train one variant with one seed and judge it on the test photos."""
    started = time.perf_counter()
    plan, attention = recipe_of(recipe, name, seed), VARIANTS[name].attention
    trained = train(plan, attention, photos.training, folder, workers=0)
    network = build(plan.backbone, **plan.build_options(attention))
    network.load_state_dict(load_file(trained.weights))
    network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    batches = list(_batches(photos.test, plan))
    with torch.inference_mode():
        logits = torch.cat([network(batch) for batch in batches])
    held = logits_with_mean_gates(network, batches)
    return Run(
        recipe=digest(recipe, photos),
        variant=name,
        seed=seed,
        accuracy=_share_right(logits, photos.targets),
        held_accuracy=_share_right(held, photos.targets),
        training_loss=round(trained.loss, 4),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        test_photos=len(photos.targets),
        seconds=round(time.perf_counter() - started, 1),
    )


def _batches(photos: Tensor, recipe: Recipe) -> Iterator[Tensor]:
    """Whole photos as the network takes them: (N, 3, test_size_px, test_size_px)."""
    size = (recipe.test_size_px, recipe.test_size_px)
    for batch in torch.split(photos, BATCH):
        resized = torch.nn.functional.interpolate(
            batch.float(), size, mode="bilinear", antialias=True
        )
        yield normalise(resized, recipe)


def _share_right(logits: Tensor, targets: Tensor) -> float:
    return round(float((logits.argmax(1) == targets).float().mean()), 4)


def images_per_s(recipe: Ablation, name: str) -> float:
    """Training speed of a variant here, in photos per second: the fastest of TIMED_STEPS steps."""
    plan, attention = recipe_of(recipe, name, 0), VARIANTS[name].attention
    with torch.random.fork_rng():
        network = build(plan.backbone, **plan.build_options(attention)).train()
        side = plan.image_size_px(0)
        images = torch.randn(plan.batch_size, 3, side, side)
        targets = torch.randint(len(plan.labels), (plan.batch_size,))
    network = network.to(memory_format=torch.channels_last)
    images = images.to(memory_format=torch.channels_last)
    best = float("inf")
    for _ in range(TIMED_STEPS):
        started = time.perf_counter()
        torch.nn.functional.cross_entropy(network(images), targets).backward()  # type: ignore[no-untyped-call]
        best = min(best, time.perf_counter() - started)
    return plan.batch_size / best
