"""Hostile files: every one is answered or refused with a sentence, soon and cheaply."""

import ctypes
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from app_fixtures import assert_problem
from fastapi.testclient import TestClient
from hostile import FILES, LARGEST, encoded, noise

pytest_plugins = ["app_fixtures"]
# As in a service, where a warning is not an error.
pytestmark = pytest.mark.filterwarnings("ignore")

CPU_S = 2.0  # processor seconds, which other processes on the machine do not change
MEMORY_MB = 150
LARGEST_MEMORY_MB = 450  # 40 megapixels at 10 bytes, and their surroundings
LARGEST_CPU_S = 10.0

LIBC = ctypes.CDLL(None)
Ask = Callable[[bytes, str], Any]


class Peak:
    """Resident memory at its highest since `Peak()`, in MB; Linux counts it for us."""

    def __init__(self) -> None:
        if hasattr(LIBC, "malloc_trim"):  # what lies free in its heap would hide what is taken
            LIBC.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # 5: forget the peak so far
        self.before = self._field("VmRSS")

    def grown_mb(self) -> float:
        return self._field("VmHWM") - self.before

    @staticmethod
    def _field(name: str) -> float:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) / 1000
        raise LookupError(name)


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is measured by Linux's /proc"
)


def send(client: TestClient, data: bytes, name: str = "photo.jpg") -> Any:
    return client.post("/api/v1/explain", files={"image": (name, data, "image/jpeg")})


@pytest.fixture(scope="module", autouse=True)
def still_serves(client: TestClient, jpeg: bytes) -> Iterator[None]:
    """After all of them, a good photo has the answer it had before."""
    before = send(client, jpeg).json()["results"][0]["predictions"]
    yield
    assert send(client, jpeg).json()["results"][0]["predictions"] == before


def measured(client: TestClient, data: bytes) -> tuple[Any, float, float]:
    """The answer, the processor seconds it took and the MB by which memory rose on the way."""
    peak, started = Peak(), time.process_time()
    answer = send(client, data)
    return answer, time.process_time() - started, peak.grown_mb()


def test_there_are_enough_of_them() -> None:
    assert len(FILES) >= 60


@needs_proc
@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_answered_soon_and_cheaply(client: TestClient, name: str) -> None:
    file = FILES[name]
    answer, cpu_s, grown_mb = measured(client, file.build())
    assert answer.status_code in file.statuses, answer.text[:500]
    if answer.status_code != 200:
        assert_problem(answer, answer.status_code)
        assert len(answer.json()["detail"]) < 500  # a sentence, not the file
    assert cpu_s < CPU_S
    assert grown_mb < MEMORY_MB


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_files_allowed_cost_what_their_pixels_cost(
    client: TestClient, name: str
) -> None:
    answer, cpu_s, grown_mb = measured(client, LARGEST[name]())
    assert answer.status_code == 200, answer.text
    assert cpu_s < LARGEST_CPU_S
    assert grown_mb < LARGEST_MEMORY_MB


@needs_proc
def test_the_measure_of_memory_sees_what_is_allocated() -> None:
    peak = Peak()
    held = bytearray(50_000_000)
    held[::4096] = b"x" * len(held[::4096])
    del held
    assert 45 < peak.grown_mb() < 80


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("name", ["photo.svg", "photo.php\0.jpg", "a" * 4000, "CON", "../../x"])
def test_a_name_changes_nothing(client: TestClient, kind: str, name: str) -> None:
    answer = send(client, encoded(noise(), kind), name)
    assert answer.status_code == 200, answer.text
