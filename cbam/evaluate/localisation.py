"""Does the heat map point at the object? Measures against object boxes, with baselines."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cbam.data.labelled import Labelled, Region
from cbam.errors import BadData, BadOption, OptionClash
from cbam.explain.explainer import answer
from cbam.explain.explanation import Floats
from cbam.explain.methods import GRADCAM
from cbam.explain.question import Options, resolve
from cbam.images.photo import open_photo
from cbam.images.preprocess import Box
from cbam.model import Model
from cbam.render import enlarged

GRID = 224  # maps and boxes are compared on a grid of this many cells a side, over the view
THRESHOLD = 0.15  # of the map's maximum: Selvaraju et al. 2017, section 4.1
HIGHER = (0.3, 0.5, 0.7)  # further thresholds: a low one makes large boxes, as objects here are

Mask = NDArray[np.bool_]
V = TypeVar("V")


@dataclass(frozen=True)
class Localisation:
    """Means over `photos` photos, each explained for its true class; all in [0, 1]."""

    photos: int
    pointing_game: float  # share of maps whose hottest point lies in a box
    energy_in_box: float  # share of the map's sum that lies in boxes
    box_iou: float  # box around the map's largest hot region against the best object box
    box_iou_30: float  # the same with a region above 30 % of the maximum, not THRESHOLD
    box_iou_50: float
    box_iou_70: float
    no_evidence: int  # maps without a positive value; they count as misses
    target_probability: float | None = None  # of the true class; None: this is a baseline


# The same measures for an answer that knows nothing of the photo.
BASELINE = "the photo's centre, a uniform map, a box around the whole view"


@dataclass(frozen=True, eq=False)
class PerPhoto:
    """What `localise` found, photo by photo, each (photos,): to compare models in pairs."""

    pointing_game: Floats
    energy_in_box: Floats
    box_iou: Floats
    box_iou_30: Floats
    box_iou_50: Floats
    box_iou_70: Floats
    target_probability: Floats | None = None


MEASURES = tuple(name for name in PerPhoto.__dataclass_fields__ if name != "target_probability")
Row = tuple[float, ...]  # of one photo: its MEASURES


@dataclass(eq=False)
class Tally:
    """Measures one model photo by photo."""

    model: Model
    method: str = GRADCAM
    mine: list[Row] = field(default_factory=list)
    base: list[Row] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)  # of the true classes
    silent: int = 0  # maps without a positive value

    def add(self, labelled: Labelled, photo: Image.Image) -> None:
        """Explain a photo (upright RGB) for its true class and measure the map."""
        target = labelled.word or labelled.target
        options = Options(target=target, method=self.method, top_k=1, attention=False)
        (explanation,) = answer(resolve([self.model], options), photo)
        masks = [on_grid(region, explanation.view, *photo.size) for region in labelled.regions]
        self.base.append(measure(np.ones((GRID, GRID), dtype=np.float32), masks, centre=True))
        self.silent += bool(explanation.heatmap.max() <= 0)
        self.mine.append(measure(enlarged(explanation.heatmap, GRID, GRID), masks))
        self.probabilities.append(explanation.target.probability)

    def result(self) -> tuple[Localisation, Localisation, PerPhoto]:
        """The model's measures, the baseline's on the same photos, and each photo's."""
        columns = np.array(self.mine, dtype=np.float32).T
        probabilities = np.array(self.probabilities, dtype=np.float32)
        mine = replace(
            _mean(self.mine, self.silent), target_probability=float(probabilities.mean())
        )
        return (
            mine,
            _mean(self.base, 0),
            PerPhoto(**_named(columns), target_probability=probabilities),
        )

    @property
    def blind(self) -> PerPhoto:
        """The baseline's measures, photo by photo."""
        return PerPhoto(**_named(np.array(self.base, dtype=np.float32).T))


def localise(
    model: Model, photos: Sequence[Labelled], method: str = GRADCAM
) -> tuple[Localisation, Localisation, PerPhoto]:
    """The model's measures on photos with boxes, the baseline's on the same, and each photo's.

    Raises BadData for photos without a box, BadImage for one that cannot be read.
    """
    check_boxes(photos)
    tally = Tally(model, method)
    for labelled in photos:
        tally.add(labelled, open_photo(labelled.photo))
    return tally.result()


def check_boxes(photos: Sequence[Labelled]) -> None:
    """Check that every photo has a box, before any of them is read. Raises BadData."""
    bare = [labelled.name for labelled in photos if not labelled.regions]
    if bare:
        more = f" and {len(bare) - 3} more" if len(bare) > 3 else ""
        raise BadData(f"There is no box for {', '.join(bare[:3])}{more}.")


def on_grid(region: Region, view: Box, width: int, height: int, side: int = GRID) -> Mask:
    """A box of the photo as a mask (side, side) over the view: the cells whose centre it holds."""
    centres = (np.arange(side) + 0.5) / side
    x = (view.x0 + centres * (view.x1 - view.x0)) / width
    y = (view.y0 + centres * (view.y1 - view.y0)) / height
    inside_x = (region[0] <= x) & (x < region[2])
    inside_y = (region[1] <= y) & (y < region[3])
    mask: Mask = inside_y[:, None] & inside_x[None, :]
    return mask


def measure(heat: Floats, masks: Sequence[Mask], centre: bool = False) -> Row:
    """One map (GRID, GRID), not negative: pointing hit, energy in the boxes, and the best IoUs.

    There is an IoU for THRESHOLD and for each of HIGHER. `centre` points at the centre, wherever
    the map is hottest.
    """
    thresholds = (THRESHOLD, *HIGHER)
    if heat.max() <= 0:
        return (0.0,) * (2 + len(thresholds))
    either: Mask = np.logical_or.reduce(list(masks))
    point = (GRID // 2, GRID // 2) if centre else np.unravel_index(heat.argmax(), heat.shape)
    found = [hot_box(heat, threshold) for threshold in thresholds]
    ious = [max(float((f & m).sum() / max((f | m).sum(), 1)) for m in masks) for f in found]
    return float(either[point]), float(heat[either].sum() / heat.sum()), *ious


def hot_box(heat: Floats, threshold: float = THRESHOLD) -> Mask:
    """The box around the largest connected region above a share of the maximum, as a mask."""
    from scipy import ndimage  # comes with the grad-cam package

    regions, count = ndimage.label(heat >= threshold * heat.max())
    sizes = ndimage.sum_labels(np.ones_like(heat), regions, range(1, count + 1))
    rows, columns = ndimage.find_objects(regions)[int(np.argmax(sizes))]
    box = np.zeros(heat.shape, dtype=bool)
    box[rows, columns] = True
    return box


def _named(columns: Iterable[V]) -> dict[str, V]:
    """One value for each of MEASURES."""
    return dict(zip(MEASURES, columns, strict=True))


def _mean(rows: Sequence[Row], silent: int) -> Localisation:
    means = _named(float(value) for value in np.mean(rows, axis=0))
    return Localisation(photos=len(rows), no_evidence=silent, **means)


@dataclass(frozen=True)
class InBox:
    """How a map and a box drawn on the photo agree; shares in [0, 1].

    The view is the part of the photo that the model saw: what lies outside it counts for nothing.
    """

    hit: bool  # whether the map's hottest point lies in the box
    energy: float  # share of the map's sum that lies in the box
    ious: Mapping[float, float]  # threshold -> box around the hot region against this one
    centre_hit: bool  # whether the view's centre lies in the box
    uniform_energy: float  # the same of a map that is the same everywhere: the box's share
    uniform_iou: float  # of a box around the whole view, which is that map's


def in_box(heat: Floats, region: Region, view: Box, width: int, height: int) -> InBox:
    """Judge a raw map (h, w) by a box (relative to a photo of this size).

    Raises BadOption for a box that is none, OptionClash for one outside the view.
    """
    x0, y0, x1, y1 = region
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        said = ", ".join(f"{side:g}" for side in region)
        raise BadOption.of("box", said, "x0, y0, x1, y1 inside the photo, with x0 < x1 and y0 < y1")
    mask = on_grid(region, view, width, height)
    if not mask.any():
        raise OptionClash(
            "The box lies outside the part of the photo that the model sees, or is too small: "
            f"the model sees x from {view.x0} to {view.x1} and y from {view.y0} to {view.y1}."
        )
    hit, energy, *ious = measure(enlarged(heat, GRID, GRID), [mask])
    blind = measure(np.ones((GRID, GRID), dtype=np.float32), [mask], centre=True)
    found = dict(zip((THRESHOLD, *HIGHER), ious, strict=True))
    return InBox(hit > 0, energy, found, blind[0] > 0, blind[1], blind[2])
