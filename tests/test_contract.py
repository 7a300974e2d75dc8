"""The service keeps to its own OpenAPI document, whatever is sent: Schemathesis, all its checks.

Names that differ from one installation to the next (models, classes, blocks) are no part of the
document; they are taken from /models here, as a client does.
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import detecting
import pytest
import schemathesis
from app_fixtures import (
    BLOCKS,
    FAMILY,
    LABELS,
    encoded,
    photo,
    shared_by_services,
    write_family,
)
from fastapi import FastAPI
from heic import heic
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode
from schemathesis.python.asgi import get_client
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from starlette.types import Receive, Scope, Send

from app.main import create_app
from app.routes.api import api, lists
from app.routes.bundle import bundles
from app.routes.faithfulness import faithfulness
from app.routes.forms import FaithfulnessFields
from app.routes.inside import inside
from app.settings import Settings
from cbam import METHODS
from cbam.cards.families import available
from cbam.detectors import OF
from cbam.evaluate.examine import Exam
from cbam.evaluate.faithfulness import FILLS
from cbam.explain.detection import BOX_METHODS
from cbam.explain.features import PICKS
from cbam.images.formats import EITHER, FORMATS

pytest_plugins = ["app_fixtures"]
# Schemathesis' own: warnings of the libraries that it drives, not of the service.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:schemathesis"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:jsonschema"),
]

PHOTOS = [
    heic() if kind == "HEIF" else encoded(photo(40, 30, seed), kind)
    for seed, kind in enumerate(FORMATS)
]
ENUMS = {
    "models": {"items": {"enum": list(FAMILY)}},
    "model": {"enum": list(FAMILY)},
    "family": {"enum": ["tiny"]},
    "target": {"enum": [*LABELS, "0", "9"]},
    "versus": {"enum": list(LABELS)},
    "layer": {"enum": list(BLOCKS)},
    "fuse": {"enum": ["mean", "max"]},
    "method": {"enum": list(METHODS)},
    "gates": {"enum": ["open", "*=0.5", "*.channel=off", "layer1.0.channel[0]=at:0.3"]},
    "block": {"enum": list(BLOCKS)},
    "channels": {"enum": ["0", "1, 3-5"]},
    "pick": {"enum": list(PICKS)},
    "fill": {"enum": list(FILLS)},
    "box": {"enum": ["1,2,30,28", "0,0,5.5,1e1"]},
}
DETECTORS = [f"{name}-things" for name in FAMILY]
DETECT_ENUMS = {
    "models": {"items": {"enum": DETECTORS}},
    "family": {"enum": ["things"]},
    "layer": {"enum": list(BLOCKS[:6])},  # no path leads around those
    "method": {"enum": list(BOX_METHODS)},
    "of": {"enum": list(OF)},
    "box": ENUMS["box"],
    "label": {"enum": list(detecting.LABELS)},
}
# Why a form that the schema allows may be refused: what no schema can say.
BEYOND_SCHEMAS = (
    f"not a {EITHER}",  # Schemathesis sends other bytes as a photo, too
    "To contrast it with",  # two fields that only one method takes together
    "cannot be contrasted with itself",
    "these models have no gates",
    "no gates to look at",
    "Choose another one",  # a method of hundreds of passes, for every random network
)
# A form has text only, and a box that is ticked sends "on".
BOOLEANS = ["true", "false", "1", "0", "on", "off", "yes", "no", "t", "f", "y", "n"]
COMMON = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}

schemathesis.openapi.format("binary", st.sampled_from(PHOTOS))


def _with_names(document: dict[str, Any], top_k_max: int) -> dict[str, Any]:
    """The document, with the names that this installation has."""
    for path, item in document["paths"].items():
        enums = DETECT_ENUMS if path.endswith("/detect") else ENUMS
        for operation in item.values():
            for parameter in operation.get("parameters", ()):
                parameter["schema"] |= ENUMS.get(parameter["name"], {})
            content = operation.get("requestBody", {}).get("content", {})
            for media in content.values():
                properties = media["schema"].get("properties", {})
                for name in set(properties) & set(enums):
                    properties[name] = {**properties[name], **enums[name]}
                if "model" in properties:
                    properties.pop("models", None)  # /heatmap takes one of the two
                if "top_k" in properties:
                    properties["top_k"]["maximum"] = top_k_max
                for item in properties.values():
                    if item.get("type") == "boolean":
                        item.pop("type")
                        item["enum"] = BOOLEANS
    return document


class _Late:
    """An ASGI app that there is when the tests run, but not yet when they are collected."""

    app: FastAPI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


late = _Late()
document = FastAPI()
for router in (lists, api, inside, faithfulness, bundles):
    document.include_router(router)
contract = schemathesis.openapi.from_dict(_with_names(document.openapi(), Settings().top_k_max))
contract.app = late


@pytest.fixture(scope="session")
def with_detectors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A models folder with the tiny family and a detector on each of its members."""
    folder = write_family(tmp_path_factory.mktemp("with-detectors"))
    for card in available(folder).values():
        detecting.tiny_detector(folder, card.attention, card)
    with shared_by_services(folder):
        yield folder


@pytest.fixture(autouse=True)
def few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps are tried in as few steps as can be, whatever is asked for."""
    exam = FaithfulnessFields.exam

    def small(fields: FaithfulnessFields, time_limit_s: float) -> Exam:
        few = {"steps": 2, "orders": min(1, fields.orders)}
        return exam(fields.model_copy(update=few), time_limit_s)

    monkeypatch.setattr(FaithfulnessFields, "exam", small)


@pytest.fixture(autouse=True)
def served(with_detectors: Path) -> Any:
    """The document of a running app. Schemathesis runs it, and ends it after each test."""
    patient = {"inference_timeout_s": 300, "long_timeout_s": 300}  # however busy this machine is
    late.app = create_app(Settings(models_folder=with_detectors, **patient))
    with get_client(late) as client:
        end = time.monotonic() + 60
        while client.get("http://testserver/readyz").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.05)
        return client.get("http://testserver/openapi.json").json()


def test_the_document_is_the_one_that_is_served(served: dict[str, Any]) -> None:
    assert document.openapi()["paths"].keys() == served["paths"].keys()


@pytest.mark.parametrize("route", ["models", "methods", "limits", "queue"])
def test_what_is_open_to_everybody_has_no_problems_described_but_its_start(
    served: dict[str, Any], route: str
) -> None:
    described = served["paths"][f"/api/v1/{route}"]["get"]["responses"]
    expected = {"200", "503"} if route == "models" else {"200"}  # while the models are being loaded
    assert set(described) == expected


def _has_empty_fields(sent: Any) -> bool:
    """A field sent empty, as HTML forms do, is one not given; an empty list is not even sent."""
    return isinstance(sent, Mapping) and any(_is_empty(value) for value in sent.values())


def _is_empty(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_empty, value))
    return value in ("", "null", None)


def keeps(case: Any) -> None:
    """The answer passes every check, and is a problem where it is an error."""
    excluded = [positive_data_acceptance]
    if _has_empty_fields(case.body) or _has_empty_fields(case.query):
        excluded.append(negative_data_rejection)
    answer = case.call_and_validate(
        excluded_checks=excluded,
        timeout=180,  # a first request imports what its method needs
    )
    if answer.status_code < 400:
        return
    problem = answer.json()
    assert answer.headers["content-type"] == ["application/problem+json"]
    assert problem["status"] == answer.status_code
    assert problem["title"]
    assert problem["instance"] == case.path
    assert [problem["request_id"]] == answer.headers["x-request-id"]
    if case.meta.generation.mode is GenerationMode.POSITIVE:
        assert any(words in problem["detail"] for words in BEYOND_SCHEMAS), problem["detail"]


@contract.parametrize()
@settings(max_examples=5, **COMMON)
def test_every_operation_keeps_to_its_description(case: Any) -> None:
    keeps(case)


@pytest.mark.slow
@contract.parametrize()
@settings(max_examples=100, **COMMON)
def test_every_operation_keeps_to_its_description_at_length(case: Any) -> None:
    keeps(case)
