"""D-RISE: where a box came from, asked from outside, by hiding parts of the photo at random.

Petsiuk et al., "Black-box Explanation of Object Detectors via Saliency Maps", CVPR 2021,
https://arxiv.org/abs/2006.03204; its masks are RISE's, Petsiuk, Das, Saenko, BMVC 2018,
https://arxiv.org/abs/1806.07421. It needs no gradient, sees two-stage detectors as a whole, and
takes a pass of the network for every mask: thousands, so the work comes in slices.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import box_iou

from cbam.detectors import DetectorNetwork, Found
from cbam.errors import BadOption, OptionClash, TooSlow
from cbam.explain.detection import (
    BOX_METHODS,
    Detected,
    Detecting,
    DetectOptions,
    box_map,
    check_label,
    check_names,
    chosen_boxes,
    in_photo,
)
from cbam.slices import Done, Work, next_slice, part

NAME = "d-rise"
SIDE = 56  # cells of a map's longer side: the masks are much coarser


@dataclass(frozen=True)
class DRiseOptions:
    """How photos are hidden. `masks`, `grid` and `kept` are the paper's defaults."""

    masks: int = 5000
    grid: int = 16  # cells of a mask's shorter side
    kept: float = 0.5  # chance of a cell to stay visible
    seed: int = 0
    batch: int = 16  # masked photos of one pass
    score: float = 0.05  # least score of a box on a masked photo that counts
    time_limit_s: float | None = None  # then TooSlow

    def __post_init__(self) -> None:
        for name in ("masks", "grid", "batch"):
            if getattr(self, name) < 1:
                raise BadOption.of(name, getattr(self, name), "a whole number from 1")
        if not 0 < self.kept < 1:
            raise BadOption.of("kept", self.kept, "a share between 0 and 1")


def masks(options: DRiseOptions, width: int, height: int) -> Iterator[Tensor]:
    """RISE's masks in batches (n, height, width), in [0, 1]; the same ones for the same seed.

    Coarse cells are visible by chance, enlarged bilinearly, and shifted by a part of a cell. The
    mask of a number depends on the seed and on the number alone, not on `options.batch`.
    """
    shorter = min(width, height)
    rows, columns = (max(1, round(options.grid * side / shorter)) for side in (height, width))
    cell = (-(-height // rows), -(-width // columns))  # rounded up
    for first in range(0, options.masks, options.batch):
        made = []
        for number in range(first, min(first + options.batch, options.masks)):
            draw = torch.Generator().manual_seed(options.seed * 1_000_003 + number)
            coarse = (torch.rand(rows + 1, columns + 1, generator=draw) < options.kept).float()
            whole = nn.functional.interpolate(
                coarse[None, None],
                size=((rows + 1) * cell[0], (columns + 1) * cell[1]),
                mode="bilinear",
            )[0, 0]
            y, x = (int(torch.randint(side, (), generator=draw)) for side in cell)
            made.append(whole[y : y + height, x : x + width])
        yield torch.stack(made)


def likeness(targets: Found, seen: Found) -> Tensor:
    """How much of each of n boxes is left in what is `seen`: (n,), in [0, 1].

    The best of the boxes seen counts: its IoU with the target times the cosine between what both
    say of all classes. Zero if nothing is seen.
    """
    if not len(seen.boxes):
        return torch.zeros(len(targets.boxes))
    cosine = nn.functional.cosine_similarity(targets.chances[:, None], seen.chances[None], dim=2)
    alike: Tensor = box_iou(targets.boxes, seen.boxes) * cosine
    return alike.amax(dim=1)


def d_rise_maps(
    network: nn.Module,
    detecting: DetectorNetwork,
    image: Tensor,
    targets: Found,
    options: DRiseOptions,
    iou: float,
) -> Work[Tensor]:
    """How much each place's being visible keeps each of n boxes alive: (n, h, w), in [-1, 1].

    `image` (1, 3, H, W) is hidden by zero, the mean colour, since it is normalised. A cell's value
    is the mean likeness over all masks, each weighed by how much of the cell it shows, less the
    plain mean: 0 where being visible changes nothing. Masks are made, used and thrown away, a batch
    a slice; memory does not grow with their number. Raises TooSlow.
    """
    height, width = image.shape[2:]
    scale = SIDE / max(width, height)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    shown = torch.zeros(size)
    alive = torch.zeros(len(targets.boxes), *size)
    total = torch.zeros(len(targets.boxes))
    started, done = time.monotonic(), 0
    for some in masks(options, width, height):
        with torch.inference_mode():
            outputs = network(image * some[:, None])
            left = torch.stack(
                [
                    likeness(targets, detecting.found(each, width, height, options.score, iou, 100))
                    for each in outputs
                ]
            )  # (masks, n)
            coarse = nn.functional.interpolate(some[None], size=size, mode="area")[0]
            shown += coarse.sum(dim=0)
            alive += torch.einsum("mn,mhw->nhw", left, coarse)
            total += left.sum(dim=0)
        done += len(some)
        yield done / options.masks
        limit = options.time_limit_s
        if limit is not None and done < options.masks and time.monotonic() - started > limit:
            raise TooSlow(
                f"D-RISE had done {done} of {options.masks} masks when its {limit:g} s were over. "
                "Ask for fewer masks or allow more time."
            )
    return alive / shown.clamp(min=1e-6) - (total / done)[:, None, None]


def check_question(options: DetectOptions) -> None:
    """What no detector can answer, by any method. Raises UnknownName, OptionClash."""
    if options.method != NAME:
        check_names(options, [*BOX_METHODS, NAME])
        return
    if options.of != DetectOptions.of or options.layer:
        raise OptionClash(f"{NAME} asks whether the box is found: leave out 'of' and 'layer'.")
    check_names(replace(options, method=DetectOptions.method))


def d_rise_work(
    model: Detecting, photo: Image.Image, options: DetectOptions, how: DRiseOptions
) -> Work[Detected]:
    """As `d_rise`, in slices. Time between two slices does not count as the model's."""
    frame, labels = model.card.frame, model.card.labels
    check_label(model.card, options)
    image = frame(photo)[None].to(memory_format=torch.channels_last)
    height, width = image.shape[2:]
    started = time.perf_counter()
    with torch.inference_mode():
        output = model.network(image)[0]
        found = model.asked.found(output, width, height, options.score, options.iou, options.limit)
    detections = in_photo(found, frame.scales(*photo.size), labels)
    chosen = chosen_boxes(detections, options)
    heat = torch.zeros(0, 1, 1)
    trunk_done, away_s = time.perf_counter(), 0.0
    if chosen:
        targets = found.some(chosen)
        work = d_rise_maps(model.network, model.asked, image, targets, how, options.iou)
        while not isinstance(state := next_slice(work), Done):
            left = time.perf_counter()
            yield state
            away_s += time.perf_counter() - left
        heat = state.result.clamp(min=0)
    return Detected(
        model=model.card.name,
        photo=photo,
        detections=detections,
        heatmaps=tuple(
            box_map(which, each, detections[which].box, photo.size)
            for which, each in zip(chosen, heat.numpy(), strict=True)
        ),
        of=DetectOptions.of,
        method=NAME,
        layer="",
        attention=(),
        timing_ms={
            "trunk": (trunk_done - started) * 1000,
            "head": (time.perf_counter() - trunk_done - away_s) * 1000,
        },
    )


def d_rise_all(
    models: Sequence[Detecting], photo: Image.Image, options: DetectOptions, how: DRiseOptions
) -> Work[list[Detected]]:
    """`d_rise_work` for several detectors, one after the other."""
    found: list[Detected] = []
    for number, model in enumerate(models):
        if number:
            yield number / len(models)
        start, end = number / len(models), (number + 1) / len(models)
        found.append((yield from part(d_rise_work(model, photo, options, how), start, end)))
    return found


def d_rise(
    model: Detecting,
    photo: Image.Image,
    options: DetectOptions,
    how: DRiseOptions | None = None,
    step: Callable[[int], None] = lambda done: None,
) -> Detected:
    """As `find`, but the heat maps are D-RISE's: what keeps each box alive, none below zero.

    All chosen boxes share the masks. `options.of`, `method` and `layer` mean nothing here. Raises
    BadOption, TooSlow, UnknownName, and what `step` raises; it hears how many masks are done.
    """
    how = how or DRiseOptions()
    work = d_rise_work(model, photo, options, how)
    while not isinstance(state := next_slice(work), Done):
        step(round(state * how.masks))
    return state.result
