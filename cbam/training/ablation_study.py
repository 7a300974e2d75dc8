"""An ablation but for its training: its recipe, what it compares, and what its runs came to.

Each finished run is one line of a JSON lines file.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from cbam.attention import PLAIN
from cbam.backbones import BACKBONES
from cbam.errors import BadRecipe, MissingFile
from cbam.training.recipe import Recipe, read_recipe, recipe_values


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


def read_ablation(path: Path) -> Ablation:
    """The recipe in a TOML file. Raises BadRecipe with the reason."""
    values = recipe_values(path)
    own = {key: values[key] for key in ("seeds", "photo_px") if key in values}
    common = read_recipe(path, {key: values[key] for key in values if key not in own})
    try:
        return Ablation.model_validate({**common.model_dump(exclude_unset=True), **own})
    except ValueError as error:
        raise BadRecipe(f"{path}: {error}") from error


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


@dataclass(frozen=True)
class Summary:
    """A variant's runs beside the plain network's with the same seeds."""

    variant: str
    runs: int
    mean: float  # accuracy
    spread: float  # standard deviation over seeds; 0 of one run
    difference: float  # to plain, the mean of the pairs; not a number without any
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


def table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The summary, a row a variant; None is what its runs cannot say."""
    rows: list[dict[str, Any]] = []
    for each in summarise(runs):
        variant = VARIANTS[each.variant]
        compared = each.variant != "plain" and not math.isnan(each.difference)
        paired = compared and math.isfinite(each.low)
        rows.append(
            {
                "variant": each.variant,
                "title": variant.title,
                "attention": variant.attention,
                "parameters": next(r.parameters for r in runs if r.variant == each.variant),
                "runs": each.runs,
                "accuracy": each.mean,
                "spread": each.spread if each.runs > 1 else None,
                "difference": each.difference if compared else None,
                "interval": [each.low, each.high] if paired else None,
                "p": each.p if paired else None,
                "held": None if variant.attention == PLAIN else each.held,
                "paper": variant.paper,
                "beyond_noise": paired and each.beyond_noise,
            }
        )
    return rows


def as_json(plan: Ablation, runs: Sequence[Run], command: str) -> dict[str, Any]:
    """The table with its verdict and its scale, for whoever shows it; `command` prints the same."""
    return {
        "command": command,
        "title": plan.title,
        "data": plan.data,
        "backbone": plan.backbone,
        "network": BACKBONES[plan.backbone].title,
        "backbone_options": plan.backbone_options,
        "classes": len(plan.labels),
        "image_size_px": plan.test_size_px,
        "epochs": plan.epochs,
        "seeds": plan.seeds,
        "runs": len(runs),
        "test_photos": runs[-1].test_photos,
        "rows": table(runs),
        "verdict": verdict(runs),
    }


def as_markdown(runs: Sequence[Run]) -> str:
    """The summary as a table beside the paper's errors."""
    lines = [
        "| variant | parameters | runs | accuracy | spread | minus plain (95 % interval) | p "
        "| gates held at their means | paper's top-1 error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table(runs):
        lines.append(
            f"| {row['title']} | {row['parameters']:,} | {row['runs']} | {row['accuracy']:.1%} "
            f"| {_shown(row['spread'], '.1f')} | {_difference(row)} "
            f"| {'' if row['p'] is None else format(row['p'], '.2f')} "
            f"| {_shown(row['held'], '+.1f')} | {row['paper']} |"
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


def _shown(value: float | None, style: str) -> str:
    """A share as points; empty if there is none."""
    return "" if value is None else format(100 * value, style)


def _difference(row: Mapping[str, Any]) -> str:
    """A row's difference from plain in points, with its interval if there is one."""
    if row["interval"] is None:
        return _shown(row["difference"], "+.1f")
    low, high = (_shown(each, "+.1f") for each in row["interval"])
    return f"{_shown(row['difference'], '+.1f')} ({low} to {high})"
