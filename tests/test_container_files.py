"""The container as it is written down: no root, nothing superfluous, everything that it needs.

`scripts/container_check.py` builds and runs it; that takes too long for here.
"""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and what follows each, comments and line breaks taken out."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    return [(word, rest) for word, rest in lines]


def last_stage() -> list[tuple[str, str]]:
    """What becomes the image."""
    all_of_them = instructions()
    start = max(index for index, (word, _) in enumerate(all_of_them) if word == "FROM")
    return all_of_them[start:]


def only(word: str) -> str:
    """What follows the image's one instruction of this name."""
    (found,) = [rest for name, rest in last_stage() if name == word]
    return found


def services() -> dict[str, dict[str, Any]]:
    """The services of compose.yaml."""
    document = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    found: dict[str, dict[str, Any]] = document["services"]
    return found


def test_the_image_does_not_run_as_root() -> None:
    assert int(only("USER")) > 0, "a number: Kubernetes cannot check a name"
    word = [name for name, _ in last_stage()].index("USER")
    assert {name for name, _ in last_stage()[word:]}.isdisjoint({"RUN", "COPY", "ADD"})


def test_the_image_is_told_to_stop_without_a_shell_between() -> None:
    command = json.loads(only("ENTRYPOINT")) + json.loads(only("CMD"))
    assert command[:4] == ["python3", "-m", "app.cli", "serve"]
    assert command[-1] == "0.0.0.0"


def test_the_image_is_asked_whether_it_is_ready() -> None:
    interval, _, command = only("HEALTHCHECK").partition("CMD")
    assert "--start-period=" in interval
    assert "/readyz" in json.loads(command)[-1]
    assert 'os.environ["PORT"]' in json.loads(command)[-1]


def test_the_image_gets_nothing_from_elsewhere() -> None:
    runs = " ".join(rest for word, rest in last_stage() if word == "RUN")
    assert "pip" not in runs
    assert "apt" not in runs
    assert all("--from=" in rest for word, rest in last_stage() if word == "COPY")
    for word, rest in instructions():
        assert word != "ADD"
        assert not re.search(r"latest|token|password|secret", rest, re.IGNORECASE)


def test_the_image_says_its_version_and_licence() -> None:
    label = only("LABEL")
    assert f'image.version="{PROJECT["version"]}"' in label
    assert f'image.licenses="{PROJECT["license"]}"' in label


def test_what_is_copied_is_there_and_is_let_through() -> None:
    let_through = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert let_through[0] == "**", "everything else stays out"
    for word, rest in instructions():
        if word == "COPY" and "--from=" not in rest:
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in let_through, source
    copied = " ".join(rest for word, rest in instructions() if word == "COPY")
    included = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = included["tool"]["hatch"]["build"]["targets"]["wheel"]
    for needed in (*wheel["packages"], *wheel["force-include"], PROJECT["readme"]):
        assert needed in copied.split(), f"the build needs {needed}"


def test_the_base_has_a_python_that_will_do() -> None:
    (base,) = [rest for word, rest in instructions() if word == "ARG" and rest.startswith("BASE")]
    found = re.search(r"python:3\.(\d+)-slim", base)
    assert found is not None
    assert int(found[1]) >= int(PROJECT["requires-python"].removeprefix(">=3."))


@pytest.mark.parametrize("name", ["lens", "lens-gpu"])
def test_compose_locks_it_up(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert [each.split(":")[0] for each in service["tmpfs"]] == ["/tmp"]
    assert service["mem_limit"].endswith("g")
    assert 0 < service["pids_limit"] <= 256
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert "privileged" not in service


@pytest.mark.parametrize("name", ["lens", "lens-gpu"])
def test_compose_gives_it_the_time_to_drain(name: str) -> None:
    settings = Settings()
    grace_s = float(services()[name]["stop_grace_period"].removesuffix("s"))
    assert grace_s > settings.drain_delay_s + settings.drain_s


def test_only_who_asks_gets_the_gpu() -> None:
    by_default = [name for name, each in services().items() if "profiles" not in each]
    assert by_default == ["lens"]
    gpu = services()["lens-gpu"]
    assert gpu["build"]["args"] == {"TORCH_INDEX": ""}, "the index whose torch knows CUDA"
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert gpu["image"] != services()["lens"]["image"]
