"""Does the heat map point at the object? Three measures against object boxes, with baselines."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cbam.data.labelled import Labelled, Region
from cbam.errors import BadData
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

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Localisation:
    """Means over `photos` photos, each explained for its true class; all in [0, 1]."""

    photos: int
    pointing_game: float  # share of maps whose hottest point lies in a box
    energy_in_box: float  # share of the map's sum that lies in boxes
    box_iou: float  # box around the map's largest hot region against the best object box
    no_evidence: int  # maps without a positive value; they count as misses


# The same measures for an answer that knows nothing of the photo.
BASELINE = "the photo's centre, a uniform map, a box around the whole view"


@dataclass(frozen=True, eq=False)
class PerPhoto:
    """What `localise` found, photo by photo, each (photos,): to compare models in pairs."""

    pointing_game: Floats
    energy_in_box: Floats
    box_iou: Floats


@dataclass(eq=False)
class Tally:
    """Measures one model photo by photo."""

    model: Model
    method: str = GRADCAM
    mine: list[tuple[float, float, float]] = field(default_factory=list)
    base: list[tuple[float, float, float]] = field(default_factory=list)
    silent: int = 0  # maps without a positive value

    def add(self, labelled: Labelled, photo: Image.Image) -> None:
        """Explain a photo (upright RGB) for its true class and measure the map."""
        options = Options(target=labelled.target, method=self.method, top_k=1, attention=False)
        (explanation,) = answer(resolve([self.model], options), photo)
        masks = [on_grid(region, explanation.view, *photo.size) for region in labelled.regions]
        self.base.append(measure(np.ones((GRID, GRID), dtype=np.float32), masks, centre=True))
        self.silent += bool(explanation.heatmap.max() <= 0)
        self.mine.append(measure(enlarged(explanation.heatmap, GRID, GRID), masks))

    def result(self) -> tuple[Localisation, Localisation, PerPhoto]:
        """The model's measures, the baseline's on the same photos, and each photo's."""
        columns = np.array(self.mine, dtype=np.float32).T
        return _mean(self.mine, self.silent), _mean(self.base, 0), PerPhoto(*columns)

    @property
    def blind(self) -> PerPhoto:
        """The baseline's measures, photo by photo."""
        return PerPhoto(*np.array(self.base, dtype=np.float32).T)


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


def measure(
    heat: Floats, masks: Sequence[Mask], centre: bool = False
) -> tuple[float, float, float]:
    """Pointing hit, energy in the boxes and best IoU of one map (GRID, GRID), not negative."""
    if heat.max() <= 0:
        return 0.0, 0.0, 0.0
    either: Mask = np.logical_or.reduce(list(masks))
    point = (GRID // 2, GRID // 2) if centre else np.unravel_index(heat.argmax(), heat.shape)
    found = hot_box(heat)
    iou = max(float((found & mask).sum() / max((found | mask).sum(), 1)) for mask in masks)
    return float(either[point]), float(heat[either].sum() / heat.sum()), iou


def hot_box(heat: Floats) -> Mask:
    """The box around the largest connected region above THRESHOLD of the maximum, as a mask."""
    from scipy import ndimage  # comes with the grad-cam package

    regions, count = ndimage.label(heat >= THRESHOLD * heat.max())
    sizes = ndimage.sum_labels(np.ones_like(heat), regions, range(1, count + 1))
    rows, columns = ndimage.find_objects(regions)[int(np.argmax(sizes))]
    box = np.zeros(heat.shape, dtype=bool)
    box[rows, columns] = True
    return box


def _mean(rows: Sequence[tuple[float, float, float]], silent: int) -> Localisation:
    pointing, energy, iou = (float(value) for value in np.mean(rows, axis=0))
    return Localisation(len(rows), pointing, energy, iou, silent)
