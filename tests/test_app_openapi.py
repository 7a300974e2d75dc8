"""The API's description: valid, complete, and what the answers really look like."""

from typing import Any

import pytest
from app_fixtures import FAMILY, encoded, photo
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from app.routes.forms import (
    AttentionFields,
    BundleFields,
    CompareFields,
    DetectFields,
    ExplainFields,
    FaithfulnessFields,
    FeaturesFields,
    Fields,
    HeatmapFields,
    InterveneFields,
    PredictFields,
)

pytest_plugins = ["app_fixtures"]

PREFIX = "/api/v1"
GET = ("models", "classes", "methods", "limits", "queue")
POST: dict[str, type[Fields]] = {
    "predict": PredictFields,
    "explain": ExplainFields,
    "heatmap": HeatmapFields,
    "compare": CompareFields,
    "attention": AttentionFields,
    "intervene": InterveneFields,
    "features": FeaturesFields,
    "faithfulness": FaithfulnessFields,
    "bundle": BundleFields,
}
ROUTES = {**POST, "detect": DetectFields}  # /detect needs detectors: test_app_detect.py asks it
PROBLEMS = ("400", "401", "408", "413", "415", "422", "429", "501", "503", "504")


@pytest.fixture(scope="module")
def document(client: TestClient) -> dict[str, Any]:
    """/openapi.json"""
    result: dict[str, Any] = client.get("/openapi.json").json()
    return result


def fields_of(document: dict[str, Any], route: str) -> dict[str, Any]:
    """The schema of a route's form."""
    body = document["paths"][f"{PREFIX}/{route}"]["post"]["requestBody"]
    assert body["required"] is True
    assert set(body["content"]) == {"multipart/form-data"}
    schema: dict[str, Any] = body["content"]["multipart/form-data"]["schema"]
    return schema


def check(document: dict[str, Any], schema: dict[str, Any], answer: Any) -> None:
    """The answer is what the schema says, down to the last key."""
    whole = {**schema, "components": _closed(document["components"])}
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(whole).validate(answer)


def _closed(schema: Any) -> Any:
    """The schema, its objects without any key that it does not name."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if isinstance(closed.get("properties"), dict) and closed.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


def json_schema(document: dict[str, Any], route: str, method: str) -> dict[str, Any]:
    """What a route answers with status 200, as JSON."""
    responses = document["paths"][f"{PREFIX}/{route}"][method]["responses"]
    schema: dict[str, Any] = responses["200"]["content"]["application/json"]["schema"]
    return schema


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    validate(document)
    assert document["openapi"].startswith("3.1")
    assert document["info"]["title"] == "CBAM Lens"
    assert document["info"]["license"]["name"] == "MIT"


def test_every_route_is_described_and_nothing_else(document: dict[str, Any]) -> None:
    described = {
        (path.removeprefix(f"{PREFIX}/"), method)
        for path, item in document["paths"].items()
        for method in item
    }
    assert described == {(name, "get") for name in GET} | {(name, "post") for name in ROUTES}
    for item in document["paths"].values():
        for operation in item.values():
            assert len(operation["description"]) > 20


@pytest.mark.parametrize("route", ROUTES)
def test_every_form_field_is_described(document: dict[str, Any], route: str) -> None:
    schema = fields_of(document, route)
    assert set(schema["properties"]) == {"image", *ROUTES[route].model_fields}
    assert schema["required"] == ["image"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["image"]["format"] == "binary"
    for name, item in schema["properties"].items():
        assert item["type"] in ("string", "integer", "number", "boolean", "array"), name
        assert len(item["description"]) > 5, name


@pytest.mark.parametrize("route", POST)
def test_the_described_defaults_are_accepted_and_change_nothing(
    client: TestClient, document: dict[str, Any], jpeg: bytes, route: str
) -> None:
    properties = fields_of(document, route)["properties"]
    defaults = {
        name: str(item["default"]).lower()
        for name, item in properties.items()
        if isinstance(item.get("default"), (str, int, float))
    }
    plain, explicit = (
        client.post(f"{PREFIX}/{route}", files={"image": ("x.jpg", jpeg)}, data=fields)
        for fields in ({}, defaults)
    )
    assert plain.status_code == explicit.status_code == 200, explicit.text
    if plain.headers["content-type"] != "application/json":
        assert plain.content == explicit.content
    else:
        assert plain.json()["results"][0].keys() == explicit.json()["results"][0].keys()


@pytest.mark.parametrize("route", ROUTES)
def test_every_problem_is_described(document: dict[str, Any], route: str) -> None:
    responses = document["paths"][f"{PREFIX}/{route}"]["post"]["responses"]
    assert set(responses) == {"200", *PROBLEMS}
    for status in PROBLEMS:
        assert set(responses[status]["content"]) == {"application/problem+json"}
        assert responses[status]["description"]


@pytest.mark.parametrize("route", GET)
def test_what_there_is_looks_as_described(
    client: TestClient, document: dict[str, Any], route: str
) -> None:
    answer = client.get(f"{PREFIX}/{route}").json()
    check(document, json_schema(document, route, "get"), answer)
    assert answer


@pytest.mark.parametrize("route", ["predict", "explain", "attention", "features", "faithfulness"])
def test_json_answers_look_as_described(
    client: TestClient, document: dict[str, Any], jpeg: bytes, route: str
) -> None:
    answer = client.post(f"{PREFIX}/{route}", files={"image": ("x.jpg", jpeg)}).json()
    check(document, json_schema(document, route, "post"), answer)
    asked = FAMILY[1:] if route == "features" else FAMILY  # the first has no gates
    assert [result["model"] for result in answer["results"]] == list(asked)


@pytest.mark.parametrize("route", ["heatmap", "compare", "attention"])
def test_pictures_are_described_as_pictures(
    client: TestClient, document: dict[str, Any], jpeg: bytes, route: str
) -> None:
    described = document["paths"][f"{PREFIX}/{route}"]["post"]["responses"]["200"]["content"]
    expected = {"image/png", "application/json"} if route == "attention" else {"image/png"}
    assert set(described) == expected
    answer = client.post(
        f"{PREFIX}/{route}", files={"image": ("x.jpg", jpeg)}, headers={"Accept": "image/png"}
    )
    assert answer.headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (
            {"content": b"garbage", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
            400,
        ),
        ({"files": {"image": ("x.jpg", bytes(11 * 2**20))}}, 413),
        ({"files": {"image": ("x.jpg", b"text")}}, 415),
        ({"files": {"image": ("x.jpg", encoded(photo()))}, "data": {"method": "x"}}, 422),
    ],
)
def test_problems_look_as_described(
    client: TestClient, document: dict[str, Any], request_: dict[str, Any], status: int
) -> None:
    responses = document["paths"][f"{PREFIX}/explain"]["post"]["responses"]
    answer = client.post(f"{PREFIX}/explain", **request_)
    assert answer.status_code == status
    schema = responses[str(status)]["content"]["application/problem+json"]["schema"]
    check(document, schema, answer.json())
