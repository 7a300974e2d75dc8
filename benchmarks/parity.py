# ruff: noqa: T201
"""Do the back ends answer alike? Every model in every back end, on a folder of photos.

    python -m benchmarks.parity FOLDER [--photos 200] [--backend openvino ...] [--models DIR]

Compares each back end with the plain trunk as it was traced: largest difference of a logit (at most
1e-3), of a gate map or a Grad-CAM map scaled to [0, 1] (at most 0.01), share of equal top classes
(1). Photos are taken evenly from the folder and its subfolders. Exit status 1 if an exact back end
is beyond the tolerance; an approximate one is shown, and judged by nobody.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import cycle, islice
from operator import and_
from pathlib import Path

import torch
from torch import Tensor

from cbam.backends.choose import BACKENDS, TOLERANCE, Parity, accelerate, parity
from cbam.cards.families import models_folder
from cbam.images.decode import decode
from cbam.images.formats import SUFFIXES
from cbam.model import Model, load
from cbam.trace.cut import cut_at

BATCH = 8


def photos_of(folder: Path, count: int) -> list[Path]:
    """So many photos, evenly spread over all there are: each class folder gets its share."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise SystemExit(f"No photos ({', '.join(SUFFIXES)}) in {folder}.")
    return [found[position * len(found) // count] for position in range(min(count, len(found)))]


def batches(model: Model, photos: Sequence[Path]) -> Iterator[Tensor]:
    """The photos as the model sees them, in the service's micro-batches of 1 to 8."""
    images = (model.card.preprocess(decode(path.read_bytes())) for path in photos)
    for size in cycle(range(1, BATCH + 1)):
        if not (batch := list(islice(images, size))):
            return
        yield torch.stack(batch).to(memory_format=torch.channels_last)


def compare(model: Model, backend: str, photos: Sequence[Path]) -> Parity:
    """One model in one back end, over all photos."""
    plain = cut_at(model.network, model.layers[-1])
    fast, _ = accelerate(plain, backend, model.card.preprocess.size_px)
    found = [(parity(plain, fast, images), len(images)) for images in batches(model, photos)]
    worst = reduce(and_, (each for each, _ in found))
    top1 = sum(each.top1 * count for each, count in found) / len(photos)
    return Parity(worst.logits, worst.maps, top1)


def main() -> int:
    """Print a line for each model and back end."""
    about = __doc__ or ""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--backend", action="append", choices=list(BACKENDS))
    parser.add_argument("--models", type=Path, default=models_folder(), help="folder of cards")
    asked = parser.parse_args()

    photos = photos_of(asked.folder, asked.photos)
    print(f"{len(photos)} photos of {asked.folder}; tolerance: {TOLERANCE}")
    failed = False
    for card in sorted(asked.models.glob("*/card.toml")):
        model = load(card.parent)
        for name in asked.backend or BACKENDS:
            backend = BACKENDS[name]
            if missing := backend.missing():
                print(f"{model.name:28} {name:11} not measured: {missing}")
                continue
            found = compare(model, name, photos)
            verdict = "approximate" if not backend.exact else "equal" if found else "DIFFERENT"
            failed |= backend.exact and not found
            print(
                f"{model.name:28} {name:11} logits {found.logits:.1e}  maps {found.maps:.1e}  "
                f"top-1 equal {found.top1:.4f}  {verdict}",
                flush=True,
            )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
