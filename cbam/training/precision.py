"""`precision = "auto"`: bfloat16 or float32, whichever trains faster on this device.

On a CPU without bfloat16 instructions, bfloat16 takes two to three times as long as float32.
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env
from torch import nn

from cbam.backbones import build
from cbam.training.data import normalise
from cbam.training.recipe import Recipe

Precision = Literal["bf16", "no"]  # as accelerate names them; "no" is float32
PRECISIONS: tuple[Precision, ...] = ("bf16", "no")
WARM_UP, STEPS = 1, 3  # untimed and timed training steps of each
LIMIT_S = 20  # after which no further step is timed, once one was


def chosen_precision(
    recipe: Recipe, attention: str, run: Path, before: Precision | None
) -> Precision:
    """The recipe's precision. If that is "auto", one for all members of the family.

    In this order: the one that the run's checkpoint had (`before`), the one in the file
    `<family>-precision.json` beside the run, or the fastest, measured now. The first member to be
    trained leaves that file for the others.
    """
    if recipe.precision != "auto":
        return recipe.precision
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    chosen: list[Precision] = ["no"]
    if state.is_main_process:
        chosen[0] = of_family(
            recipe.family,
            run,
            before,
            lambda: images_per_s(recipe, attention, state.device),
            state.print,
        )
    broadcast_object_list(chosen)  # all processes must compute alike
    return chosen[0]


def of_family(
    family: str,
    run: Path,
    before: Precision | None,
    measure: Callable[[], dict[Precision, float]],
    say: Callable[[str], None],
) -> Precision:
    """One precision for all members of a family, as `chosen_precision` says.

    `measure`: images a second in each.
    """
    shared = run.parent / f"{family}-precision.json"
    if before is None and shared.exists():
        kept: Precision = json.loads(shared.read_text(encoding="utf-8"))["precision"]
        say(f"{run.name}: precision {named(kept)}, as in {shared}")
        return kept
    if before is None:
        found = measure()
        chosen = max(PRECISIONS, key=lambda name: found[name])
        said = ", ".join(f"{named(name)} {speed:.0f} images/s" for name, speed in found.items())
        say(f"{run.name}: precision {named(chosen)}, the faster one here: {said}")
    else:
        found, chosen = {}, before
    if not shared.exists():
        shared.parent.mkdir(parents=True, exist_ok=True)
        kept_json = json.dumps({"precision": chosen, "images_per_s": found})
        shared.write_text(kept_json + "\n", encoding="utf-8")
    return chosen


def named(precision: Precision) -> str:
    return "float32" if precision == "no" else precision


def images_per_s(
    recipe: Recipe,
    attention: str,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Precision, float]:
    """Training speed in each precision: the recipe's network, batch and first image size.

    The fastest of STEPS steps counts. The precisions take turns, so that what else the machine does
    disturbs both. The network is one of its own, and random numbers go on as if it had not been.
    """
    side_px = recipe.image_size_px(0)
    with torch.random.fork_rng():
        network = build(recipe.backbone, **recipe.build_options(attention))
        network = network.to(device).to(memory_format=torch.channels_last).train()
        photos = torch.randint(256, (recipe.batch_size, 3, side_px, side_px), dtype=torch.uint8)
        targets = torch.randint(len(recipe.labels), (recipe.batch_size,))
    photos, targets = photos.to(device), targets.to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)

    def step(precision: Precision) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = network(normalise(photos, recipe))
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(logits.float(), targets))
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return speeds(step, recipe.batch_size, clock)


def speeds(
    step: Callable[[Precision], None],
    batch_size: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Precision, float]:
    """How many photos a second a training step takes in each precision."""
    best: dict[Precision, float] = dict.fromkeys(PRECISIONS, math.inf)
    began = clock()
    for number in range(WARM_UP + STEPS):
        if number > WARM_UP and clock() - began > LIMIT_S:
            break
        for precision in PRECISIONS:
            started = clock()
            step(precision)
            if number >= WARM_UP:
                best[precision] = min(best[precision], clock() - started)
    return {precision: batch_size / seconds for precision, seconds in best.items()}
