"""More than one machine: Ray's replicas answer as the app does; Kubernetes gets a safe pod."""

import asyncio
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import yaml
from app_fixtures import FAMILY, encoded, photo, values
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings

pytest_plugins = ["app_fixtures"]

ROOT = Path(__file__).parent.parent
REPLICAS = 2
CLIENTS = 48


def pod() -> dict[str, Any]:
    """KServe's predictor: a pod, and how many of it."""
    service = yaml.safe_load((ROOT / "deploy" / "kserve.yaml").read_text(encoding="utf-8"))
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    assert service["kind"] == "InferenceService"
    predictor: dict[str, Any] = service["spec"]["predictor"]
    return predictor


def test_the_pod_may_do_nothing_that_it_need_not() -> None:
    (container,) = pod()["containers"]
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert pod()["securityContext"]["runAsUser"] > 0
    assert pod()["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]


def test_the_pod_is_probed_where_the_service_answers(client: TestClient) -> None:
    (container,) = pod()["containers"]
    environment = {item["name"]: item["value"] for item in container["env"]}
    port = container["ports"][0]["containerPort"]
    assert environment["PORT"] == str(port)
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container[name]["httpGet"]
        assert probe["port"] == port
        assert client.get(probe["path"]).status_code == 200


def test_the_pod_has_the_time_to_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    (container,) = pod()["containers"]
    for item in container["env"]:
        monkeypatch.setenv(item["name"], item["value"])
    settings = Settings()
    assert pod()["terminationGracePeriodSeconds"] > settings.drain_delay_s + settings.drain_s


@pytest.fixture(scope="module")
def address(tiny_models: Path) -> Iterator[str]:
    """Two replicas on a Ray of one's own, with room for few requests."""
    ray = pytest.importorskip("ray", reason="no Ray here: pip install '.[ray]'")
    from ray import serve

    from deploy.ray_serve import RaySettings, build

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    small = RaySettings(
        min_replicas=REPLICAS,
        max_replicas=REPLICAS,
        max_ongoing_requests=1,
        max_queued_requests=8,
        cpus=0.5,
    )
    environment = pytest.MonkeyPatch()
    environment.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray leaves one at home
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        service = build(settings=Settings(models_folder=tiny_models), ray_settings=small)
        serve.run(service, name="lens")
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown(wait_for_processes=True)
        environment.undo()


def maps_and_numbers(answer: dict[str, Any]) -> list[tuple[list[float], list[Any]]]:
    """What an answer of /explain says, model by model, without its timing."""
    assert [result["model"] for result in answer["results"]] == list(FAMILY)
    return [
        (
            [each["probability"] for each in result["predictions"]],
            [values(each["map"]).ravel().tolist() for each in result["heatmaps"]],
        )
        for result in answer["results"]
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_two_replicas_answer_as_the_app_does(address: str, tiny_models: Path) -> None:
    photos = [encoded(photo(seed=seed), quality=95) for seed in range(8)]
    started_at = set()
    with (
        TestClient(create_app(Settings(models_folder=tiny_models))) as ours,
        httpx.Client(base_url=address, timeout=180) as theirs,
    ):
        while ours.get("/readyz").status_code != 200:
            time.sleep(0.05)
        assert theirs.get("/readyz").status_code == 200, "no request comes before the models do"
        for image in photos:
            expected, got = (
                maps_and_numbers(each.post("/api/v1/explain", files={"image": image}).json())
                for each in (ours, theirs)
            )
            for (numbers, maps), (other_numbers, other_maps) in zip(expected, got, strict=True):
                assert other_numbers == pytest.approx(numbers, abs=1e-5)
                for one, other in zip(maps, other_maps, strict=True):
                    assert other == pytest.approx(one, abs=1e-2 * max(map(abs, one)))
        for _ in range(40):
            lines = theirs.get("/metrics").text.splitlines()
            started_at |= {line for line in lines if line.startswith("process_start_time_seconds")}
        refused = theirs.post("/api/v1/explain", files={"image": b"text"})
        assert refused.status_code == 415
        assert refused.headers["content-type"] == "application/problem+json"
    assert len(started_at) == REPLICAS, "each is a process, and each of them answers"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_too_many_requests_at_once_are_sent_away_and_told_when_to_come(address: str) -> None:
    image = encoded(photo(1600, 1200), quality=95)

    async def flood() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=address, timeout=180) as client:
            requests = [
                client.post("/api/v1/explain", files={"image": image}) for _ in range(CLIENTS)
            ]
            return await asyncio.gather(*requests)

    answers = asyncio.run(flood())
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 503}, statuses
    assert statuses.count(200) >= REPLICAS
    for answer in answers:
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) >= 1
    assert httpx.post(f"{address}/api/v1/explain", files={"image": image}).status_code == 200
