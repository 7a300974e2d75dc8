"""Behind a real nginx with deploy/nginx.conf: the prefix, uploads, addresses of clients."""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from app_fixtures import assert_problem
from app_server import Running, running

from app.main import create_app
from app.settings import Settings

pytest_plugins = ["app_fixtures"]

EXAMPLE = Path(__file__).parent.parent / "deploy" / "nginx.conf"
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@pytest.fixture(scope="module")
def nginx() -> str:
    """The system's nginx. Without one these tests are skipped; in CI they fail."""
    path = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if path is None:
        missing = "No nginx (Debian: apt-get install nginx-light): the proxy is not tested."
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return path


def with_ports(port: int, upstream: int, stripped: bool) -> str:
    """The example with these ports; `stripped`: nginx takes the prefix off."""
    text = EXAMPLE.read_text(encoding="utf-8")
    for old, new in {
        "listen 8080;": f"listen 127.0.0.1:{port};",
        "server 127.0.0.1:8000;": f"server 127.0.0.1:{upstream};",
        **({"proxy_pass http://lens;": "proxy_pass http://lens/;"} if stripped else {}),
    }.items():
        assert text.count(old) == 1, f"deploy/nginx.conf has not one {old!r}"
        text = text.replace(old, new)
    return text


@contextmanager
def proxied(nginx: str, folder: Path, served: Running, stripped: bool) -> Iterator[str]:
    """The example's nginx before a server: its address, without the prefix."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "nginx.conf"
    config.write_text(with_ports(port, served.port, stripped), encoding="utf-8")
    # What a system's nginx finds ready, and a test must not touch: its files and its user.
    places = " ".join(f"{name}_temp_path {folder}/{name};" for name in TEMPORARY)
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("http {", f"http {{ {places}", 1), encoding="utf-8")
    user = "user root;" if os.geteuid() == 0 else ""
    process = subprocess.Popen(
        [nginx, "-p", folder, "-c", config, "-e", folder / "error.log"]
        + ["-g", f"daemon off; pid {folder}/pid; worker_processes 1; {user}"]
    )
    try:
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except ConnectionError:
                log = folder / "error.log"
                assert process.poll() is None, log.read_text() if log.exists() else "no log"
                assert time.monotonic() < end, "nginx does not listen"
                time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module", params=[False, True], ids=["kept", "stripped"])
def behind(
    request: pytest.FixtureRequest,
    nginx: str,
    tiny_models: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[httpx.Client]:
    """A client of nginx, which passes the prefix on or takes it off."""
    app = create_app(Settings(models_folder=tiny_models, root_path="/lens"))
    folder = tmp_path_factory.mktemp("nginx")
    with (
        running(app) as served,
        proxied(nginx, folder, served, request.param) as address,
        httpx.Client(base_url=address, timeout=180) as client,
    ):
        yield client


def test_the_page_and_all_it_loads_are_under_the_prefix(behind: httpx.Client) -> None:
    page = behind.get("/lens/")
    assert page.status_code == 200
    assert page.headers["content-security-policy"]
    loaded = re.findall(r'(?:src|href)="([^"#?]+)"', page.text)
    local = [address for address in loaded if not re.match(r"https?:|data:|mailto:", address)]
    assert any("static" in address for address in local)
    for address in local:
        assert address.startswith("/lens/"), address
        assert behind.get(address).status_code == 200, address


def test_the_prefix_without_its_slash_leads_to_the_page(behind: httpx.Client) -> None:
    answer = behind.get("/lens")
    assert answer.status_code == 308
    assert answer.headers["location"] == "/lens/"
    assert behind.get("/lens", follow_redirects=True).status_code == 200


def test_a_redirect_of_the_service_stays_under_the_prefix(behind: httpx.Client) -> None:
    answer = behind.get("/lens/docs/")
    assert answer.status_code == 307
    assert answer.headers["location"] == str(behind.base_url).rstrip("/") + "/lens/docs"
    assert behind.get("/lens/docs/", follow_redirects=True).status_code == 200


def test_the_documentation_works_under_the_prefix(behind: httpx.Client) -> None:
    page = behind.get("/lens/docs")
    assert page.status_code == 200
    for address in re.findall(r'(?:src|href|data-openapi)="([^"]+)"', page.text):
        assert behind.get(address).status_code == 200, address
    assert behind.get("/lens/openapi.json").json()["servers"] == [{"url": "/lens"}]


def test_uploads_pass_from_the_api_and_from_the_page(behind: httpx.Client, jpeg: bytes) -> None:
    files = {"image": ("x.jpg", jpeg)}
    answer = behind.post("/lens/api/v1/explain", files=files)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    picture = behind.post("/lens/api/v1/heatmap", files=files)
    assert picture.content.startswith(b"\x89PNG")
    page = behind.post("/lens/", files=files)
    assert page.status_code == 200
    assert 'action="/lens/"' in page.text


def test_errors_name_the_path_that_the_client_asked(behind: httpx.Client) -> None:
    assert_problem(behind.get("/lens/api/v1/none"), 404)
    assert_problem(behind.get("/lens/static/none.css"), 404)
    assert_problem(behind.get("/lens/api/v1/explain"), 405)


def test_outside_the_prefix_nothing_is_ours(behind: httpx.Client) -> None:
    for path in ("/", "/api/v1/models", "/healthz", "/lensless"):
        answer = behind.get(path)
        assert answer.status_code == 404
        assert "x-request-id" not in answer.headers


def test_a_body_that_is_too_large_is_a_413(behind: httpx.Client) -> None:
    a_little = {"image": ("x.jpg", b"x" * (11 * 2**20))}
    assert_problem(behind.post("/lens/api/v1/explain", files=a_little), 413, "10 MiB")
    far = {"image": ("x.jpg", b"x" * (13 * 2**20))}
    answer = behind.post("/lens/api/v1/explain", files=far)
    assert answer.status_code == 413  # nginx's own: the service never saw it
    assert "x-request-id" not in answer.headers


def test_the_rate_counts_clients_not_the_proxy(
    nginx: str, tiny_models: Path, tmp_path: Path, jpeg: bytes
) -> None:
    """Linux answers on all of 127.0.0.0/8: two clients with addresses of their own."""
    app = create_app(Settings(models_folder=tiny_models, root_path="/lens", rate_limit="2/hour"))
    with running(app) as served, proxied(nginx, tmp_path, served, False) as address:

        def status(source: str, **headers: str) -> int:
            transport = httpx.HTTPTransport(local_address=source)
            with httpx.Client(base_url=address, transport=transport, timeout=180) as client:
                files = {"image": ("x.jpg", jpeg)}
                answer: Any = client.post("/lens/api/v1/predict", files=files, headers=headers)
                return int(answer.status_code)

        assert [status("127.0.0.2") for _ in range(3)] == [200, 200, 429]
        assert status("127.0.0.3") == 200
        # What a client says of itself is not believed.
        assert status("127.0.0.2", **{"X-Forwarded-For": "192.0.2.9"}) == 429
        assert httpx.get(f"{address}/lens/healthz").status_code == 200


def test_who_is_no_trusted_proxy_is_not_believed(tiny_models: Path, jpeg: bytes) -> None:
    settings = Settings(
        models_folder=tiny_models, rate_limit="1/hour", forwarded_allow_ips="192.0.2.1"
    )
    with running(create_app(settings)) as served:
        for said, expected in (("198.51.100.1", 200), ("198.51.100.2", 429)):
            answer = httpx.post(
                f"{served.address}/api/v1/predict",
                files={"image": ("x.jpg", jpeg)},
                headers={"X-Forwarded-For": said},
                timeout=180,
            )
            assert answer.status_code == expected
