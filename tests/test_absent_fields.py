"""Absent, empty and null mean the same, lists are lists and HEAD is GET: everywhere."""

import base64
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from starlette.routing import Mount

from app.oip import tensors as protocol
from app.routes.forms import MOST_MODELS, ExplainFields, Fields, PageFields
from app.routes.uploads import FIELD_NAME, Upload
from app.settings import Settings
from cbam.explain.detection import MOST_LAYERS

pytest_plugins = ["app_fixtures"]

EMPTY = ("", "  ", "null")
TRUE = ("true", "True", "TRUE", "1", "yes", "on", "t", "y", " true ")
FALSE = ("false", "False", "FALSE", "0", "no", "off", "f", "n", " false ")


def all_fields() -> list[type[Fields]]:
    """Every form of the service: all kinds of Fields."""
    found, left = [], [Fields]
    while left:
        found.append(left.pop())
        left += found[-1].__subclasses__()
    return found


FORMS = all_fields()


def forms(app: FastAPI) -> dict[str, list[str]]:
    """Every route with a form -> the names of its fields beside the photo, by the OpenAPI.

    Without the one for detectors, of which the tiny app has none; its form is tried by itself.
    """
    found = {}
    for path, item in app.openapi()["paths"].items():
        content = item.get("post", {}).get("requestBody", {}).get("content", {})
        if "multipart/form-data" in content and not path.endswith("/detect"):
            names = content["multipart/form-data"]["schema"]["properties"]
            found[path] = [name for name in names if name != FIELD_NAME]
    assert len(found) >= 5
    return {**found, "/": [name for name in PageFields.model_fields if name != "photo"]}


def ask(client: TestClient, path: str, jpeg: bytes, **how: Any) -> Any:
    """The answer without what differs from time to time."""
    answer = client.post(path, files={FIELD_NAME: ("x.jpg", jpeg)}, **how)
    assert answer.status_code == 200, answer.text[:500]
    if answer.headers["content-type"] != "application/json":
        return re.sub(rb"[\d.]+( \+ [\d.]+)? ms", b"", answer.content)

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: timeless(each) for k, each in value.items() if k != "timing_ms"}
        return [timeless(each) for each in value] if isinstance(value, list) else value

    return timeless(answer.json())


@pytest.fixture(scope="module")
def plain(client: TestClient, jpeg: bytes) -> Callable[[str], Any]:
    """A route's answer to a photo without fields, each asked once."""
    return functools.cache(lambda path: ask(client, path, jpeg))


@pytest.mark.parametrize("place", ["data", "params"])
def test_an_empty_field_is_an_absent_one_on_every_route(
    client: TestClient, tiny_app: FastAPI, jpeg: bytes, plain: Callable[[str], Any], place: str
):
    for path, names in forms(tiny_app).items():
        empty = dict(zip(names, itertools.cycle(EMPTY), strict=False))
        assert ask(client, path, jpeg, **{place: empty}) == plain(path), path


@pytest.mark.parametrize("empty", EMPTY)
@pytest.mark.parametrize("place", ["data", "params"])
def test_a_field_may_be_empty_in_every_way_and_repeated(
    client: TestClient, jpeg: bytes, plain: Callable[[str], Any], place: str, empty: str
):
    path, names = "/api/v1/explain", ExplainFields.model_fields
    for texts in ([empty], [empty, empty]):
        fields = dict.fromkeys(names, texts)
        assert ask(client, path, jpeg, **{place: fields}) == plain(path), texts


@pytest.mark.parametrize("empty", EMPTY)
def test_an_empty_query_parameter_is_an_absent_one(
    client: TestClient, tiny_app: FastAPI, empty: str
):
    found = {
        (path, parameter["name"])
        for path, item in tiny_app.openapi()["paths"].items()
        for parameter in item.get("get", {}).get("parameters", ())
        if parameter["in"] == "query"
    }
    for path, name in found:
        answer = client.get(path, params={name: empty})
        assert answer.status_code == 200, (path, name, answer.text)
        assert answer.content == client.get(path).content


@pytest.mark.parametrize("fields", FORMS)
def test_an_empty_field_is_an_absent_one_in_every_form(fields: type[Fields]):
    for name in fields.model_fields:
        for texts in ([], *([empty] for empty in EMPTY), ["", "null"]):
            values = fields.values(Upload(None, {name: texts} if texts else {}))
            assert fields.model_validate(values) == fields(), (name, texts)


@pytest.mark.parametrize("place", ["data", "params"])
@pytest.mark.parametrize(
    ("name", "one", "other"),
    [("models", "tiny-se", "tiny-cbam"), ("layer", "layer3.1", "layer4.0")],
)
def test_lists_may_be_repeated_or_have_commas_on_every_route(
    client: TestClient, tiny_app: FastAPI, jpeg: bytes, name: str, one: str, other: str, place: str
):
    routes = {path: names for path, names in forms(tiny_app).items() if name in names}
    assert len(routes) >= 3
    for path, names in routes.items():
        if path.endswith("/heatmap") and name == "models":
            continue  # it shows one model
        # Curves take hundreds of passes, and are no matter here.
        quick = {"curves": "false"} if "curves" in names else {}
        wanted = ask(client, path, jpeg, data={name: [one, other], **quick})
        if not path.endswith("/features"):  # it leaves out models without gates as it is
            assert ask(client, path, jpeg, data=quick) != wanted
        for texts in (
            f"{one},{other}",
            f" {one} , {other}, ",
            [one, "", other],
            [f"{one},", other],
        ):
            fields: dict[str, Any] = {"data": quick}
            fields[place] = {**fields.get(place, {}), name: texts}
            assert ask(client, path, jpeg, **fields) == wanted, (path, texts)


def test_a_form_may_have_as_many_fields_as_the_largest_one_needs():
    most = {"models": MOST_MODELS, "layer": MOST_LAYERS}
    needed = {form: sum(most.get(name, 1) for name in form.model_fields) for form in FORMS}
    assert Settings().max_fields == max(needed.values()), needed


def test_a_list_of_models_with_commas_may_be_too_long(client: TestClient, jpeg: bytes):
    answer = client.post(
        "/api/v1/predict", files={FIELD_NAME: jpeg}, data={"models": ",".join(["tiny-se"] * 9)}
    )
    assert answer.status_code == 422
    assert "models" in answer.json()["detail"]


@pytest.mark.parametrize("fields", FORMS)
def test_truth_is_spelt_in_the_usual_ways(fields: type[Fields]):
    for name, field in fields.model_fields.items():
        if field.annotation is bool:
            for spellings, meant in ((TRUE, True), (FALSE, False)):
                for text in spellings:
                    values = fields.values(Upload(None, {name: [text]}))
                    assert getattr(fields.model_validate(values), name) is meant, (name, text)


def test_the_last_of_repeated_fields_counts(client: TestClient, jpeg: bytes):
    for texts in (["1", "2"], ["1", "2", ""]):
        answer = client.post("/api/v1/predict", files={FIELD_NAME: jpeg}, data={"top_k": texts})
        assert len(answer.json()["results"][0]["predictions"]) == 2


def test_an_unknown_field_is_an_error_even_if_it_is_empty(client: TestClient, jpeg: bytes):
    for text in ("x", ""):
        answer = client.post("/api/v1/predict", files={FIELD_NAME: jpeg}, data={"topk": text})
        assert answer.status_code == 422
        assert "There is no field 'topk'" in answer.json()["detail"]


# The Open Inference Protocol


def request_of(jpeg: bytes, **more: Any) -> dict[str, Any]:
    data = [base64.b64encode(jpeg).decode()]
    return {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": data}], **more}


def infer(client: TestClient, body: dict[str, Any]) -> Any:
    answer = client.post("/v2/models/tiny-cbam/infer", content=json.dumps(body))
    assert answer.status_code == 200, answer.text[:500]
    return answer.json()


@pytest.mark.parametrize("empty", [None, ""])
def test_null_is_absent_in_every_part_of_an_inference_request(
    client: TestClient, jpeg: bytes, empty: None | str
):
    wanted = infer(client, request_of(jpeg))
    optional = [name for name in protocol.InferRequest.model_fields if name != "inputs"]
    assert infer(client, request_of(jpeg, **dict.fromkeys(optional, empty))) == wanted
    nothing = dict.fromkeys(protocol.Parameters.model_fields, empty)
    body = request_of(jpeg, parameters=nothing, outputs=[])
    nothing = dict.fromkeys(protocol.InputParameters.model_fields, empty)
    body["inputs"][0]["parameters"] = nothing
    assert infer(client, body) == wanted
    body["inputs"][0]["parameters"] = empty
    assert infer(client, body) == wanted


def test_hints_for_other_servers_are_ignored_in_every_part(client: TestClient, jpeg: bytes):
    # What Triton's clients send: docs/protocol/extension_*.md of triton-inference-server/server.
    hints = {
        "sequence_id": 7, "sequence_start": True, "sequence_end": False, "priority": 2,
        "timeout": 1000, "binary_data_output": True, "headers": {"a": "b"}, "classification": 3,
        "shared_memory_region": None, "content_type": "base64", "triton_enable_empty": True,
    }  # fmt: skip
    outputs = [{"name": "probabilities"}]
    wanted = infer(client, request_of(jpeg, outputs=outputs))
    body = request_of(jpeg, parameters=hints, outputs=[{**outputs[0], "parameters": hints}], x=1)
    body["inputs"][0] |= {"parameters": hints, "y": 2}
    assert infer(client, body) == wanted


def test_layers_of_an_inference_request_are_a_list_or_have_commas(client: TestClient, jpeg: bytes):
    answers = [
        infer(client, request_of(jpeg, parameters={"layer": layer}, outputs=[{"name": "heatmap"}]))
        for layer in ("layer3.1,layer4.0", ["layer3.1", "layer4.0"])
    ]
    assert answers[0] == answers[1]
    assert answers[0]["parameters"]["layer"] == "layer3.1,layer4.0"


# HEAD


FILES = {"static": "css/site.css", "swagger": "swagger-ui.css"}  # one of each mount


def routes(router: Any) -> Iterator[Any]:
    """All routes, also those of included routers."""
    for route in router.routes:
        inner = getattr(route, "original_router", None)  # how FastAPI keeps them
        yield from [route] if inner is None else routes(inner)


def addresses(app: FastAPI) -> Iterator[str]:
    """An address of every route that answers GET."""
    for route in routes(app):
        if isinstance(route, Mount):
            yield f"{route.path}/{FILES[route.name]}"
        elif "GET" in (getattr(route, "methods", None) or ()):
            path = route.path.replace("{name}", "tiny-cbam")
            if "{version}" not in path:
                yield path


def test_head_is_answered_like_get_everywhere(client: TestClient, tiny_app: FastAPI):
    found = list(addresses(tiny_app))
    assert len(found) > 12
    assert {"/", "/healthz", "/metrics", "/v2", "/openapi.json", "/docs"} <= set(found)
    varies = {"x-request-id", "date", "server-timing"}
    for path in (*found, "/nothing", "/?photo=cat.jpg", "/static/nothing", "/v2/models/x"):
        got, head = client.get(path), client.head(path)
        assert head.status_code == got.status_code, path
        assert head.content == b"", path
        names = {*got.headers, *head.headers} - varies
        if path in ("/metrics", "/?photo=cat.jpg"):  # a count, milliseconds: not always as long
            names.remove("content-length")
        assert {n: head.headers.get(n) for n in names} == {n: got.headers.get(n) for n in names}, (
            path
        )


def test_head_where_only_post_is_says_what_is_allowed(client: TestClient, tiny_app: FastAPI):
    posts = [
        route.path
        for route in routes(tiny_app)
        if isinstance(route, APIRoute) and route.methods == {"POST"} and "{" not in route.path
    ]
    assert len(posts) >= 5
    for path in posts:
        if path != "/":
            assert client.head(path).status_code == 405
            assert client.head(path).headers["allow"] == "POST"
    assert client.post("/api/v1/models").headers["allow"] == "GET, HEAD"


def test_head_is_counted_as_head_with_its_route(client: TestClient):
    client.head("/api/v1/methods")
    assert 'method="HEAD",route="/api/v1/methods"' in client.get("/metrics").text
