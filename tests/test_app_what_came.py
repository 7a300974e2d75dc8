"""A body that is no form with a photo is told what it is, and what would work."""

import base64
import gzip
import io
import json
from typing import Any

import pytest
from app_fixtures import assert_problem, encoded, photo
from fastapi.testclient import TestClient

from app.routes.uploads import FIELD_NAME

pytest_plugins = ["app_fixtures"]

EXPLAIN = "/api/v1/explain"
BOUNDARY = "----0"


def part(data: bytes, disposition: str, *headers: str) -> bytes:
    """One part of a form, its headers written by hand."""
    head = (f"--{BOUNDARY}", f"Content-Disposition: form-data; {disposition}", *headers, "", "")
    return "\r\n".join(head).encode() + data + b"\r\n"


def by_hand(client: TestClient, *parts: bytes) -> Any:
    return client.post(
        EXPLAIN,
        content=b"".join(parts) + f"--{BOUNDARY}--\r\n".encode(),
        headers={"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"},
    )


@pytest.mark.parametrize(
    "disposition",
    ['name="image"', "name=image", 'name="image"; filename=""', 'name="image"; filename="a.txt"'],
)
@pytest.mark.parametrize(
    "headers",
    [(), ("Content-Type: image/jpeg",), ("Content-Type: application/octet-stream",),
     ("Content-Type: text/plain; charset=utf-8",)],
)  # fmt: skip
def test_a_photo_is_read_with_or_without_a_file_name(
    client: TestClient, disposition: str, headers: tuple[str, ...]
):
    large = encoded(photo(900, 700), "PNG")  # larger than any other field may be
    assert len(large) > 5000
    answer = by_hand(client, part(large, disposition, *headers))
    assert answer.status_code == 200, answer.text
    assert answer.json()["image"]["width"] == 900


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        (b"photo.jpg", 422, ("holds text, not a file", "photo.jpg", "with an @")),
        (b"https://example.org/a.jpg", 422, ("holds text", "https://example.org/a.jpg")),
        (b"data:image/png;base64,iVBORw0KGgo", 415, ("data: URL", "base64")),
        (base64.b64encode(encoded(photo())), 415, ("base64", "Decode it")),
        (b"GIF89a" + bytes(50), 415, ("a GIF", "Save one frame")),
        (b"%PDF-1.7\n" + bytes(50), 415, ("PDF", "Export it")),
        (b"", 422, ("No photo came",)),
    ],
)
def test_what_is_no_photo_is_named_in_the_photos_field(
    client: TestClient, text: bytes, status: int, words: tuple[str, ...]
):
    assert_problem(by_hand(client, part(text, 'name="image"')), status, *words)


def test_a_long_field_is_named(client: TestClient, jpeg: bytes):
    answer = by_hand(client, part(jpeg, 'name="file"'))
    assert_problem(answer, 400, "Field 'file' is longer than 4 KiB", "Send one photo as 'image'")


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd", "gzip, br", "x"])
@pytest.mark.parametrize("path", [EXPLAIN, "/api/v1/predict", "/v2/models/tiny-cbam/infer"])
def test_a_compressed_body_gets_a_415(client: TestClient, jpeg: bytes, encoding: str, path: str):
    answer = client.post(
        path,
        content=gzip.compress(jpeg),
        headers={"Content-Encoding": encoding, "Content-Type": "multipart/form-data; boundary=0"},
    )
    assert answer.status_code == 415
    if not path.startswith("/v2"):
        assert_problem(answer, 415, "compressed", encoding)
        assert answer.headers["accept-encoding"] == "identity"


def test_identity_is_no_compression(client: TestClient, jpeg: bytes):
    answer = client.post(
        EXPLAIN, files={FIELD_NAME: jpeg}, headers={"Content-Encoding": "identity"}
    )
    assert answer.status_code == 200


JPEG = encoded(photo())


@pytest.mark.parametrize(
    ("content", "kind", "status", "words"),
    [
        (JPEG, None, 415, ("no Content-Type",)),
        (JPEG, "image/jpeg", 415, ("image/jpeg", "photo alone")),
        (JPEG, "application/octet-stream", 415, ("octet-stream", "photo alone")),
        (JPEG, "application/x-www-form-urlencoded", 415, ("-F instead of -d",)),
        (json.dumps({"image": "x"}).encode(), "application/json", 415, ("JSON cannot hold",)),
        (b"{}", "application/problem+json; charset=utf-8", 415, ("JSON cannot hold",)),
        (b"x", "text/plain", 415, ("text/plain",)),
        (b"x", "multipart/mixed; boundary=0", 415, ("multipart/mixed",)),
        (b"x", "multipart/form-data", 400, ("boundary",)),
        (b"x", "multipart/form-data; boundary=", 400, ("boundary",)),
        (b"x", "nonsense", 415, ("nonsense",)),
    ],
)
def test_a_body_of_another_kind_is_told_what_works(
    client: TestClient, content: bytes, kind: str | None, status: int, words: tuple[str, ...]
):
    answer = client.post(EXPLAIN, content=content, headers={"Content-Type": kind} if kind else {})
    assert_problem(answer, status, *words, "Send multipart/form-data", f"-F {FIELD_NAME}=@")


def test_a_photos_address_is_not_fetched(client: TestClient, jpeg: bytes):
    answer = client.post(
        EXPLAIN, files={FIELD_NAME: jpeg}, params={FIELD_NAME: "https://example.org/a.jpg"}
    )
    assert_problem(answer, 422, "not fetched")
    answer = client.post(EXPLAIN, files={FIELD_NAME: jpeg}, params={FIELD_NAME: ""})
    assert answer.status_code == 200


def test_a_form_for_the_inference_protocol_is_sent_to_the_right_route(
    client: TestClient, jpeg: bytes
):
    answer = client.post("/v2/models/tiny-cbam/infer", files={FIELD_NAME: io.BytesIO(jpeg)})
    assert answer.status_code == 415
    assert "/api/v1/explain" in answer.json()["error"]
