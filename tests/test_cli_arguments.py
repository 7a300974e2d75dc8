"""Arguments are checked before the work, and read once."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commanding import Run
from PIL import Image

import app.cli.evaluate
import app.cli.explain
import app.cli.figure
from app.edge.server import bind, url
from app.settings import PREFIX, Settings, read_settings
from cbam.cards.card import Card
from cbam.errors import BadSetting

pytest_plugins = ["commanding"]

ROOT = Path(__file__).parent.parent


@pytest.fixture
def photo(make_photo: Callable[..., Image.Image], tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    make_photo().save(path)
    return path


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever loads a model before all arguments are checked fails."""

    def load(*_: Any) -> None:
        raise AssertionError("a model was loaded before the arguments were checked")

    for module in (app.cli.explain, app.cli.figure, app.cli.evaluate):
        monkeypatch.setattr(module, "load", load)


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-o", "{tmp}/out"), "no ending"),
        (("-o", "{tmp}/out.bmp"), "'.bmp'"),
        (("-o", "{tmp}/gone/out.png"), "no folder"),
        (("-o", "{tmp}"), "ending"),
        (("-o", "{tmp}/folder.png"), "is a folder"),
        (("-o", "{tmp}/photo.png/out.png"), "photo.png"),
        (("-o", "/proc/out.png"), "/proc"),
        (("--backend", "tensorrt"), "tensorrt"),
        (("--method", "gradcan"), "gradcan"),
        (("--layer", "layer9"), "layer9"),
        (("--layer", "layer4.1,layer9"), "layer9"),
        (("--fuse", "median"), "mean, max"),
        (("--target", "unicorn"), "unicorn"),
        (("--target", "tench", "--method", "finercam", "--versus", "tench"), "itself"),
        (("--versus", "tench"), "finercam"),
        (("--model", "nope"), "nope"),
        (("--model", "{tmp}"), "No model"),
    ],
)
def test_explain_checks_its_arguments_before_the_work(
    run: Run, photo: Path, tiny_card: Card, tmp_path: Path, words: tuple[str, ...], said: str
):
    (tmp_path / "folder.png").mkdir()
    words = tuple(word.format(tmp=tmp_path) for word in words)
    status, out, err = run("explain", photo, "--model", tiny_card.folder, *words)
    assert (status, out) == (1, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize("name", ["gone.png", "", "folder.png", "photo.txt"])
def test_explain_reads_the_photo_before_the_work(
    run: Run, tiny_card: Card, tmp_path: Path, name: str
):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "photo.txt").write_text("hello", encoding="utf-8")
    status, out, err = run("explain", tmp_path / name, "--model", tiny_card.folder)
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert "This is text" in err or "cannot be read" in err


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--val, --boxed, --gates, --hold or --faithfulness"),
        (("--val", "{tmp}/gone"), "gone"),
        (("--boxed", "{tmp}"), "--boxes"),
        (("--boxed", "{tmp}", "--boxes", "{tmp}/gone.csv"), "gone.csv"),
        (("--val", "{tmp}", "--boxes", "{tmp}"), "--boxed"),
        (("--boxed", "{tmp}/x.parquet", "--runs", "{tmp}"), "--val"),
        (("--val", "{tmp}", "--runs", "{tmp}/gone"), "gone"),
        (("--val", "{tmp}", "--write", "--size-px", "64"), "--size-px"),
        (("--val", "{tmp}", "nope"), "nope"),
    ],
)
def test_evaluate_checks_its_arguments_before_the_work(
    run: Run, tiny_card: Card, tmp_path: Path, words: tuple[str, ...], said: str
):
    words = tuple(word.format(tmp=tmp_path) for word in words)
    status, out, err = run("evaluate", tiny_card.folder, *words)
    assert (status, out) == (1, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--data", "{tmp}/gone"), "gone"),
        (("--data", "{tmp}", "--runs", "{tmp}/file"), "file"),
        (("--data", "{tmp}", "--models", "/proc/models"), "/proc/models"),
        (("--data", "{tmp}", "--attention", "magic"), "magic"),
    ],
)
def test_train_checks_its_arguments_before_the_work(
    run: Run, tmp_path: Path, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)  # where runs/ and models/ are made by default
    (tmp_path / "file").touch()
    words = tuple(word.format(tmp=tmp_path) for word in words)
    status, _, err = run("train", ROOT / "recipes" / "imagenette.toml", *words)
    assert status == 1
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ("explain", "x.png", "--top-k", "0"),
        ("explain", "x.png", "--top-k", "many"),
        ("explain",),
        ("explain", "x.png", "--nope"),
        ("serve", "--port", "99999"),
        ("serve", "--port", "-1"),
        ("serve", "--port", "http"),
        ("evaluate", "x", "--size-px", "1"),
        ("train", "x.toml"),
        ("nope",),
    ],
    ids=" ".join,
)
def test_a_wrong_option_has_exit_status_2(run: Run, words: tuple[str, ...]):
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert "Error: " in err


@pytest.mark.parametrize("way", ["file", "fifo", "-", "descriptor"])
def test_a_photo_is_read_once_whatever_it_is(
    way: str,
    run: Run,
    photo: Path,
    tiny_card: Card,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    data = photo.read_bytes()
    name: object = photo
    writer = None
    if way == "fifo":  # as in <(...)
        name = tmp_path / "pipe"
        os.mkfifo(name)
        writer = threading.Thread(target=lambda: Path(str(name)).write_bytes(data))
    elif way == "descriptor":
        read, write = os.pipe()
        name = f"/dev/fd/{read}"
        writer = threading.Thread(
            target=lambda: (os.write(write, data), os.close(write))  # small: it fits
        )
    elif way == "-":
        name = "-"
        monkeypatch.setattr("sys.stdin", photo.open(encoding="latin-1"))
    if writer:
        writer.start()
    status, out, _ = run("explain", name, "--json", "--model", tiny_card.folder)
    if writer:
        writer.join()
    if way == "descriptor":
        os.close(read)
    assert status == 0
    assert json.loads(out)["image"]["sha256"] == hashlib.sha256(data).hexdigest()
    if way == "-":
        sys.stdin.close()


@pytest.mark.parametrize("ending", [".png", ".jpg", ".JPEG", ".webp"])
def test_the_ending_decides_the_pictures_format(
    ending: str, run: Run, photo: Path, tiny_card: Card, tmp_path: Path
):
    out = tmp_path / f"out{ending}"
    status, _, err = run("explain", photo, "--model", tiny_card.folder, "-o", out)
    assert (status, err) == (0, f"wrote {out}\n")
    kinds = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
    with Image.open(out) as picture:
        assert picture.format == kinds[ending.lower()]


# Every setting with a value that makes no sense for its kind.
NONSENSE = {
    int: ("many", "-1", "1.5"),
    float: ("much", "-1", "nan", "inf"),
}
OTHER_NONSENSE = {
    "rate_limit": ("often", "60/fortnight"),
    "api_keys": ("short", "ü" * 40),
    "root_path": ("lens",),
    "log_style": ("loud",),
}
WRONG = [
    (name, value)
    for name, field in Settings.model_fields.items()
    for value in (*NONSENSE.get(field.annotation, ()), *OTHER_NONSENSE.get(name, ()))
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_setting_without_sense_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(PREFIX + name.upper(), value)
    with pytest.raises(BadSetting) as refused:
        read_settings()
    said = str(refused.value)
    assert said.startswith(PREFIX + name.upper())
    assert said.endswith(".")
    assert "\n" not in said
    assert (value in said) == (name != "api_keys")  # a key is a secret, even a wrong one


@pytest.mark.parametrize("name", Settings.model_fields)
def test_an_empty_setting_is_an_absent_one(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(PREFIX + "BACKEND", raising=False)
    default = read_settings()
    monkeypatch.setenv(PREFIX + name.upper(), "")
    assert read_settings() == default


@pytest.mark.parametrize(
    ("words", "env", "status", "said"),
    [
        ((), {"CBAM_LENS_BATCH": "many"}, 1, "CBAM_LENS_BATCH is 'many'"),
        ((), {"CBAM_LENS_MODELS_FOLDER": "/nope"}, 1, "/nope"),
        ((), {"CBAM_LENS_FAMILY": "nope"}, 1, "nope"),
        (("--backend", "nope"), {}, 1, "nope"),
        (("--host", ""), {}, 1, "--host"),
        (("--host", "no host at all"), {}, 3, "Cannot listen on http://no host at all:0"),
        (("--host", "192.0.2.1"), {}, 3, "Cannot listen on http://192.0.2.1:0"),
        (("--host", "2001:db8::1"), {}, 3, "Cannot listen on http://[2001:db8::1]:0"),
    ],
)
def test_serve_checks_its_arguments_before_the_work(
    run: Run,
    words: tuple[str, ...],
    env: dict[str, str],
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    found, out, err = run("serve", "--port", "0", *words)
    assert (found, out) == (status, "")  # above all, it does not say that it listens
    assert said in err
    assert err.count("\n") == 1


def test_a_taken_port_is_said_and_not_announced(run: Run):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status, out, err = run("serve", "--port", port)
    assert (status, out) == (3, "")
    assert f"Cannot listen on http://127.0.0.1:{port}: address already in use" in err


def test_an_address_is_printed_as_a_browser_takes_it():
    assert url("::1", 80) == "http://[::1]:80"
    assert url("127.0.0.1", 80) == "http://127.0.0.1:80"
    assert url("example.org", 80) == "http://example.org:80"


def test_a_free_port_is_the_same_on_all_addresses_of_a_host(monkeypatch: pytest.MonkeyPatch):
    def two(*_: Any, **__: Any) -> list[Any]:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
        return [(*kind, ("127.0.0.1", 0)), (*kind, ("127.0.0.2", 0)), (*kind, ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    sockets = bind("both", 0)
    names = [each.getsockname() for each in sockets]
    for each in sockets:
        each.close()
    assert [name[0] for name in names] == ["127.0.0.1", "127.0.0.2"]
    assert len({name[1] for name in names}) == 1


@pytest.fixture
def serving(tiny_card: Card) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `cbam-lens serve` on a free port; stopped at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        env = {**os.environ, "CBAM_LENS_MODELS_FOLDER": str(tiny_card.folder.parent)}
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve", "--port", "0", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**env, "CBAM_LENS_BACKEND": "eager"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)


def test_the_service_is_announced_with_its_port_once_it_listens(
    serving: Callable[..., subprocess.Popen[str]],
):
    process = serving()
    line = process.stdout.readline()
    assert line.startswith("CBAM Lens on http://127.0.0.1:")
    port = int(line.split()[3].rsplit(":", 1)[1])
    assert port > 0
    socket.create_connection(("127.0.0.1", port), timeout=60).close()  # at once: it listens
