"""Photos with a box around every object of some classes, for detectors."""

import csv
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from cbam.data.labelled import Labelled, Region
from cbam.errors import BadData, MissingFile, NotAvailable

Object = tuple[Region, int]  # where it is, and its class


@dataclass(frozen=True)
class Boxed:
    """A photo (a file or its bytes) and its objects."""

    name: str
    photo: Path | bytes
    regions: tuple[Region, ...]  # x0, y0, x1, y1, relative to the photo
    labels: tuple[int, ...]  # each region's class
    marked: tuple[bool, ...]  # class by class: are all its objects marked here?


def boxed_photos(
    source: Path, labels: Sequence[str], boxes: Path | None = None, partly: Collection[str] = ()
) -> list[Boxed]:
    """Photos and their objects, from one of three kinds of data sets.

    * A parquet file: `name`, `image` (a photo's file) and, optionally, `complete`. `boxes` is a CSV
      file `name,class,x0,y0,x1,y1`, relative to width and height, by default `boxes.csv` beside it.
      Where `complete` is false, objects of the classes in `partly` are not marked.
    * COCO: annotations/instances_NAME.json, with the photos in the folder NAME beside
      `annotations`. Crowds are left out.
    * PASCAL VOC: ImageSets/Main/NAME.txt, with Annotations and JPEGImages beside ImageSets.
      Difficult objects count as the others do.

    Objects of other classes than `labels` are left out. Raises MissingFile, BadData, NotAvailable
    without pyarrow.
    """
    if not source.is_file():
        raise MissingFile(f"There is no file {source}.")
    index = {label: number for number, label in enumerate(labels)}
    if source.suffix == ".json":
        found = _of_coco(source, index)
    elif source.suffix == ".txt":
        found = _of_voc(source, index)
    elif source.suffix == ".parquet":
        found = _of_parquet(source, index, boxes_file(source, boxes), partly)
    else:
        raise BadData(f"'{source}' is none of .parquet, .json (COCO) and .txt (a set of VOC).")
    if not found:
        raise MissingFile(f"No photos in {source}.")
    return found


def boxes_file(source: Path, boxes: Path | None = None) -> Path:
    """Where the boxes of a parquet file's photos are listed: `boxes`, by default beside it."""
    return boxes or source.with_name("boxes.csv")


def photos_of_words(
    words: Mapping[str, Sequence[int]], source: Path, boxes: Path | None = None
) -> list[Labelled]:
    """The photos of `boxed_photos` for classifiers: one for each word that a photo has boxes of.

    `words`: everyday word -> its classes, as a card has them. Raises as `boxed_photos`, and
    MissingFile if no photo shows any of the words.
    """
    names = list(words)
    found: list[Labelled] = []
    for photo in boxed_photos(source, names, boxes):
        for label in sorted(set(photo.labels)):
            places = zip(photo.regions, photo.labels, strict=True)
            regions = tuple(region for region, each in places if each == label)
            word, classes = names[label], words[names[label]]
            several = word if len(classes) > 1 else ""
            found.append(Labelled(photo.name, photo.photo, classes[0], regions, several))
    if not found:
        raise MissingFile(f"No photo in {source} has a box of any of {len(names)} everyday words.")
    return found


def _of_parquet(
    source: Path, index: Mapping[str, int], boxes: Path, partly: Collection[str]
) -> list[Boxed]:
    if not boxes.is_file():
        raise MissingFile(f"There is no file {boxes}.")
    objects = _objects(boxes, index)
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise NotAvailable.extra("Parquet files", "train", "pyarrow") from error
    file = pq.ParquetFile(source)
    if missing := {"name", "image"} - set(file.schema_arrow.names):
        raise BadData(f"{source} lacks the columns {', '.join(sorted(missing))}.")
    columns = [name for name in ("name", "image", "complete") if name in file.schema_arrow.names]
    found: list[Boxed] = []
    for batch in file.iter_batches(batch_size=256, columns=columns):
        for row in batch.to_pylist():
            whole = row.get("complete", True)
            marked = tuple(whole or label not in partly for label in index)
            found.append(_boxed(row["name"], row["image"], objects[row["name"]], marked))
    return found


def _of_coco(source: Path, index: Mapping[str, int]) -> list[Boxed]:
    folder = source.parent.parent / source.stem.partition("_")[2]
    try:
        data = json.loads(source.read_text(encoding="utf-8"))
        names = {each["id"]: each["name"] for each in data["categories"]}
        objects: dict[int, list[Object]] = defaultdict(list)
        sizes = {each["id"]: (each["width"], each["height"]) for each in data["images"]}
        for each in data["annotations"]:
            label = names[each["category_id"]]
            if label in index and not each.get("iscrowd"):
                x, y, width, height = each["bbox"]
                corners = (x, y, x + width, y + height)
                region = _relative(corners, *sizes[each["image_id"]])
                objects[each["image_id"]].append((region, index[label]))
        marked = (True,) * len(index)
        return [
            _boxed(each["file_name"], folder / each["file_name"], objects[each["id"]], marked)
            for each in data["images"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise BadData(f"{source} is no file of COCO's instances: {error!r}.") from error


def _of_voc(source: Path, index: Mapping[str, int]) -> list[Boxed]:
    root = source.parent.parent.parent
    found: list[Boxed] = []
    for line in source.read_text(encoding="utf-8").splitlines():
        if not line.strip():
            continue
        name = line.split()[0]  # a class's own set has a number behind the name
        path = root / "Annotations" / f"{name}.xml"
        try:
            tree = ElementTree.parse(path)
            width, height = (int(tree.findtext(f"size/{side}", "")) for side in ("width", "height"))
            objects: list[Object] = []
            for each in tree.iterfind("object"):
                label = each.findtext("name", "")
                if label in index:
                    x0, y0, x1, y1 = (
                        float(each.findtext(f"bndbox/{side}", ""))
                        for side in ("xmin", "ymin", "xmax", "ymax")
                    )
                    # Its pixels count from 1, and the last ones are part of the box.
                    region = _relative((x0 - 1, y0 - 1, x1, y1), width, height)
                    objects.append((region, index[label]))
        except OSError as error:
            raise MissingFile(f"There is no file {path}.") from error
        except (ValueError, ElementTree.ParseError) as error:
            raise BadData(f"{path} is no annotation of VOC: {error}.") from error
        photo = root / "JPEGImages" / f"{name}.jpg"
        found.append(_boxed(name, photo, objects, (True,) * len(index)))
    return found


def _boxed(
    name: str, photo: Path | bytes, objects: Sequence[Object], marked: tuple[bool, ...]
) -> Boxed:
    regions, labels = (tuple(region for region, _ in objects), tuple(label for _, label in objects))
    return Boxed(name, photo, regions, labels, marked)


def _relative(box: Region, width: int, height: int) -> Region:
    """A box in pixels, cut at the photo's edges, relative to the photo. Raises ValueError."""
    x0, x1 = (min(max(side / width, 0.0), 1.0) for side in (box[0], box[2]))
    y0, y1 = (min(max(side / height, 0.0), 1.0) for side in (box[1], box[3]))
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"the box {box} is empty in a photo of {width} x {height}")
    return x0, y0, x1, y1


def _objects(path: Path, index: Mapping[str, int]) -> dict[str, list[Object]]:
    """Boxes and classes by photo. Raises BadData for a file of another shape or an empty box."""
    objects: dict[str, list[Object]] = defaultdict(list)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                label, name = row["class"], row["name"]
                x0, y0, x1, y1 = (float(row[side]) for side in ("x0", "y0", "x1", "y1"))
            except (KeyError, TypeError, ValueError) as error:
                raise BadData(
                    f"{path} has no column or number for {error}. "
                    "Expected: name,class,x0,y0,x1,y1, relative to the photo."
                ) from error
            if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
                raise BadData(f"{path}: the box {x0},{y0},{x1},{y1} of {name} lies not in [0, 1].")
            if label in index:
                objects[name].append(((x0, y0, x1, y1), index[label]))
    return objects
