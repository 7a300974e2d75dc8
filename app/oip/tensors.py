"""The Open Inference Protocol's JSON: from a request's tensor to a photo, from maps to tensors.

https://github.com/kserve/open-inference-protocol, version 2, REST. Numbers are sent as JSON, row by
row. A request may also nest them, or send them as raw bytes after the JSON: that is the binary
tensor data extension, which the protocol's clients use by default.
"""

import base64
import binascii
import io
import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field, ValidationError, model_validator

from cbam.errors import CBAMLensError
from cbam.explain.explanation import Explanation
from cbam.explain.question import Options
from cbam.images.formats import EITHER
from cbam.model import Model

INPUT = "image"
PROBABILITIES, HEATMAP, LABELS = "probabilities", "heatmap", "labels"
PLATFORM = "pytorch_safetensors"
JSON_LENGTH = "Inference-Header-Content-Length"  # a header: where binary data begin
# By type: the kinds of numbers that JSON may hold (NumPy's letters), the largest, their bytes.
NUMBERS = {"UINT8": ("iu", 255, "<u1"), "FP32": ("iuf", 1, "<f4")}
Size = Annotated[int, Field(ge=0)]


class BadRequest(CBAMLensError):
    """The body is not a request of this protocol, or its tensor is not a photo."""


class TensorInfo(BaseModel):
    """A tensor without its values; -1 is a size that varies."""

    name: str
    datatype: str
    shape: list[int]


class Tensor(TensorInfo):
    """A tensor of an answer, its values row by row."""

    data: list[Any]


class Asking(BaseModel):
    """A part of a request. What is null or an empty text counts as absent; what is unknown, such
    as hints for other servers, is ignored.
    """

    @model_validator(mode="before")
    @classmethod
    def _given(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None and value != ""}


class InputParameters(Asking):
    """What a request says about its tensor."""

    binary_data_size: Size | None = None  # bytes after the JSON; None: the data are in it


class InputTensor(Asking):
    """A tensor of a request."""

    name: str
    shape: list[Size] = Field(max_length=8)
    datatype: str
    parameters: InputParameters = InputParameters()
    data: Any = None


class OutputName(Asking):
    """One requested output."""

    name: str


class Parameters(Asking):
    """What to explain, and how: the fields of /api/v1/explain."""

    target: int | str | None = None
    method: str = Options.method
    layer: str | list[str] | None = None  # several: a list, or with commas between


class InferRequest(Asking):
    """Body of /infer."""

    id: str | None = None
    parameters: Parameters = Parameters()
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[OutputName] = Field([], max_length=1000)


class Server(BaseModel):
    """Answer of /v2."""

    name: str
    version: str
    extensions: list[str]


class ModelMetadata(BaseModel):
    """Answer of /v2/models/{name}."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]


class InferResponse(BaseModel):
    """Answer of /infer. It has an `id` only if the request had one."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, str | int]
    outputs: list[Tensor]


def version(model: Model) -> str:
    """A model's one version: the first digits of its weights' SHA-256; "1" if it has none."""
    return model.card.weights_sha256[:12] or "1"


def metadata(model: Model) -> ModelMetadata:
    """What goes into a model and what comes out."""
    classes = len(model.card.labels)
    return ModelMetadata(
        name=model.name,
        versions=[version(model)],
        platform=PLATFORM,
        inputs=[TensorInfo(name=INPUT, datatype="BYTES", shape=[1])],
        outputs=[
            TensorInfo(name=PROBABILITIES, datatype="FP32", shape=[1, classes]),
            TensorInfo(name=HEATMAP, datatype="FP32", shape=[1, -1, -1]),
            TensorInfo(name=LABELS, datatype="BYTES", shape=[1, classes]),
            *(
                TensorInfo(name=name, datatype="FP32", shape=[1, *(-1 for _ in place.kind.axes)])
                for name, place in model.cut().places.items()
            ),
        ],
    )


def parse(body: bytes, json_bytes: str | None = None) -> tuple[InferRequest, bytes]:
    """A request's JSON, and the photo in it as a file's bytes.

    `json_bytes` is the JSON's length as given in a header, if binary data follow. Raises
    BadRequest if the body is not such a request, or its tensor not a photo.
    """
    end = len(body) if json_bytes is None else _length(json_bytes)
    if not 0 <= end <= len(body):
        raise BadRequest(f"{JSON_LENGTH} is '{str(json_bytes)[:20]}'; {len(body):,} bytes came.")
    try:
        asked = InferRequest.model_validate_json(body[:end])
    except ValidationError as error:
        findings = error.errors(include_input=False, include_url=False)[:3]
        raise BadRequest(" ".join(_sentence(finding) for finding in findings)) from None
    return asked, _photo(asked.inputs[0], body[end:])


def _length(text: str) -> int:
    """A header's number; -1 if no body could have that length."""
    return int(text) if text.isdecimal() and len(text) < 20 else -1


def wanted(asked: InferRequest, model: Model) -> list[str]:
    """Names of the requested outputs, by default all. Raises BadRequest for unknown ones."""
    known = [output.name for output in metadata(model).outputs]
    names = list(dict.fromkeys(output.name for output in asked.outputs)) or known
    for name in names:
        if name not in known:
            raise BadRequest(
                f"'{model.name}' has no output '{name[:80]}'. Known: {', '.join(known)}."
            )
    return names


def response(
    asked: InferRequest, model: Model, names: Sequence[str], explanation: Explanation
) -> str:
    """The answer with these outputs, as JSON. `explanation` must hold every class."""
    answer = InferResponse(
        model_name=model.name,
        model_version=version(model),
        id=asked.id,
        parameters={
            "target": explanation.target.index,
            "label": explanation.target.label,
            "method": explanation.method,
            "layer": explanation.layer,
        },
        outputs=[_output(name, model, explanation) for name in names],
    )
    return answer.model_dump_json(exclude_none=True)


def _output(name: str, model: Model, explanation: Explanation) -> Tensor:
    labels = list(model.card.labels)
    if name == LABELS:
        return Tensor(name=name, datatype="BYTES", shape=[1, len(labels)], data=labels)
    if name == PROBABILITIES:
        values = np.zeros(len(labels), np.float32)
        for each in explanation.predictions:
            values[each.index] = each.probability
    elif name == HEATMAP:
        values = explanation.heatmap
    else:
        place = model.cut().places[name]
        maps = next(each for each in explanation.attention if each.block == place.block)
        values = maps.gates[place.kind.name].values
    return Tensor(
        name=name, datatype="FP32", shape=[1, *values.shape], data=values.ravel().tolist()
    )


def _photo(tensor: InputTensor, binary: bytes) -> bytes:
    """The tensor's one image as a file's bytes: those sent as BYTES, or a PNG of the pixels."""
    size = tensor.parameters.binary_data_size
    if size is not None and size != len(binary):
        raise BadRequest(f"The input says {size:,} bytes of binary data; {len(binary):,} came.")
    if tensor.name != INPUT:
        raise BadRequest(f"The input is called '{tensor.name[:80]}'; call it '{INPUT}'.")
    if tensor.datatype == "BYTES":
        return _file(tensor) if size is None else _element(binary)
    if tensor.datatype in NUMBERS:
        return _png(_pixels(tensor, tensor.data if size is None else binary))
    raise BadRequest(
        f"The input is {tensor.datatype[:20]}. Send BYTES (base64 of a {EITHER} file), UINT8 (0 to "
        "255) or FP32 (0 to 1).",
    )


def _file(tensor: InputTensor) -> bytes:
    """The file's bytes from the one base64 text of a BYTES tensor."""
    text = tensor.data
    while isinstance(text, list) and len(text) == 1:
        text = text[0]
    if math.prod(tensor.shape) != 1 or not isinstance(text, str):
        raise BadRequest("A BYTES input holds one image: shape [1], data of one base64 text.")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("The data are no base64 of an image file.") from None


def _element(binary: bytes) -> bytes:
    """The one element of a binary BYTES tensor, which begins with its length in four bytes."""
    if len(binary) < 4 or int.from_bytes(binary[:4], "little") != len(binary) - 4:
        raise BadRequest("Binary BYTES hold one image file: its length in 4 bytes, then the file.")
    return binary[4:]


def _pixels(tensor: InputTensor, data: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The pixels (H, W, 3) of a numeric tensor whose numbers are `data`, in lists or as bytes."""
    shape = tensor.shape
    if len(shape) != 4 or shape[0] != 1 or shape[3] != 3 or 0 in shape:
        raise BadRequest(f"The shape is {shape}. Send one image as [1, height, width, 3].")
    kinds, most, stored = NUMBERS[tensor.datatype]
    try:
        values = np.frombuffer(data, stored) if isinstance(data, bytes) else np.asarray(data)
    except (ValueError, OverflowError):
        values = np.asarray(None)
    if values.dtype.kind not in kinds or values.size != math.prod(shape):
        raise BadRequest(
            f"The data are not the {math.prod(shape):,} {tensor.datatype} numbers of the shape "
            f"{shape}.",
        )
    if not (values.min() >= 0 and values.max() <= most):  # NaN fails both
        raise BadRequest(f"The data of a {tensor.datatype} image go from 0 to {most}.")
    levels = values if most == 255 else np.rint(values * 255)
    return levels.astype(np.uint8).reshape(shape[1:])


def _png(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """The pixels as a lossless PNG, so that they pass the same limits and steps as any upload."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _sentence(finding: Any) -> str:
    """One of pydantic's findings as a sentence, without the input: that may be megabytes."""
    place = ".".join(str(part) for part in finding["loc"])[:80] or "The body"
    return f"{place}: {finding['msg'][:200]}."
