#!/usr/bin/env python3
"""Build the container without a daemon, run it locked up, compare its answers with the app's.

    sudo nice .venv/bin/python scripts/container_check.py  # half an hour with CUDA
    sudo nice .venv/bin/python scripts/container_check.py --torch-index URL  # CPU wheels: minutes

Needs Debian's buildah, bubblewrap and, unless --base names an image, debootstrap, which makes a
stand-in for Docker Hub's Python image; and the test extra for the app to compare with. The build
goes through this machine's pip settings. STORAGE_DRIVER=overlay takes a third of the disk where the
kernel lets buildah have it; the default, vfs, works everywhere. Bubblewrap runs the image's own
command as its own user, with a read-only root, a tmpfs, no capabilities and as process 1.
Everything made is removed.

Exit status 0: all that is printed as "ok" was so.
"""

import argparse
import ast
import base64
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import psutil
from fastapi.testclient import TestClient

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from app.main import create_app  # noqa: E402
from app.settings import Settings  # noqa: E402

SUITE = "bookworm"  # its Python is 3.11
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"  # where Debian keeps certificates, in the base too
READY_S, STOP_S, MEMORY_MB, THREADS = 120, 25, 3072, 256  # those of compose.yaml, and Dockerfile
TOLERANCE = 1e-4
COMPILERS = ("cc", "gcc", "g++", "clang", "make", "ld", "hatchling")


def say(what: str, good: bool = True) -> None:
    """Print a finding; end if it is a bad one."""
    print(f"{'ok ' if good else 'BAD'} {what}", flush=True)  # noqa: T201
    if not good:
        raise SystemExit(1)


def run(*command: str | Path) -> str:
    """A command's output. Its errors are shown."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def pip_settings() -> dict[str, str]:
    """This machine's pip settings as environment variables, those of its files included."""
    found = {}
    for line in run(sys.executable, "-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        scope, _, option = name.partition(".")
        variable = "PIP_" + option.upper().replace("-", "_")
        if variable != "PIP_CERT" and (scope == ":env:" or variable not in found):
            found[variable] = str(ast.literal_eval(value)).replace("\n", " ")
    return found


def local_folders(settings: dict[str, str]) -> list[str]:
    """Folders of this machine that those settings name: the build must see them."""
    paths = re.findall(r"(?:^|\s|file://)(/[^\s'\"]+)", "\n".join(settings.values()))
    folders = (path.removesuffix("/simple") for path in paths)
    return sorted({path for path in folders if Path(path).is_dir()})


class Buildah:
    """buildah with its storage in one folder, without a daemon."""

    def __init__(self, folder: Path) -> None:
        self.command = ("buildah", "--root", folder / "storage", "--runroot", folder / "run")
        os.environ.setdefault("STORAGE_DRIVER", "vfs")
        os.environ["BUILDAH_ISOLATION"] = "chroot"

    def __call__(self, *command: str | Path) -> str:
        return run(*self.command, *command)

    def build(self, context: Path, file: Path, tag: str, *options: str) -> None:
        """`docker build`, its output on stderr."""
        words = ("bud", "--format", "docker", "--layers=false", "--tag", tag, "--file", file)
        command: list[str | Path] = [*self.command, *words, *options, context]
        subprocess.run(command, check=True, stdout=sys.stderr)


def stand_in(buildah: Buildah, folder: Path, settings: dict[str, str]) -> str:
    """An image with Debian, Python and this machine's way to its package index; its name."""
    root, context = folder / "rootfs", folder / "base"
    context.mkdir()
    packages = "python3,python3-pip,python3-venv,ca-certificates"
    run("debootstrap", "--variant=minbase", f"--include={packages}", SUITE, root)
    own = os.environ.get("SSL_CERT_FILE") or BUNDLE
    if Path(own).is_file():
        shutil.copyfile(own, root / BUNDLE[1:])
    run("tar", "-C", root, "--one-file-system", "-cf", context / "base.tar", ".")
    run("rm", "-rf", "--one-file-system", root)
    variables = {**settings, "PIP_CERT": BUNDLE, "SSL_CERT_FILE": BUNDLE}
    lines = [f"ENV {name}={json.dumps(value)}" for name, value in variables.items()]
    file = context / "Dockerfile"
    file.write_text("\n".join(["FROM scratch", "ADD base.tar /", *lines, 'CMD ["bash"]\n']))
    buildah.build(context, file, "stand-in")
    run("rm", "-r", context)
    return "localhost/stand-in"


def check_image(config: dict[str, Any], root: Path) -> None:
    """What the image says, and what is not in it."""
    say(f"user {config['User']}", config["User"].isdecimal() and int(config["User"]) > 0)
    say(f"port {list(config['ExposedPorts'])}", list(config["ExposedPorts"]) == ["8000/tcp"])
    say("a health check", bool(config["Healthcheck"]["Test"]))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = config["Labels"]["org.opencontainers.image.version"]
    say(f"version {version}", version == project["version"])
    for folder in ("usr/bin", "usr/local/bin", "opt/python/bin"):
        there = [name for name in COMPILERS if (root / folder / name).exists()]
        say(f"no compiler in /{folder} {there or ''}", not there)
    caches = [root / "root/.cache", root / "tmp/pip", root / "src"]
    say("no pip cache, no sources", not any(cache.exists() for cache in caches))
    say("no pip in its own environment", not list(root.glob("opt/python/lib/*/site-packages/pip")))
    nvidia = root.glob("opt/python/lib/*/site-packages/nvidia")
    say(
        f"{megabytes(root)} MB unpacked: packages {megabytes(root / 'opt/python')}, "
        f"of these NVIDIA's {sum(map(megabytes, nvidia))}, ours {megabytes(root / 'opt/cbam-lens')}"
    )


def megabytes(folder: Path) -> int:
    """Disk that a folder takes."""
    return int(run("du", "-sm", "--one-file-system", folder).split()[0])


@contextmanager
def locked_up(config: dict[str, Any], root: Path, port: int) -> Iterator[tuple[int, Any]]:
    """The image's command, locked up: its process id out here, and bubblewrap's process.

    Its user is the image's out here, too: what that user may not read, the command can't.
    """
    variables = {**dict(item.split("=", 1) for item in config["Env"]), "PORT": str(port)}
    told, tell = os.pipe()
    user = config["User"]
    words: list[str | Path] = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    words += ["bwrap", "--ro-bind", root, "/", "--proc", "/proc", "--dev", "/dev"]
    words += ["--tmpfs", "/tmp", "--unshare-user", "--unshare-pid", "--unshare-ipc"]
    words += ["--unshare-uts", "--uid", user, "--gid", user, "--cap-drop", "ALL"]
    words += ["--as-pid-1", "--die-with-parent", "--clearenv", "--info-fd", str(tell)]
    words += ["--chdir", config["WorkingDir"]]
    for name, value in variables.items():
        words += ["--setenv", name, value]
    words += [*config["Entrypoint"], *config["Cmd"]]
    process = subprocess.Popen(words, pass_fds=(tell,), stdout=sys.stderr)
    os.close(tell)
    try:
        with os.fdopen(told) as info:
            yield json.load(info)["child-pid"], process
    finally:
        process.kill()  # and with it, as its parent, the container
        process.wait()


def leaves(answer: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of an answer with their paths; a map is one array. Timings are left out."""
    if isinstance(answer, dict) and "dtype" in answer:
        yield path, unpacked(answer)
    elif isinstance(answer, dict | list):
        for key, value in answer.items() if isinstance(answer, dict) else enumerate(answer):
            if key != "timing_ms":
                yield from leaves(value, f"{path}.{key}")
    else:
        yield path, answer


def difference(one: Any, other: Any) -> float:
    """The largest difference of numbers in two answers. Ends if anything else differs."""
    ours, theirs = dict(leaves(one)), dict(leaves(other))
    if odd := ours.keys() ^ theirs.keys():
        say(f"only one answer has {sorted(odd)[:5]}", False)
    worst = 0.0
    for path, value in ours.items():
        if isinstance(value, float | np.ndarray):
            worst = max(worst, float(np.abs(value - theirs[path]).max()))
        elif value != theirs[path]:
            say(f"{path} is {theirs[path]!r:.80}, not {value!r:.80}", False)
    return worst


def unpacked(packed: dict[str, Any]) -> Any:
    """A map's values, as fractions of its range where that is above 1: a byte is a step of it."""
    levels = np.frombuffer(base64.b64decode(packed["data"]), np.uint8).astype(float)
    low, spread = packed["min"], packed["max"] - packed["min"]
    return (low + levels / 255 * spread) / max(1, spread)


def compare(theirs: httpx.Client) -> None:
    """Every photo of the gallery: the container's answer is the app's."""
    photos = sorted((ROOT / "static" / "gallery").glob("*.jpg"))
    worst, took_ms = 0.0, []
    models = theirs.get("/api/v1/models").json()["models"]
    settings = Settings(backend=models[0]["backend"])  # "auto" might choose another one out here
    with TestClient(create_app(settings)) as ours:
        while ours.get("/readyz").status_code != 200:
            time.sleep(0.1)
        for photo in photos:
            got, expected = (
                client.post("/api/v1/explain", files={"image": photo.read_bytes()})
                for client in (theirs, ours)
            )
            if got.status_code != 200:
                say(f"{photo.name}: {got.status_code}", False)
            took_ms.append(got.elapsed.total_seconds() * 1000)
            worst = max(worst, difference(expected.json(), got.json()))
    say(
        f"{len(photos)} photos, {len(expected.json()['results'])} models: "
        f"differ by at most {worst:.1e}",
        bool(photos) and worst <= TOLERANCE,
    )
    say(f"an answer in {statistics.median(took_ms):.0f} ms (median)")


def status_of(pid: int) -> dict[str, str]:
    """/proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def check_run(config: dict[str, Any], root: Path) -> None:
    """It starts, answers, stays small, writes nothing and stops."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with (
        locked_up(config, root, port) as (pid, process),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        ready = False
        while not ready:
            if time.monotonic() - started > READY_S or process.poll() is not None:
                say(f"not ready within {READY_S} s", False)
            time.sleep(0.2)
            with suppress(httpx.ConnectError):
                ready = client.get("/readyz").is_success
        say(f"ready after {time.monotonic() - started:.1f} s")
        test = config["Healthcheck"]["Test"]
        inside = ["nsenter", f"--target={pid}", "--user", "--mount", "--preserve-credentials"]
        variables = ["env", *config["Env"], f"PORT={port}"]
        healthy = subprocess.run([*inside, *variables, *test[1:]], check=False).returncode
        say(f"its own health check says {healthy}", healthy == 0)
        status = status_of(pid)
        say(f"no capabilities: {status['CapEff']}", int(status["CapEff"], 16) == 0)
        say(f"no new privileges: {status['NoNewPrivs']}", status["NoNewPrivs"] == "1")
        mounts = Path(f"/proc/{pid}/mounts").read_text().splitlines()
        writable = {line.split()[1] for line in mounts if "rw" in line.split()[3].split(",")}
        say(f"writable: {sorted(writable)}", not {"/", "/opt"} & writable)
        compare(client)
        status = status_of(pid)
        memory = int(status["VmHWM"].split()[0]) // 1024
        say(f"at most {memory} MB of memory, of {MEMORY_MB}", memory < MEMORY_MB)
        say(f"{status['Threads']} threads, of {THREADS}", int(status["Threads"]) < THREADS)
        left = [str(path) for path in Path(f"/proc/{pid}/root/tmp").rglob("*") if path.is_file()]
        say(f"nothing left in /tmp {left or ''}", not left)
        stopped = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        code = process.wait(STOP_S)
        say(f"SIGTERM: exit {code} after {time.monotonic() - stopped:.1f} s", code == 0)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--base", help="an image with Python; default: one made by debootstrap")
    parser.add_argument("--torch-index", default="", help="an index of torch wheels")
    parser.add_argument("--folder", help="where to build; 40 GB with vfs; default: a temporary one")
    arguments = parser.parse_args()
    for tool in ("buildah", "bwrap", *([] if arguments.base else ["debootstrap"])):
        say(f"{tool} is installed", shutil.which(tool) is not None)
    settings = pip_settings()
    folder = Path(tempfile.mkdtemp(prefix="container-check-", dir=arguments.folder))
    buildah = Buildah(folder)
    try:
        base = arguments.base or stand_in(buildah, folder, settings)
        say(f"base {base}")
        volumes = [f"--volume={path}:{path}:ro" for path in local_folders(settings)]
        started = time.monotonic()
        options = [f"--build-arg=BASE={base}", f"--build-arg=TORCH_INDEX={arguments.torch_index}"]
        buildah.build(ROOT, ROOT / "Dockerfile", "cbam-lens", *options, *volumes)
        say(f"built in {time.monotonic() - started:.0f} s")
        config = json.loads(buildah("inspect", "--type", "image", "cbam-lens"))["Docker"]["config"]
        container = buildah("from", "--pull-never", "cbam-lens")
        root = Path(buildah("mount", container))
        for parent in (root, *root.parents):
            if parent.is_relative_to(folder):
                parent.chmod(0o755)  # the way to it, for the image's user
        check_image(config, root)
        check_run(config, root)
        say("all of it")
    finally:
        subprocess.run([*buildah.command, "rm", "--all"], check=False)
        mounts = [each.mountpoint for each in psutil.disk_partitions(all=True)]
        for mount in sorted(mounts, reverse=True):  # the innermost first
            if Path(mount).is_relative_to(folder):
                subprocess.run(["umount", "--lazy", mount], check=False)
        subprocess.run(["rm", "-rf", "--one-file-system", folder], check=False)


if __name__ == "__main__":
    main()
