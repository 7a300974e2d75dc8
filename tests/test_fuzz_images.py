"""Damaged photos: an answer or a refusal with a sentence, and nothing else."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from app_fixtures import assert_problem
from fastapi.testclient import TestClient
from heic import Item, grid, heic, picture, turned
from hostile import ORIENTATION, encoded, noise
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cbam.errors import BadImage
from cbam.images.decode import decode
from cbam.images.preprocess import Preprocess

pytest_plugins = ["app_fixtures"]

FUZZ = Path(__file__).parent.parent / "fuzz"
COMMON: Any = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}


def seeds() -> list[bytes]:
    """Small valid files of every kind that is accepted."""
    photo = noise(24, 18)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    moving = {"save_all": True, "append_images": [noise(24, 18, 1)]}
    return [
        encoded(photo, "JPEG", exif=exif),
        encoded(photo, "JPEG", progressive=True),
        encoded(photo.convert("CMYK"), "JPEG"),
        encoded(photo, "PNG", exif=exif),
        encoded(photo.convert("RGBA"), "PNG"),
        encoded(photo.quantize(16), "PNG", transparency=3),
        encoded(photo, "PNG", **moving),
        encoded(photo, "WEBP", exif=exif),
        encoded(photo, "WEBP", lossless=True),
        encoded(photo.convert("RGBA"), "WEBP", **moving),
        heic(picture(turned(1))),
        heic(grid(2, 1, 128, 64, [2, 3]), Item(hidden=True), Item(hidden=True)),
    ]


SEEDS = seeds()
CHANGES = ("byte", "byte", "number", "insert", "delete", "repeat", "cut")


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid file with a few bytes changed, put in, taken out, repeated, or its end cut off."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        # Headers come first, and a change there goes further.
        at = draw(st.integers(0, min(len(data), draw(st.sampled_from((64, 400, 4000))))))
        match draw(
            st.sampled_from(("byte", "byte", "number", "insert", "delete", "repeat", "cut"))
        ):
            case "byte":
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "number":
                data[at : at + 4] = draw(
                    st.sampled_from((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"))
                )
            case "insert":
                data[at:at] = draw(st.binary(max_size=16))
            case "delete":
                del data[at : at + draw(st.integers(1, 32))]
            case "repeat":
                data[at:at] = data[at : at + 24] * draw(st.integers(1, 20))
            case _:
                del data[len(data) - len(data) // draw(st.integers(2, 50)) :]
    return bytes(data)


@given(damaged())
@settings(max_examples=500, **COMMON)
def test_500_damaged_files_give_an_input_or_a_bad_image(data: bytes) -> None:
    try:
        image = decode(data, max_pixels=250_000)
    except BadImage:
        return
    assert image.mode == "RGB"
    assert image.width * image.height <= 250_000
    assert image.info == {}
    assert Preprocess(16, "crop")(image).shape == (3, 16, 16)


def check_answer(client: TestClient, data: bytes) -> None:
    """200, 413, 415 or 422; an error is a problem."""
    answer = client.post("/api/v1/predict", files={"image": ("x", data)})
    assert answer.status_code in (200, 413, 415, 422), answer.text
    if answer.status_code != 200:
        assert_problem(answer, answer.status_code)


@given(damaged())
@settings(max_examples=200, **COMMON)
def test_200_damaged_files_are_answered_or_refused(client: TestClient, data: bytes) -> None:
    check_answer(client, data)


@pytest.mark.slow
@given(damaged())
@settings(max_examples=2000, **COMMON)
def test_2000_damaged_files_are_answered_or_refused(client: TestClient, data: bytes) -> None:
    check_answer(client, data)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs the extra [fuzz]")
def test_a_minute_of_fuzzing_finds_nothing(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, data in enumerate(SEEDS):
        (corpus / f"seed{number}").write_bytes(data)
    options = ("-max_total_time=60", "-timeout=5", "-rss_limit_mb=2048", "-max_len=8192")
    run = subprocess.run(
        [sys.executable, str(FUZZ / "decode.py"), *options, str(corpus)],
        cwd=FUZZ.parent,
        env={"PYTHONPATH": str(FUZZ.parent), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    done = re.search(r"Done (\d+) runs", run.stderr)
    assert done, run.stderr[-1000:]
    assert int(done[1]) > 1000
    assert not list(FUZZ.parent.glob("crash-*"))
