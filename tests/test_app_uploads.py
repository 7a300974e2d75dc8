"""Uploads: whatever comes, the answer says what is wrong with it, and the next one is served."""

import asyncio
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from app_fixtures import assert_problem, encoded, form_of, photo, picture, post_raw
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image, PngImagePlugin

from cbam.images.formats import EITHER

pytest_plugins = ["app_fixtures"]

EXPLAIN = "/api/v1/explain"
MULTIPART = {"Content-Type": "multipart/form-data; boundary=edge"}
ORIENTATION = 0x0112
# What a camera does to the upright picture before it writes the orientation: its inverse.
TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def send(client: TestClient, data: bytes, name: str = "photo.jpg", kind: str = "image/jpeg") -> Any:
    """POST a file to /explain."""
    return client.post(EXPLAIN, files={"image": (name, data, kind)})


def part(content: bytes, name: bytes = b"image", filename: bytes | None = b"x.jpg") -> bytes:
    """One part of a form with the boundary `edge`, by hand."""
    file = b"" if filename is None else b'; filename="' + filename + b'"'
    head = b'--edge\r\nContent-Disposition: form-data; name="' + name + b'"' + file
    return head + b"\r\n\r\n" + content + b"\r\n"


END = b"--edge--\r\n"


def by_hand(client: TestClient, body: Any) -> Any:
    """POST a multipart body that no client would write."""
    return client.post(EXPLAIN, content=body, headers=MULTIPART)


def png_that_says(width: int, height: int) -> bytes:
    """A PNG whose header announces a size, and little else."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.fixture
def goes_on(client: TestClient, jpeg: bytes) -> Iterator[None]:
    """After the test the same server answers a good photo as before it."""
    before = send(client, jpeg).json()["results"][0]["predictions"]
    yield
    after = send(client, jpeg)
    assert after.status_code == 200, after.text
    assert after.json()["results"][0]["predictions"] == before


# Files that are no photo


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        pytest.param(b"hello, I am text", 415, (EITHER,), id="text"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, ("WebP",), id="svg"),
        pytest.param(b"\0" * 1000, 415, ("WebP",), id="zeros"),
        pytest.param(b"\xff", 415, ("WebP",), id="one byte"),
        pytest.param(encoded(photo(), "GIF"), 415, ("WebP",), id="gif"),
        pytest.param(encoded(photo(), "TIFF"), 415, ("WebP",), id="tiff"),
        pytest.param(encoded(photo(), "BMP"), 415, ("WebP",), id="bmp"),
        pytest.param(encoded(photo(), "PPM"), 415, ("WebP",), id="ppm"),
        pytest.param(b"", 422, ("image",), id="nothing"),
    ],
)
@pytest.mark.usefixtures("goes_on")
def test_what_is_no_photo_is_refused_whatever_its_name(
    client: TestClient, content: bytes, status: int, words: tuple[str, ...]
) -> None:
    assert_problem(send(client, content, "photo.jpg", "image/jpeg"), status, *words)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
@pytest.mark.usefixtures("goes_on")
def test_a_truncated_photo_is_refused_with_422(client: TestClient, kind: str, kept: float) -> None:
    whole = encoded(photo(), kind)
    assert_problem(send(client, whole[: int(len(whole) * kept)]), 422)


@pytest.mark.usefixtures("goes_on")
def test_a_photo_cut_off_in_its_header_is_refused(client: TestClient, jpeg: bytes) -> None:
    for length in (2, 4, 11, 30, 200):
        answer = send(client, jpeg[:length])
        assert_problem(answer, answer.status_code)
        assert answer.status_code in (415, 422)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.usefixtures("goes_on")
def test_a_damaged_photo_is_answered_or_refused_but_never_an_error_of_ours(
    client: TestClient, kind: str
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    whole = encoded(photo(48, 32), kind, exif=exif)
    random = np.random.default_rng(0)
    for _ in range(40):
        damaged = np.frombuffer(whole, dtype=np.uint8).copy()
        places = random.integers(0, min(len(whole), 400), 3)  # headers and tables come first
        damaged[places] = random.integers(0, 256, 3)
        answer = send(client, damaged.tobytes())
        assert answer.status_code in (200, 415, 422), (answer.text, damaged.tobytes())


# Sizes


@pytest.mark.usefixtures("goes_on")
def test_a_small_file_of_81_megapixels_is_refused_with_422(client: TestClient) -> None:
    bomb = encoded(Image.new("1", (9000, 9000)), "PNG")
    assert len(bomb) < 50_000
    assert_problem(send(client, bomb), 422, "9000 x 9000", "40 megapixels")


@pytest.mark.parametrize(
    "size", [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (16_385, 1), (1, 16_385)]
)
@pytest.mark.usefixtures("goes_on")
def test_the_size_is_judged_by_the_header_before_anything_is_decoded(
    client: TestClient, size: tuple[int, int]
) -> None:
    problem = assert_problem(send(client, png_that_says(*size)), 422, "megapixels")
    assert "truncated" not in problem["detail"]


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (2, 3)])
@pytest.mark.parametrize("route", ["explain", "heatmap", "compare", "attention"])
@pytest.mark.usefixtures("goes_on")
def test_a_photo_of_few_pixels_is_still_a_photo(
    client: TestClient, route: str, size: tuple[int, int]
) -> None:
    tiny = encoded(Image.new("RGB", size, "red"), "PNG")
    answer = client.post(
        f"/api/v1/{route}", files={"image": ("x.png", tiny)}, headers={"Accept": "image/png"}
    )
    assert answer.status_code == 200, answer.text


@pytest.mark.usefixtures("goes_on")
def test_a_body_of_20_mb_is_refused_with_413(client: TestClient) -> None:
    assert_problem(send(client, bytes(20_000_000)), 413, "10 MiB")


@pytest.mark.usefixtures("goes_on")
def test_a_chunked_body_of_20_mb_is_refused_with_413(client: TestClient) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'--edge\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
        for _ in range(200):
            yield bytes(100_000)
        yield b"\r\n" + END

    answer = by_hand(client, chunks())
    assert "content-length" not in answer.request.headers
    assert_problem(answer, 413, "10 MiB")


def test_no_more_is_read_of_a_chunked_body_than_the_limit(tiny_app: FastAPI) -> None:
    head = b'--edge\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        chunk = head if read == 0 else bytes(2**20)
        read += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": True}

    status, _ = asyncio.run(post_raw(tiny_app, EXPLAIN, receive, MULTIPART["Content-Type"]))
    assert status == 413
    assert read <= 11 * 2**20


def test_a_body_that_does_not_arrive_in_time_is_refused_with_408(
    serve: Callable[..., TestClient],
) -> None:
    client = serve(wait=False, upload_timeout_s=0.05)

    async def receive() -> dict[str, Any]:
        return await asyncio.get_running_loop().create_future()  # nothing ever comes

    app = client.app
    assert isinstance(app, FastAPI)
    status, problem = asyncio.run(post_raw(app, EXPLAIN, receive, MULTIPART["Content-Type"]))
    assert status == 408
    assert "0.05 s" in problem["detail"]


def test_a_limit_that_is_set_holds(serve: Callable[..., TestClient], jpeg: bytes) -> None:
    client = serve(max_upload_mb=0.001, max_megapixels=0.01)
    assert_problem(send(client, jpeg), 413, "0.001 MiB")
    small = encoded(Image.new("RGB", (200, 100)), "PNG")
    assert_problem(send(client, small), 422, "200 x 100", "0.01 megapixels")


# Forms


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        pytest.param({"content": END, "headers": MULTIPART}, 422, ("image",), id="empty form"),
        pytest.param({"files": {"top_k": (None, "3")}}, 422, ("image",), id="no file"),
        pytest.param(
            {"files": {"image": (None, "photo.jpg")}}, 422, ("image", "file"), id="text for a file"
        ),
        pytest.param({"files": {"photo": ("x", b"x")}}, 400, ("photo", "image"), id="other name"),
        pytest.param(
            {"files": [("image", ("x", b"x")), ("image", ("y", b"y"))]},
            400,
            ("Maximum number of files is 1", "image"),
            id="two photos",
        ),
        pytest.param({"json": {"image": "x"}}, 415, ("application/json", "multipart"), id="json"),
        pytest.param({"data": {"image": "x"}}, 415, ("urlencoded", "multipart"), id="urlencoded"),
        pytest.param(
            {"content": b"\xff\xd8\xff", "headers": {"Content-Type": "image/jpeg"}},
            415,
            ("image/jpeg", "multipart/form-data", "curl"),
            id="bare photo",
        ),
        pytest.param({}, 415, ("no Content-Type", "multipart"), id="nothing at all"),
        pytest.param(
            {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
            400,
            ("boundary",),
            id="no boundary",
        ),
        pytest.param({"content": b"garbage", "headers": MULTIPART}, 400, (), id="garbage"),
        pytest.param({"content": b"", "headers": MULTIPART}, 422, ("image",), id="empty body"),
        pytest.param(
            {"content": b"--edge\r\n\r\nx\r\n" + END, "headers": MULTIPART},
            400,
            (),
            id="no headers",
        ),
        pytest.param(
            {"content": part(b"3" * 5000, b"top_k", None) + END, "headers": MULTIPART},
            400,
            ("4 KiB", "top_k"),
            id="long field",
        ),
        pytest.param(
            {"content": part(b"a", b"models", None) * 25 + END, "headers": MULTIPART},
            400,
            ("24",),
            id="many fields",
        ),
        pytest.param(
            {"content": part(b"\xff\xfe", b"target", None) + END, "headers": MULTIPART},
            422,
            (),
            id="field that is no UTF-8",
        ),
    ],
)
@pytest.mark.usefixtures("goes_on")
def test_a_form_that_cannot_be_used_is_refused(
    client: TestClient, request_: dict[str, Any], status: int, words: tuple[str, ...]
) -> None:
    assert_problem(client.post(EXPLAIN, **request_), status, *words)


@pytest.mark.usefixtures("goes_on")
def test_a_form_that_breaks_off_is_refused(client: TestClient, jpeg: bytes) -> None:
    whole = part(jpeg) + END
    for missing in (len(END), len(END) + 2, len(jpeg) // 2, len(whole) - 20):
        answer = by_hand(client, whole[:-missing])
        assert_problem(answer, answer.status_code)
        assert answer.status_code in (400, 422)


@pytest.mark.parametrize("bad", [b"\0", b"q\0", b"c\r\nd", "\u202e".encode(), b"%00", b"' OR 1=1"])
@pytest.mark.usefixtures("goes_on")
def test_strange_characters_in_a_field_are_refused_as_any_unknown_value(
    client: TestClient, jpeg: bytes, bad: bytes
) -> None:
    answer = by_hand(client, part(jpeg) + part(bad, b"target", None) + END)
    assert_problem(answer, 422, "class")


# Names and types say nothing


@pytest.mark.parametrize(
    "name",
    [
        b"n" * 4000,
        b"nul\0in.jpg",
        b"../../../etc/passwd",
        b"C:\\photo.jpg",
        "фото 📷.jpg".encode(),
        b"\xff\xfe.jpg",
        b"photo.txt",
        b"a;b=c.jpg",
        b" ",
    ],
    ids=lambda name: ascii(name)[:20],
)
@pytest.mark.usefixtures("goes_on")
def test_a_good_photo_is_answered_whatever_its_file_name(
    client: TestClient, jpeg: bytes, name: bytes
) -> None:
    answer = by_hand(client, part(jpeg, filename=name) + END)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("kind", ["text/plain", "image/gif", "application/octet-stream", "x", ""])
def test_a_good_photo_is_answered_whatever_its_content_type(
    client: TestClient, jpeg: bytes, kind: str
) -> None:
    assert send(client, jpeg, "photo.gif", kind).status_code == 200


# Photos of every kind


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_of_a_png_is_answered(client: TestClient, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(
            np.linspace(0, 65535, 160 * 120).reshape(120, 160).astype(np.uint16)
        )
    else:
        image = photo().convert(mode)
    answer = send(client, encoded(image, "PNG"))
    assert answer.status_code == 200, answer.text
    assert answer.json()["image"]["width"] == 160


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_every_mode_of_a_jpeg_is_answered(client: TestClient, mode: str) -> None:
    assert send(client, encoded(photo().convert(mode), "JPEG")).status_code == 200


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_counts(client: TestClient, kind: str) -> None:
    lossless = {"lossless": True} if kind == "WEBP" else {}
    still = encoded(photo(), kind, **lossless)
    moving = encoded(photo(), kind, save_all=True, append_images=[photo(seed=5)], **lossless)
    assert len(moving) > len(still)
    one, other = send(client, still).json(), send(client, moving).json()
    assert one["results"][0]["predictions"] == other["results"][0]["predictions"]


@pytest.mark.parametrize("orientation", TURNS)
def test_all_eight_orientations_of_a_photo_are_the_same_photo(
    client: TestClient, orientation: int
) -> None:
    upright = photo()
    turn = TURNS[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = upright if turn is None else upright.transpose(turn)
    answer = send(client, encoded(stored, "PNG", exif=exif)).json()
    plain = send(client, encoded(upright, "PNG")).json()
    assert (answer["image"]["width"], answer["image"]["height"]) == (160, 120)
    for one, other in zip(answer["results"], plain["results"], strict=True):
        for key in ("predictions", "view", "heatmaps", "attention"):
            assert one[key] == other[key]


def test_a_photo_that_lies_on_its_side_without_saying_so_is_another_photo(
    client: TestClient,
) -> None:
    lying = photo().transpose(Image.Transpose.ROTATE_90)
    answer = send(client, encoded(lying, "PNG")).json()
    plain = send(client, encoded(photo(), "PNG")).json()
    assert (answer["image"]["width"], answer["image"]["height"]) == (120, 160)
    assert answer["results"][0]["predictions"] != plain["results"][0]["predictions"]


def test_the_overlay_of_a_turned_photo_is_upright(client: TestClient) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned = encoded(photo().transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)
    answer = client.post(
        "/api/v1/heatmap", files={"image": ("x.jpg", turned)}, data={"opacity": "0"}
    )
    image = picture(answer.content)
    assert image.size == (160, 120)
    difference = np.asarray(image).astype(int) - np.asarray(photo())
    assert np.abs(difference).mean() < 5


# What stays behind


def test_what_a_photo_says_about_itself_is_not_sent_back(client: TestClient) -> None:
    secret = "Taken at 52.5163 N 13.3777 E"
    exif = Image.Exif()
    exif[0x010E] = secret  # ImageDescription
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", secret)
    for data in (
        encoded(photo(), "JPEG", exif=exif, comment=secret),
        encoded(photo(), "PNG", exif=exif, pnginfo=text),
    ):
        assert secret.encode() in data
        for route in ("explain", "heatmap", "compare", "attention"):
            answer = client.post(
                f"/api/v1/{route}",
                files={"image": ("x", data)},
                headers={"Accept": "image/png"},
            )
            assert answer.status_code == 200
            assert secret.encode() not in answer.content
            if answer.headers["content-type"] == "image/png":
                image = picture(answer.content)
                assert not image.getexif()
                assert not image.info


class _Watch:
    """Every file that the process opens for writing while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.opened: list[object] = []

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.on and event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self.opened.append(args[0])


@pytest.fixture(scope="module")
def watch() -> _Watch:
    """An audit hook cannot be taken away again, so there is one, mostly off."""
    watch = _Watch()
    sys.addaudithook(watch)
    return watch


def test_nothing_is_written_to_disk(client: TestClient, watch: _Watch, tmp_path: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), dtype=np.uint8)
    large = encoded(Image.fromarray(noise), "JPEG", quality=90)
    assert 2_000_000 < len(large) < 5_000_000  # far more than a form parser keeps in memory
    routes = ("predict", "explain", "heatmap", "compare", "attention")

    def ask(data: bytes) -> list[int]:
        return [
            client.post(f"/api/v1/{route}", files={"image": ("x", data)}).status_code
            for route in routes
        ]

    ask(large)  # whatever is imported late is imported now
    watch.opened.clear()
    watch.on = True
    try:
        assert ask(large) == [200] * len(routes)
        assert ask(large[:-1_000_000]) == [422] * len(routes)
        seen = list(watch.opened)
        (tmp_path / "control").write_text("x")  # the watch does see what is written
        assert watch.opened[len(seen) :] == [str(tmp_path / "control")]
    finally:
        watch.on = False
    assert seen == []


def test_a_form_by_hand_is_a_form(client: TestClient, jpeg: bytes) -> None:
    body, kind = form_of(jpeg, top_k="2")
    answer = client.post(EXPLAIN, content=body, headers={"Content-Type": kind})
    assert len(answer.json()["results"][0]["predictions"]) == 2
