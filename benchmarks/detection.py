# ruff: noqa: T201
"""What a detector's answer costs, in forward passes of the network that it stands on.

    python -m benchmarks.detection --photo static/gallery/horses.jpg

A round asks, in turn: the backbone alone, up to its last block, for the same tensor; the detector
without heat maps; with the map of the surest box; with the maps of all boxes. An answer begins at
the decoded photo and ends with boxes, maps, their shares and the gates, as `detect` gives it. The
goal is an answer with all maps within TARGET passes.

A detector runs in PyTorch (`eager`). The other engines tell how far that is from what the backbone
alone could do there; `plain` is the backbone as it was built.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from benchmarks.attention_cost import ENGINES, Call, call_of
from benchmarks.timing import Run, race
from cbam.backends.choose import BACKENDS
from cbam.cards.families import detectors
from cbam.detector import Detector, open_detector
from cbam.detectors import BODY
from cbam.explain.detection import DetectOptions
from cbam.images.photo import open_photo

TARGET = 3.0  # of the design: an answer for one photo and one model
FORWARD, BOXES, ONE, ALL = "forward", "boxes alone", "map of one box", "maps of all boxes"
MOST = 20  # heat maps of an answer


@dataclass(frozen=True)
class Cost:
    """What one kind of answer took, beside the backbone's forward pass in the same rounds."""

    engine: str  # of the forward pass
    what: str
    fastest_ms: float
    ratio: float  # median of the rounds' ratios
    boxes: int  # found, of which the maps are


def costs(
    detector: Detector, photo: Image.Image, engine: str, rounds: int, score: float
) -> Iterator[Cost]:
    """A race in one engine. Raises RuntimeError with the reason if a contestant fails."""
    options = DetectOptions(score=score, maps=0)
    found = len(detector.find(photo, options).detections)
    image = detector.card.frame(photo)[None].to(memory_format=torch.channels_last)
    body = detector.network.get_submodule(BODY.removesuffix("."))
    forward = partial(_forward, call_of(body, engine, detector.card.frame.size_px), image)
    answers: dict[str, Run] = {
        what: partial(detector.find, photo, replace(options, maps=maps))
        for what, maps in ((BOXES, 0), (ONE, 1), (ALL, min(found, MOST)))
    }
    times = race("detection", {FORWARD: forward, **answers}, rounds)
    if times.missing:
        raise RuntimeError(f"{engine}: {dict(times.missing)}")
    for what, ms in times.ms.items():
        ratio = times.row(what, what, FORWARD).ratio
        assert ratio is not None  # nobody is missing
        yield Cost(engine, what, min(ms), ratio, found)


def _forward(call: Call, image: Tensor) -> object:
    with torch.inference_mode():
        return call(image)


def lines(detector: Detector, photo: Image.Image, asked: Sequence[Cost]) -> Iterator[str]:
    """The costs as text, one a line, and whether the goal is met."""
    height, width = detector.card.frame(photo).shape[1:]
    yield f"{detector.name}, {width} x {height} px, {asked[0].boxes} boxes"
    for each in asked:
        yield (
            f"{each.engine:10} {each.what:18} fastest {each.fastest_ms:8.2f} ms   "
            f"ratio: median {each.ratio:.2f}"
        )
        if each.what == ALL:
            met = "met" if each.ratio <= TARGET else "missed"
            yield f"{each.engine:10} target {TARGET:.1f} {met}"


def main() -> None:
    """Print the table."""
    about = __doc__ or ""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--photo", type=Path, default=Path("static/gallery/horses.jpg"))
    parser.add_argument("--model", action="append", choices=list(detectors()))
    parser.add_argument("--score", type=float, default=DetectOptions.score)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engine", action="append", choices=ENGINES)
    asked = parser.parse_args()

    torch.set_num_threads(asked.threads)
    photo = open_photo(asked.photo)
    print(f"{asked.threads} threads, {asked.rounds} rounds, torch {torch.__version__}")
    for name in asked.model or detectors():
        detector = open_detector(detectors()[name])
        found: list[Cost] = []
        for engine in asked.engine or ENGINES:
            if engine in BACKENDS and (missing := BACKENDS[engine].missing()):
                print(f"{engine:10} not measured: {missing}")
                continue
            try:
                found += costs(detector, photo, engine, asked.rounds, asked.score)
            except RuntimeError as error:
                print(f"not measured: {error}")
        for line in lines(detector, photo, found) if found else ():
            print(line, flush=True)


if __name__ == "__main__":
    main()
