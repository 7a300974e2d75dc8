"""The Open Inference Protocol: its shapes, the same answers as the API's, and plain refusals."""

import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from app_fixtures import BLOCKS, FAMILY, INPUT_PX, LABELS, encoded, photo, picture, values
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator

from cbam.images.formats import EITHER

pytest_plugins = ["app_fixtures"]

CBAM = "tiny-cbam"


def shape_of(**properties: Any) -> dict[str, Any]:
    """A JSON object with these keys and no others; those whose names end in "?" may be absent."""
    return {
        "type": "object",
        "properties": {name.rstrip("?"): schema for name, schema in properties.items()},
        "required": [name for name in properties if not name.endswith("?")],
        "additionalProperties": False,
    }


def list_of(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON array of these."""
    return {"type": "array", "items": schema}


# Written by hand from specification/protocol/inference_rest.md of the protocol's repository.
STRING, BOOL = {"type": "string"}, {"type": "boolean"}
DATATYPES = "BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 BYTES"
DATATYPE = {"enum": DATATYPES.split()}
PARAMETERS = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
TENSOR = {
    "name": STRING,
    "datatype": DATATYPE,
    "shape": list_of({"type": "integer", "minimum": -1}),
}
SERVER = shape_of(name=STRING, version=STRING, extensions=list_of(STRING))
MODEL = shape_of(
    name=STRING,
    platform=STRING,
    inputs=list_of(shape_of(**TENSOR)),
    outputs=list_of(shape_of(**TENSOR)),
    **{"versions?": list_of(STRING)},
)
OUTPUT = shape_of(
    data=list_of({"type": ["number", "string"]}), **TENSOR, **{"parameters?": PARAMETERS}
)
RESPONSE = shape_of(
    model_name=STRING,
    outputs=list_of(OUTPUT),
    **{"model_version?": STRING, "id?": STRING, "parameters?": PARAMETERS},
)
ERROR = shape_of(error={"type": "string", "minLength": 15})


def check(schema: dict[str, Any], answer: Any) -> Any:
    """The answer's JSON, once it has this shape."""
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(answer.json())
    return answer.json()


def assert_error(answer: Any, status: int, *words: str) -> None:
    """The answer is this error, and says these words."""
    assert answer.status_code == status, answer.text[:300]
    error = check(ERROR, answer)["error"]
    for word in words:
        assert word in error, f"{word!r} is not in {error!r}"


def as_bytes(file: bytes) -> dict[str, Any]:
    """An input tensor with an image file."""
    text = base64.b64encode(file).decode()
    return {"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}


def as_pixels(pixels: np.ndarray, datatype: str) -> dict[str, Any]:
    """An input tensor with an image's pixels (H, W, 3)."""
    shape = [1, *pixels.shape]
    return {
        "name": "image",
        "shape": shape,
        "datatype": datatype,
        "data": pixels.ravel().tolist(),
    }


def ask(client: TestClient, tensor: dict[str, Any], model: str = CBAM, **more: Any) -> Any:
    """Ask a model; `more` are further keys of the request."""
    return client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor], **more})


def tensors(answer: Any) -> dict[str, np.ndarray]:
    """The answer's outputs by name, in their shapes."""
    outputs = check(RESPONSE, answer)["outputs"]
    return {each["name"]: np.array(each["data"]).reshape(each["shape"]) for each in outputs}


def assert_alike(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """The same outputs, to rounding."""
    assert list(got) == list(wanted)
    for name, expected in wanted.items():
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(got[name], expected, atol=1e-6)
        else:
            np.testing.assert_array_equal(got[name], expected)


def test_the_server_says_who_and_how_it_is(client: TestClient) -> None:
    assert check(SERVER, client.get("/v2"))["name"] == "cbam-lens"
    assert client.get("/v2/health/live").json() == {"live": True}
    ready = client.get("/v2/health/ready").json()
    assert ready["live"] is True, "the specification's word"
    assert ready["ready"] is True, "everybody else's word"


@pytest.mark.parametrize("name", FAMILY)
def test_a_model_describes_itself(client: TestClient, name: str) -> None:
    model = check(MODEL, client.get(f"/v2/models/{name}"))
    assert model["name"] == name
    assert [tensor["datatype"] for tensor in model["inputs"]] == ["BYTES"]
    outputs = {tensor["name"]: tensor["shape"] for tensor in model["outputs"]}
    assert outputs["probabilities"] == [1, len(LABELS)]
    gates = {"tiny-none": [], "tiny-se": ["channel"], "tiny-cbam": ["channel", "spatial"]}[name]
    expected = {f"{block}.{gate}" for block in BLOCKS for gate in gates}
    assert set(outputs) == {"probabilities", "heatmap", "labels"} | expected
    assert client.get(f"/v2/models/{name}/ready").json() == {"name": name, "ready": True}


def test_a_model_may_be_asked_for_by_its_version(client: TestClient, jpeg: bytes) -> None:
    (version,) = client.get(f"/v2/models/{CBAM}").json()["versions"]
    path = f"/v2/models/{CBAM}/versions/{version}"
    assert client.get(path).json() == client.get(f"/v2/models/{CBAM}").json()
    assert client.get(f"{path}/ready").json()["ready"] is True
    answer = client.post(f"{path}/infer", json={"inputs": [as_bytes(jpeg)]})
    assert check(RESPONSE, answer)["model_version"] == version
    assert_error(client.get(f"/v2/models/{CBAM}/versions/99"), 404, "'99'", version)


@pytest.mark.parametrize("name", FAMILY)
def test_an_image_file_gets_the_answer_of_the_api(
    client: TestClient, jpeg: bytes, name: str
) -> None:
    ours = client.post(
        "/api/v1/explain", files={"image": jpeg}, data={"models": name, "top_k": "10"}
    ).json()["results"][0]
    got = tensors(ask(client, as_bytes(jpeg), name))
    expected = {each["index"]: each["probability"] for each in ours["predictions"]}
    assert got["probabilities"].shape == (1, len(LABELS))
    np.testing.assert_allclose(
        got["probabilities"][0], [expected[index] for index in range(len(LABELS))], atol=1e-6
    )
    packed = ours["heatmaps"][0]["map"]
    assert packed["max"] > 0, "a map of zeros would compare nothing"
    step = (packed["max"] - packed["min"]) / 255
    np.testing.assert_allclose(got["heatmap"][0], values(packed), atol=0.51 * step)


@pytest.mark.parametrize("name", FAMILY)
def test_a_request_that_names_no_outputs_gets_all_of_them(
    client: TestClient, jpeg: bytes, name: str
) -> None:
    described = client.get(f"/v2/models/{name}").json()["outputs"]
    for more in ({}, {"outputs": []}):
        outputs = check(RESPONSE, ask(client, as_bytes(jpeg), name, **more))["outputs"]
        assert [each["name"] for each in outputs] == [each["name"] for each in described]
        for each, expected in zip(outputs, described, strict=True):
            assert each["datatype"] == expected["datatype"]
            sizes = zip(each["shape"], expected["shape"], strict=True)
            assert all(known in (-1, size) for size, known in sizes), each["name"]


def test_outputs_that_are_named_come_alone_and_in_order(client: TestClient, jpeg: bytes) -> None:
    ours = client.post("/api/v1/attention", files={"image": jpeg}, data={"models": CBAM}).json()
    blocks = {each["block"]: each for each in ours["results"][0]["attention"]}
    names = ["layer1.0.channel", "layer4.1.spatial", "labels"]
    got = tensors(ask(client, as_bytes(jpeg), outputs=[{"name": name} for name in names]))
    assert list(got) == names, "these and no others, in the order in which they were asked for"
    np.testing.assert_allclose(got["layer1.0.channel"][0], blocks["layer1.0"]["channel"], atol=1e-5)
    packed = blocks["layer4.1"]["spatial"]
    np.testing.assert_allclose(got["layer4.1.spatial"][0], values(packed), atol=1 / 255)
    assert got["labels"].tolist() == [list(LABELS)]


def test_pixels_get_the_answer_of_the_file_that_holds_them(client: TestClient) -> None:
    image = photo(48, 40)
    pixels = np.asarray(image)
    nested = {**as_pixels(pixels, "UINT8"), "data": [pixels.tolist()]}
    wanted = tensors(ask(client, as_bytes(encoded(image, "PNG"))))
    for tensor in (
        as_pixels(pixels, "UINT8"),
        nested,
        as_pixels((pixels / 255).astype(np.float32), "FP32"),
    ):
        got = tensors(ask(client, tensor))
        assert_alike(got, wanted)
    other = tensors(ask(client, as_pixels(255 - pixels, "UINT8")))
    assert np.abs(other["probabilities"] - wanted["probabilities"]).max() > 1e-3


def post_binary(client: TestClient, tensor: dict[str, Any], data: bytes, **headers: str) -> Any:
    """Ask with the tensor's data behind the JSON."""
    size = {"binary_data_size": len(data)}
    head = json.dumps({"inputs": [{"parameters": size, **tensor}]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), **headers}
    return client.post(f"/v2/models/{CBAM}/infer", content=head + data, headers=headers)


def test_data_may_follow_the_json(client: TestClient) -> None:
    """What clients of Triton and KServe do by default; a file then needs no base64."""
    image = photo(48, 40)
    pixels, file = np.asarray(image), encoded(image, "PNG")
    wanted = tensors(ask(client, as_bytes(file)))
    described = {"name": "image", "shape": [1, *pixels.shape]}
    for tensor, data in (
        ({**described, "datatype": "UINT8"}, pixels.tobytes()),
        ({**described, "datatype": "FP32"}, (pixels / 255).astype("<f4").tobytes()),
        (
            {"name": "image", "shape": [1], "datatype": "BYTES"},
            len(file).to_bytes(4, "little") + file,
        ),
    ):
        got = tensors(post_binary(client, tensor, data))
        assert_alike(got, wanted)


def test_binary_data_that_do_not_fit_are_refused(client: TestClient) -> None:
    tensor = {"name": "image", "shape": [1, 1, 1, 3], "datatype": "FP32"}
    file = {**tensor, "shape": [1], "datatype": "BYTES"}
    good = np.float32([0, 0.5, 1]).tobytes()
    assert post_binary(client, tensor, good).status_code == 200
    nan = np.float32([0, np.nan, 1]).tobytes()
    assert_error(post_binary(client, tensor, nan), 400, "0 to 1")
    assert_error(post_binary(client, tensor, good[:-4]), 400, "3 FP32 numbers")
    assert_error(post_binary(client, tensor, good[:-1]), 400, "3 FP32 numbers")
    wrong = {**tensor, "parameters": {"binary_data_size": 99}}
    assert_error(post_binary(client, wrong, good), 400, "99", "12 came")
    assert_error(post_binary(client, file, b"\x03"), 400, "length in 4 bytes")
    assert_error(post_binary(client, file, b"\x03\0\0\0ab"), 400, "length in 4 bytes")
    assert_error(post_binary(client, file, b"\x03\0\0\0abc"), 415)
    for length in ("-1", "x", "9" * 30, "9" * 5000):
        headers = {"Inference-Header-Content-Length": length}
        assert_error(post_binary(client, tensor, good, **headers), 400, "bytes came")


def test_parameters_choose_what_is_explained(client: TestClient, jpeg: bytes) -> None:
    parameters = {"target": "c", "method": "layercam", "layer": "layer2.0"}
    answer = check(RESPONSE, ask(client, as_bytes(jpeg), parameters=parameters))
    assert answer["parameters"] == {**parameters, "target": 2, "label": "c"}
    ours = client.post(
        "/api/v1/explain", files={"image": jpeg}, data={"models": CBAM, **parameters}
    )
    packed = ours.json()["results"][0]["heatmaps"][0]["map"]
    heatmap = next(each for each in answer["outputs"] if each["name"] == "heatmap")
    assert heatmap["shape"] == [1, INPUT_PX // 8, INPUT_PX // 8]
    step = (packed["max"] - packed["min"]) / 255
    np.testing.assert_allclose(heatmap["data"], values(packed).ravel(), atol=0.51 * step)


def test_an_id_comes_back_and_none_is_invented(client: TestClient, jpeg: bytes) -> None:
    assert check(RESPONSE, ask(client, as_bytes(jpeg), id="42"))["id"] == "42"
    assert "id" not in check(RESPONSE, ask(client, as_bytes(jpeg)))


def test_what_other_clients_add_is_no_hindrance(client: TestClient, jpeg: bytes) -> None:
    """Triton's client asks for binary outputs, MLServer's says what the content is."""
    tensor = {
        **as_bytes(jpeg),
        "parameters": {"content_type": "base64"},
        "data": [as_bytes(jpeg)["data"]],
    }
    answer = ask(
        client,
        {**tensor, "shape": [1, 1]},
        parameters={"binary_data_output": True},
        outputs=[{"name": "probabilities", "parameters": {"binary_data": False}}],
    )
    assert tensors(answer)["probabilities"].sum() == pytest.approx(1, abs=1e-5)


PIXEL = {"name": "image", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": [1, 2, 3]}
TEXT = as_bytes(b"no image")


@pytest.mark.parametrize(
    ("tensor", "status", "words"),
    [
        ({**PIXEL, "name": "input"}, 400, ("'input'", "'image'")),
        ({**PIXEL, "datatype": "INT64"}, 400, ("INT64", "UINT8", "FP32", "BYTES")),
        ({**PIXEL, "shape": [1, 3]}, 400, ("[1, 3]", "[1, height, width, 3]")),
        ({**PIXEL, "shape": [2, 1, 1, 3], "data": [1] * 6}, 400, ("one image",)),
        ({**PIXEL, "shape": [1, 1, 0, 3], "data": []}, 400, ("[1, 1, 0, 3]",)),
        ({**PIXEL, "shape": [1, 2**62, 2**62, 3]}, 400, ("numbers of the shape",)),
        ({**PIXEL, "shape": [1, -1, -1, 3]}, 400, ("inputs.0.shape",)),
        ({**PIXEL, "data": [1, 2]}, 400, ("3 UINT8 numbers",)),
        ({**PIXEL, "data": [[1, 2], 3]}, 400, ("3 UINT8 numbers",)),
        ({**PIXEL, "data": [1, 2, 10**30]}, 400, ("3 UINT8 numbers",)),
        ({**PIXEL, "data": [1, 2, 256]}, 400, ("0 to 255",)),
        ({**PIXEL, "data": [0.5, 2, 3]}, 400, ("3 UINT8 numbers",)),
        ({**PIXEL, "data": "abc"}, 400, ("3 UINT8 numbers",)),
        ({**PIXEL, "data": None}, 400, ("3 UINT8 numbers",)),
        ({**PIXEL, "datatype": "FP32"}, 400, ("0 to 1",)),
        ({**PIXEL, "datatype": "FP32", "data": [0.5, "1", 0]}, 400, ("3 FP32 numbers",)),
        ({**TEXT, "data": ["!"]}, 400, ("base64",)),
        ({**TEXT, "data": ["ä"]}, 400, ("base64",)),
        ({**TEXT, "data": [1]}, 400, ("one base64 text",)),
        ({**TEXT, "shape": [2], "data": TEXT["data"] * 2}, 400, ("one image",)),
        (TEXT, 415, (EITHER,)),
        (as_bytes(encoded(photo())[:-500]), 422, ("truncated",)),
        (as_bytes(encoded(photo(3, 20_000), "PNG")), 422, ("20000 pixels",)),
    ],
)
def test_a_tensor_that_is_no_photo_is_refused(
    client: TestClient, tensor: dict[str, Any], status: int, words: tuple[str, ...]
) -> None:
    assert_error(ask(client, tensor), status, *words)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", ("The body",)),
        (b"image=1", ("The body",)),
        (b"[" * 100_000, ("The body",)),
        (b"[]", ("The body",)),
        (b'{"inputs": [{"name": "\\ud800"}]}', ("The body",)),
        (b"{}", ("inputs",)),
        (b'{"inputs": []}', ("inputs",)),
        (json.dumps({"inputs": [PIXEL, PIXEL]}).encode(), ("inputs", "at most 1")),
        (json.dumps({"inputs": [PIXEL], "parameters": {"target": {}}}).encode(), ("target",)),
        (json.dumps({"inputs": [PIXEL], "outputs": ["x"]}).encode(), ("outputs.0",)),
        (json.dumps({"inputs": [PIXEL], "outputs": [{"name": "x"}]}).encode(), ("'x'", "heatmap")),
        (json.dumps({"inputs": [{**PIXEL, "data": [float("nan")] * 3}]}).encode(), ("3 UINT8",)),
        (b'{"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES"}]}', ("data",)),
    ],
)
def test_a_body_that_is_no_request_is_refused(
    client: TestClient, body: bytes, words: tuple[str, ...]
) -> None:
    assert_error(client.post(f"/v2/models/{CBAM}/infer", content=body), 400, *words)


def test_a_refusal_is_short_however_much_came(client: TestClient) -> None:
    answer = ask(client, {**PIXEL, "data": list(range(10_000)), "shape": ["x" * 5000] * 5})
    assert_error(answer, 400)
    assert len(answer.text) < 1000


def test_unknown_names_are_refused(client: TestClient, jpeg: bytes) -> None:
    for path in ("", "/ready"):
        assert_error(client.get(f"/v2/models/none{path}"), 404, "'none'", *FAMILY)
    assert_error(ask(client, as_bytes(jpeg), "none"), 404, "'none'")
    for parameters in ({"method": "x"}, {"layer": "x"}, {"target": "x"}):
        assert_error(ask(client, as_bytes(jpeg), parameters=parameters), 422, "'x'")


def test_a_body_that_is_too_large_is_refused(serve: Callable[..., TestClient]) -> None:
    client = serve(max_upload_mb=0.1)
    assert_error(ask(client, as_bytes(bytes(100_000))), 413, "0.1 MiB")
    assert ask(client, as_bytes(encoded(photo()))).status_code == 200


def test_too_many_pixels_are_refused_however_they_come(serve: Callable[..., TestClient]) -> None:
    client = serve(max_megapixels=0.01)
    image = photo(160, 120)
    for tensor in (as_bytes(encoded(image)), as_pixels(np.asarray(image), "UINT8")):
        assert_error(ask(client, tensor), 422, "160 x 120", "0.01 megapixels")


def test_a_service_that_stops_is_alive_but_not_ready(
    serve: Callable[..., TestClient], jpeg: bytes
) -> None:
    client = serve()
    client.app.state.engine.drain()  # type: ignore[attr-defined]
    assert client.get("/v2/health/live").status_code == 200
    for answer in (
        client.get("/v2/health/ready"),
        client.get(f"/v2/models/{CBAM}/ready"),
        ask(client, as_bytes(jpeg)),
    ):
        assert_error(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1


def test_a_full_queue_is_said_so(serve: Callable[..., TestClient], jpeg: bytes) -> None:
    """It is the queue of every other request: a place kept there is missing here."""
    client = serve(queue_length=1)
    queue = client.app.state.engine.queue  # type: ignore[attr-defined]
    queue._kept = 1
    assert_error(ask(client, as_bytes(jpeg)), 503, "Too many requests")
    queue._kept = 0
    assert ask(client, as_bytes(jpeg)).status_code == 200


def test_models_need_a_key_where_the_api_does(
    serve: Callable[..., TestClient], jpeg: bytes
) -> None:
    key = "k" * 32
    client = serve(api_keys=key)
    assert client.get(f"/v2/models/{CBAM}").status_code == 200
    assert_error(ask(client, as_bytes(jpeg)), 401, "X-API-Key")
    client.headers["X-API-Key"] = key
    assert ask(client, as_bytes(jpeg)).status_code == 200


def test_a_file_of_pixels_is_decoded_as_it_was_sent() -> None:
    """The way through PNG loses nothing, at odd sizes neither."""
    from app.oip.tensors import parse

    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3))
    body = json.dumps({"inputs": [as_pixels(pixels, "UINT8")]}).encode()
    np.testing.assert_array_equal(np.asarray(picture(parse(body)[1])), pixels)
