"""Many clients at once, for tests/test_app_overload.py. Also a program, so that the clients' work
is not done by the service's process: `python crowd.py URL CLIENTS ROUNDS` prints them as JSON.
"""

import asyncio
import io
import json
import math
import re
import sys
import time
from dataclasses import asdict, dataclass

import httpx2 as httpx
from PIL import Image

_FILE = io.BytesIO()
Image.effect_noise((160, 120), 50).save(_FILE, "JPEG")
JPEG = _FILE.getvalue()
AGAIN_S = 0.05  # how soon a client that got a 503 asks again: far sooner than it is told to


@dataclass(frozen=True)
class Asked:
    """What one request came to."""

    status: int
    retry_after: str | None
    seconds: float  # for the client
    queue_s: float  # of that, in the queue, by the answer's Server-Timing


async def ask(client: httpx.AsyncClient) -> Asked:
    """A photo, explained."""
    started = time.perf_counter()
    answer = await client.post(
        "/api/v1/explain", files={"image": ("x.jpg", JPEG)}, data={"top_k": "1"}
    )
    seconds = time.perf_counter() - started
    queued = re.search(r"queue;dur=([0-9.]+)", answer.headers.get("server-timing", ""))
    queue_s = float(queued[1]) / 1000 if queued else 0.0
    return Asked(answer.status_code, answer.headers.get("retry-after"), seconds, queue_s)


async def crowd(url: str, clients: int, rounds: int) -> list[Asked]:
    """`clients` at once, each asking `rounds` times, one after the other."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:

        async def one() -> list[Asked]:
            got = []
            for _ in range(rounds):
                got.append(await ask(client))
                if got[-1].status == 503:
                    await asyncio.sleep(AGAIN_S)
            return got

        many = await asyncio.gather(*(one() for _ in range(clients)))
    return [asked for got in many for asked in got]


def quantile(seconds: list[float], q: float) -> float:
    """The time within which a share of `q` was done."""
    return sorted(seconds)[math.ceil(q * len(seconds)) - 1]


if __name__ == "__main__":
    everybody = asyncio.run(crowd(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
    sys.stdout.write(json.dumps([asdict(asked) for asked in everybody]))
