"""The paper's ablations at a small scale: the same recipe and data order for every variant.

A run is one variant with one seed. Each finished run is one line of a JSON lines file, so that a
study that was stopped goes on where it was. Needs the extra `[train]`.
"""

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor

from cbam.attention import PLAIN
from cbam.backbones import build
from cbam.data.parquet import read_rows
from cbam.errors import BadData, BadRecipe, MissingFile, UnknownName
from cbam.evaluate.mean_gates import logits_with_mean_gates
from cbam.training.data import Stacked, normalise
from cbam.training.loop import train
from cbam.training.recipe import Recipe, read_recipe, recipe_values

BATCH = 100  # photos at once when a trained network is judged
TIMED_STEPS = 4


class Ablation(Recipe):
    """A recipe with what an ablation needs beyond it. `attention` and `seed` are not used."""

    attention: list[str] = []
    seeds: int = Field(3, ge=1)  # runs of each variant
    photo_px: int = Field(40, ge=32)  # photos are squashed to squares of this side first


@dataclass(frozen=True)
class Variant:
    """A network to be compared, and how it did in the paper."""

    title: str
    attention: str  # a name in ATTENTION
    options: Mapping[str, Any] = field(default_factory=dict)
    paper: str = ""  # top-1 error of ResNet-50 in percent, and its table


CHANNEL: dict[str, Any] = {"gates": "channel"}
VARIANTS: dict[str, Variant] = {
    "plain": Variant("plain", PLAIN, {}, "24.56 (Table 1)"),
    "se": Variant("SE", "se", {}, "23.14 (Table 1)"),
    # The same network as SE, weight by weight: equal numbers show that a run can be repeated.
    "channel-avg": Variant("channel, avg", "cbam", {**CHANNEL, "pool": "avg"}, "23.14 (Table 1)"),
    "channel-max": Variant("channel, max", "cbam", {**CHANNEL, "pool": "max"}, "23.20 (Table 1)"),
    "channel-both": Variant("channel, avg & max", "cbam", CHANNEL, "22.80 (Table 1)"),
    "spatial-k3": Variant("+ spatial, k=3", "cbam", {"kernel": 3}, "22.68 (Table 2)"),
    # "+ spatial, k=7" is CBAM itself, the last of the paper's.
    "squeeze-conv": Variant("+ spatial, 1x1 conv", "cbam", {"squeeze": "conv"}, "22.90 (Table 2)"),
    "spatial-first": Variant(
        "spatial, then channel", "cbam", {"order": "spatial-first"}, "22.78 (Table 3)"
    ),
    "parallel": Variant("in parallel", "cbam", {"order": "parallel"}, "22.95 (Table 3)"),
    "cbam": Variant("CBAM (+ spatial, k=7)", "cbam", {}, "22.66 (Tables 2, 3)"),
    "eca": Variant("ECA", "eca"),
    "bam": Variant("BAM", "bam"),
    "simam": Variant("SimAM", "simam"),
    "gc": Variant("GC", "gc"),
    "coord": Variant("CoordAtt", "coord"),
}


@dataclass(frozen=True)
class Run:
    """What one run left: a line of the results."""

    recipe: str  # digest of recipe and data: runs of another one are not compared
    variant: str
    seed: int
    accuracy: float  # of the test photos, in [0, 1]
    held_accuracy: float  # the same with every gate held at its mean over the test photos
    training_loss: float  # of the last epoch
    parameters: int
    test_photos: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Photos:
    """Training photos and test photos of the same classes."""

    training: Stacked
    test: Tensor  # uint8 (N, 3, S, S)
    targets: Tensor  # (N,)


def read_ablation(path: Path) -> Ablation:
    """The recipe in a TOML file. Raises BadRecipe with the reason."""
    values = recipe_values(path)
    own = {key: values[key] for key in ("seeds", "photo_px") if key in values}
    common = read_recipe(path, {key: values[key] for key in values if key not in own})
    try:
        return Ablation.model_validate({**common.model_dump(exclude_unset=True), **own})
    except ValueError as error:
        raise BadRecipe(f"{path}: {error}") from error


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


def finished(results: Path, common: str) -> list[Run]:
    """The runs in a JSON lines file that have this digest; none if there is no file."""
    return [run for run in _read(results) if run.recipe == common]


def latest(results: Path) -> list[Run]:
    """The runs in a JSON lines file that belong to its last one. Raises MissingFile without any."""
    runs = _read(results)
    if not runs:
        raise MissingFile(f"There are no finished runs in {results}.")
    return [run for run in runs if run.recipe == runs[-1].recipe]


def _read(results: Path) -> list[Run]:
    if not results.is_file():
        return []
    lines = results.read_text(encoding="utf-8").splitlines()
    return [Run(**json.loads(line)) for line in lines if line.strip()]


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


@dataclass(frozen=True)
class Summary:
    """A variant's runs beside the plain network's with the same seeds."""

    variant: str
    runs: int
    mean: float  # accuracy
    spread: float  # standard deviation over seeds; 0 of one run
    difference: float  # to plain, the mean of the pairs
    low: float  # its 95 % interval: paired t test over seeds
    high: float
    p: float  # of the same test; 1 where there are fewer than two pairs
    held: float  # mean change of accuracy when the gates are held at their means

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def summarise(runs: Sequence[Run]) -> list[Summary]:
    """Each variant that has runs, in the order of VARIANTS."""
    plain = {run.seed: run.accuracy for run in runs if run.variant == "plain"}
    found: list[Summary] = []
    for name in VARIANTS:
        mine = [run for run in runs if run.variant == name]
        if not mine:
            continue
        accuracies = np.array([run.accuracy for run in mine])
        pairs = np.array([run.accuracy - plain[run.seed] for run in mine if run.seed in plain])
        difference, low, high, p = _paired_t(pairs)
        found.append(
            Summary(
                variant=name,
                runs=len(mine),
                mean=float(accuracies.mean()),
                spread=float(accuracies.std(ddof=1)) if len(mine) > 1 else 0.0,
                difference=difference,
                low=low,
                high=high,
                p=p,
                held=float(np.mean([run.held_accuracy - run.accuracy for run in mine])),
            )
        )
    return found


def _paired_t(pairs: "np.ndarray[Any, Any]") -> tuple[float, float, float, float]:
    """Mean of paired differences, its 95 % interval, and p: Student's t with n - 1 degrees."""
    from scipy import stats  # comes with the grad-cam package

    count = len(pairs)
    mean = float(pairs.mean()) if count else float("nan")
    if count < 2:
        return mean, float("-inf"), float("inf"), 1.0
    error = float(pairs.std(ddof=1)) / count**0.5
    if error == 0:
        return mean, mean, mean, 0.0 if mean else 1.0
    half = float(stats.t.ppf(0.975, count - 1)) * error
    return mean, mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, count - 1))


def as_markdown(runs: Sequence[Run]) -> str:
    """The summary as a table beside the paper's errors."""
    lines = [
        "| variant | parameters | runs | accuracy | spread | minus plain (95 % interval) | p "
        "| gates held at their means | paper's top-1 error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for each in summarise(runs):
        variant = VARIANTS[each.variant]
        parameters = next(run.parameters for run in runs if run.variant == each.variant)
        lines.append(
            f"| {variant.title} | {parameters:,} | {each.runs} | {each.mean:.1%} "
            f"| {f'{100 * each.spread:.1f}' if each.runs > 1 else ''} | {_difference(each)} "
            f"| {'' if each.variant == 'plain' or each.runs < 2 else f'{each.p:.2f}'} "
            f"| {'' if variant.attention == PLAIN else f'{100 * each.held:+.1f}'} "
            f"| {variant.paper} |"
        )
    return "\n".join(lines) + "\n"


def verdict(runs: Sequence[Run]) -> str:
    """One sentence: which variants differ from plain by more than noise."""
    summaries = [each for each in summarise(runs) if each.variant != "plain"]
    names = [VARIANTS[each.variant].title for each in summaries if each.beyond_noise]
    if not names:
        return "No variant differs from the plain network beyond noise."
    chance = 0.05 * len(summaries)
    return (
        f"Beyond noise differ from the plain network: {', '.join(names)}. Among {len(summaries)} "
        f"comparisons at this level, chance alone gives {chance:.1f} on average."
    )


def _difference(each: Summary) -> str:
    if each.variant == "plain" or each.difference != each.difference:
        return ""
    if each.runs < 2:
        return f"{100 * each.difference:+.1f}"
    low, high = 100 * each.low, 100 * each.high
    return f"{100 * each.difference:+.1f} ({low:+.1f} to {high:+.1f})"
