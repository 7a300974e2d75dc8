"""A bundle's bytes -> the answer in it. It may come from anybody: nothing is believed unchecked.

Nothing is unpacked to disk. The size of every part is known and bounded before it is read, every
file must have the hash that the manifest names, arrays are read without pickle, and the photo is
decoded within the limits for photos.
"""

import hashlib
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import ValidationError

from cbam.attention import Kind
from cbam.bundle.records import FORMAT, MOST_CELLS, NAME, Array, Bundle, Manifest, Result
from cbam.bundle.write import MANIFEST
from cbam.errors import BadBundle, BadImage
from cbam.explain.explanation import BlockAttention, Explanation, Floats, GateMap, HeatMap
from cbam.images.decode import decode

MOST_BYTES = 512 * 2**20  # of the file, and of everything in it
MOST_MANIFEST = 16 * 2**20
MOST_FILES = 20_000
MOST_DIRECTORY = 4 * 2**20  # bytes of the list of files at the end of a zip
END = struct.Struct("<4s4H2LH")  # the end record of a zip without comment
LONGEST = 500  # characters of a class's name
STORED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the second: somebody packed it anew
AGAIN = "Ask for it again with `cbam-lens explain PHOTO -o answer.zip`."


def read_file(path: Path) -> Bundle:
    """The bundle in a file. Raises BadBundle."""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise BadBundle(
                f"'{path}' has {size / 2**20:.0f} MiB; a bundle has at most {MOST_BYTES >> 20} MiB."
            )
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadBundle(f"The bundle '{path}' cannot be read: {reason}.") from error
    return read(data)


def read(data: bytes) -> Bundle:
    """The answer in a bundle's bytes, as `write` made them. Raises BadBundle."""
    files = _files(data)
    manifest = _manifest(files.pop(MANIFEST))
    _check_hashes(files, manifest)
    photo = _photo(files, manifest)
    _check_models(manifest)

    def explained(results: Sequence[Result]) -> tuple[Explanation, ...]:
        return tuple(_explanation(each, photo, files) for each in results)

    return Bundle(
        manifest.question,
        tuple(manifest.models),
        explained(manifest.results),
        manifest.photo.sha256,
        None if manifest.changed is None else explained(manifest.changed),
        manifest.made_with,
    )


def _files(data: bytes) -> dict[str, bytes]:
    """Every file of the zip by its name. Raises BadBundle."""
    if not data.startswith(b"PK"):
        raise BadBundle(f"This is no bundle: it is no zip file. {AGAIN}")
    end = data[-END.size :]
    if len(end) < END.size or not end.startswith(b"PK\5\6"):
        raise BadBundle(f"The zip file is cut off, or something follows it. {AGAIN}")
    if END.unpack(end)[5] > MOST_DIRECTORY:
        raise BadBundle("The zip file's list of files is far longer than a bundle's.")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            _check_entries(entries)
            return {each.filename: _content(archive, each) for each in entries}
    except BadBundle:
        raise
    except (
        *(zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, NotImplementedError),
        *(EOFError, OSError, ValueError, OverflowError),
    ) as error:
        raise BadBundle(f"The zip file cannot be read: {error}. {AGAIN}") from error


def _check_entries(entries: Sequence[zipfile.ZipInfo]) -> None:
    """Raises BadBundle for names, sizes and ways of packing that no bundle has."""
    if len(entries) > MOST_FILES:
        raise BadBundle(f"It holds {len(entries)} files; a bundle has at most {MOST_FILES}.")
    names = [each.filename for each in entries]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadBundle(f"The file '{_shown(twice)}' is in it twice.")
    for each in entries:
        steps = each.filename.split("/")
        if not all(NAME.fullmatch(step) and step.strip(".") for step in steps):
            raise BadBundle(f"The file '{_shown(each.filename)}' has a name that no bundle has.")
        if each.compress_type not in STORED or each.flag_bits & 1:
            raise BadBundle(f"The file '{each.filename}' is encrypted or packed in another way.")
    if MANIFEST not in names:
        raise BadBundle(f"This is no bundle: the zip file holds no {MANIFEST}.")
    sizes = {each.filename: each.file_size for each in entries}
    for what, size, most in (
        (MANIFEST, sizes[MANIFEST], MOST_MANIFEST),
        ("Everything in it", sum(sizes.values()), MOST_BYTES),
    ):
        if size > most:
            raise BadBundle(f"{what} has {size >> 20} MiB unpacked; at most {most >> 20} are read.")


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """One file, never more than its entry says. Raises BadBundle."""
    with archive.open(entry) as file:
        content = file.read(entry.file_size + 1)
    if len(content) != entry.file_size:
        raise BadBundle(f"The file '{entry.filename}' has another size than the zip file says.")
    return content


def _manifest(text: bytes) -> Manifest:
    """Raises BadBundle."""
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "all of it"
        if first["loc"][:1] in (("format",), ("version",)):
            raise BadBundle(f"This is no bundle of the format {FORMAT}, version 1.") from error
        raise BadBundle(
            f"{MANIFEST} does not hold together: {_shown(where)}: {first['msg']}."
        ) from error


def _check_hashes(files: dict[str, bytes], manifest: Manifest) -> None:
    """Raises BadBundle unless these are the files that the manifest names."""
    missing, more = manifest.files.keys() - files.keys(), files.keys() - manifest.files.keys()
    if missing:
        raise BadBundle(f"The file '{_shown(min(missing))}' of the manifest is missing.")
    if more:
        raise BadBundle(f"The file '{min(more)}' is not in the manifest.")
    for name, wanted in manifest.files.items():
        if hashlib.sha256(files[name]).hexdigest() != wanted:
            raise BadBundle(f"The file '{name}' was changed: it is not the one of the manifest.")


def _photo(files: dict[str, bytes], manifest: Manifest) -> Image.Image:
    """Raises BadBundle."""
    try:
        photo = decode(_file(files, manifest.photo.file))
    except BadImage as error:
        raise BadBundle(f"Its photo cannot be used. {error}") from error
    if photo.size != (manifest.photo.width, manifest.photo.height):
        raise BadBundle(f"Its photo has {photo.width} x {photo.height} pixels, not as it says.")
    return photo


def _check_models(manifest: Manifest) -> None:
    """Raises BadBundle unless every list has the same models, each with what is asked for."""
    names = [each.name for each in manifest.models]
    for results in (manifest.results, manifest.changed):
        if results is not None and [each.model for each in results] != names:
            raise BadBundle("Its answers are not those of the models that it names.")
    for each in (*manifest.results, *(manifest.changed or ())):
        box, photo = each.view, manifest.photo
        if not (0 <= box.x0 < box.x1 <= photo.width and 0 <= box.y0 < box.y1 <= photo.height):
            raise BadBundle(f"What '{_shown(each.model)}' saw lies outside of the photo.")
        for named in (*each.predictions, each.target, *each.versus, *each.words):
            if len(named.label) > LONGEST or not 0 <= named.probability <= 1:
                raise BadBundle(f"'{_shown(each.model)}' answers what no model can.")


def _explanation(result: Result, photo: Image.Image, files: dict[str, bytes]) -> Explanation:
    """Raises BadBundle."""
    return Explanation(
        model=result.model,
        photo=photo,
        view=result.view,
        predictions=result.predictions,
        target=result.target,
        method=result.method,
        layer=result.layer,
        heatmaps=tuple(
            HeatMap(each.index, each.label, _array(files, each, 2)) for each in result.heatmaps
        ),
        attention=tuple(
            BlockAttention(
                block.block,
                {
                    each.kind.name: GateMap(each.kind, _array(files, each, _axes(each.kind)))
                    for each in block.gates
                },
            )
            for block in result.attention
        ),
        timing_ms={"trunk": 0.0, "head": 0.0},  # a bundle has no times
        versus=result.versus,
        words=result.words,
        classes=result.classes,
        none_of_these=result.none_of_these,
        changed=result.changed,
        fuse=result.fuse,
    )


def _axes(kind: Kind) -> int:
    """How many axes a map of this kind has. Raises BadBundle for axes that there are not."""
    if not kind.axes or kind.axes != "".join(axis for axis in "CHW" if axis in kind.axes):
        raise BadBundle(f"A gate's map has the axes '{_shown(kind.axes)}'; known are C, H and W.")
    return len(kind.axes)


def _array(files: dict[str, bytes], record: Array, axes: int) -> Floats:
    """A NumPy file: float32 of the shape that the manifest says. Raises BadBundle."""
    data = _file(files, record.file)
    try:
        file = io.BytesIO(data)
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("its format is not 1.0")
        shape, by_columns, kind = np.lib.format.read_array_header_1_0(file)
    except Exception as error:  # the header is a Python literal: SyntaxError, TypeError ...
        raise BadBundle(f"The file '{record.file}' is no NumPy array: {_shown(error)}.") from error
    cells = math.prod(record.shape)
    if shape != record.shape or len(shape) != axes or by_columns or cells > MOST_CELLS:
        raise BadBundle(f"The array '{record.file}' has a shape that the manifest does not say.")
    if kind != np.dtype("<f4"):
        raise BadBundle(f"The array '{record.file}' holds {_shown(kind)}, not float32.")
    if len(data) - file.tell() != cells * kind.itemsize:
        raise BadBundle(f"The array '{record.file}' has more or fewer values than its shape.")
    values = np.frombuffer(data, "<f4", offset=file.tell()).reshape(shape).astype(np.float32)
    if not np.isfinite(values).all():
        raise BadBundle(f"The array '{record.file}' holds values that are no numbers.")
    return values


def _file(files: dict[str, bytes], name: str) -> bytes:
    """Raises BadBundle."""
    if name not in files:
        raise BadBundle(f"The file '{_shown(name)}' of the manifest is missing.")
    return files[name]


def _shown(text: object) -> str:
    """What a stranger wrote, short and on one line."""
    return " ".join(str(text).split())[:120]
