"""Many at once get the answers of one by one; the usual way, with hooks, does not pass this."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from app_fixtures import LABELS, encoded, photo, values
from fastapi import FastAPI
from fastapi.testclient import TestClient

from cbam.explain.question import Question

pytest_plugins = ["app_fixtures"]

CLIENTS = 64
REPEATS = 5
# 8 images x 4 classes x 2 methods; the blocks make some of them share a pass, and some not.
QUESTIONS = [
    (image, target, method)
    for image in range(8)
    for target in ("a", "b", "c", "d")
    for method in ("gradcam", "hirescam")
]
PHOTOS = [encoded(photo(90 + 10 * seed, 70, seed), quality=95) for seed in range(8)]


@dataclass(frozen=True)
class Answers:
    """One request's numbers, of all models: probabilities (3, 11), maps (3, h, w) each."""

    probabilities: np.ndarray  # of ten classes in their order, and of the target
    heat: list[np.ndarray]
    gates: list[np.ndarray]

    @classmethod
    def of(cls, answer: dict[str, Any]) -> "Answers":
        results = answer["results"]
        return cls(
            np.array(
                [
                    [
                        *(
                            item["probability"]
                            for item in sorted(each["predictions"], key=lambda it: it["index"])
                        ),
                        each["target_probability"],
                    ]
                    for each in results
                ]
            ),
            [values(each["heatmaps"][0]["map"]) for each in results],
            [
                np.asarray(gate)
                for each in results
                for block in each["attention"]
                for gate in (
                    block["channel"],
                    None if block["spatial"] is None else values(block["spatial"]),
                )
                if gate is not None
            ],
        )

    def wrong(self, other: "Answers") -> list[str]:
        """What differs by more than a batch's rounding.

        Probabilities by 1e-4, maps by 1e-3 of their range, and a step of their packing, over
        which rounding may tip a value.
        """
        found = []
        if np.abs(self.probabilities - other.probabilities).max() > 1e-4:
            found.append("probabilities")
        for name, mine, theirs in (
            ("heat map", self.heat, other.heat),
            ("gates", self.gates, other.gates),
        ):
            for one, two in zip(mine, theirs, strict=True):
                span = max(np.ptp(two), 1e-6)
                if one.shape != two.shape or np.abs(one - two).max() > (1e-3 + 1 / 255) * span:
                    found.append(name)
        return found


@contextmanager
def raw_answers(app: FastAPI) -> Iterator[dict[Any, list[np.ndarray]]]:
    """What the engine answers meanwhile, before maps are packed: all maps of a question."""
    engine, kept = app.state.engine, {}
    explain = engine.explain

    async def keeping(data: bytes, question: Question, *rest: Any) -> Any:
        answer = await explain(data, question, *rest)
        (target,) = question.target
        kept[PHOTOS.index(data), LABELS[target], question.method_name] = [
            each.heatmap for each in answer.explanations
        ] + [
            gate
            for each in answer.explanations
            for block in each.attention
            for gate in (block.channel, block.spatial)
            if gate is not None
        ]
        return answer

    engine.explain = keeping
    try:
        yield kept
    finally:
        engine.explain = explain


def ask(client: TestClient, question: tuple[int, str, str]) -> Answers:
    image, target, method = question
    answer = client.post(
        "/api/v1/explain",
        files={"image": ("x.jpg", PHOTOS[image])},
        data={"target": target, "method": method, "top_k": "10", "layer": "layer4.1"},
    )
    assert answer.status_code == 200, answer.text
    return Answers.of(answer.json())


def test_64_mixed_requests_at_once_get_the_answers_of_one_by_one_five_times(
    serve: Callable[..., TestClient],
) -> None:
    client = serve(queue_length=CLIENTS)
    app = client.app
    assert isinstance(app, FastAPI)
    with raw_answers(app) as raw_one_by_one:
        one_by_one = [ask(client, question) for question in QUESTIONS]
    with raw_answers(app) as raw, ThreadPoolExecutor(CLIENTS) as threads:
        for repeat in range(REPEATS):
            at_once = threads.map(lambda question: ask(client, question), QUESTIONS, timeout=120)
            wrong = {
                question: found
                for question, mine, expected in zip(QUESTIONS, at_once, one_by_one, strict=True)
                if (found := mine.wrong(expected))
            }
            assert not wrong, f"round {repeat}"
            for question in QUESTIONS:
                for mine, expected in zip(raw[question], raw_one_by_one[question], strict=True):
                    assert np.abs(mine - expected).max() <= 1e-3 * max(1, np.abs(expected).max())
    sample = app.state.engine.metrics.registry.get_sample_value
    asked = sample("cbam_lens_batch_size_sum")
    assert asked == (1 + REPEATS) * len(QUESTIONS)
    assert sample("cbam_lens_batch_size_count") < 0.7 * asked, "hardly any shared a pass"


def test_this_comparison_notices_every_mix_up(client: TestClient) -> None:
    """The answer to the same photo for another class, or for another photo, is a wrong one."""
    answers = [ask(client, question) for question in QUESTIONS]
    for apart, what in ((2, "class"), (8, "photo")):  # places in QUESTIONS
        for position, (one, two) in enumerate(zip(answers, answers[apart:], strict=False)):
            assert one.wrong(two), f"another {what}: {QUESTIONS[position]}"


@pytest.mark.slow
def test_hooks_on_a_shared_network_do_not_pass(tiny_models: Path) -> None:
    """The same questions to the grad-cam package as it is mostly used. It may crash, which counts.

    Here one GradCAM object a request, all around one network: their hooks see each other's passes.
    """
    assert hooked(tiny_models, threads=1) == 0, "alone it is right"
    # Threads are free to take turns, and sometimes nearly do.
    assert any(hooked(tiny_models, threads=16) for _ in range(3)), "make the test harder"


def hooked(models: Path, threads: int) -> float:
    """How many answers of hooked.py are wrong or missing; all if its process crashes."""
    program = Path(__file__).parent / "support" / "hooked.py"
    tests = Path(__file__).parent
    paths = os.pathsep.join(map(str, (program.parent, tests, tests.parent)))
    ended = subprocess.run(
        [sys.executable, program, models, str(threads)],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    if ended.returncode < 0:  # ended by a signal, such as SIGSEGV
        return len(QUESTIONS)
    assert ended.returncode == 0, ended.stderr[-2000:]
    counted = json.loads(ended.stdout)
    assert counted["asked"] == len(QUESTIONS)
    return float(counted["wrong"] + counted["raised"])
