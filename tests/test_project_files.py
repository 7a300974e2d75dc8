"""What a maintainer relies on: one way to run each tool, and facts that are stated twice agree."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.routes.views import VIEWS

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def document(name: str) -> dict[str, Any]:
    """A YAML file of the repository."""
    found: dict[str, Any] = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    return found


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile."""
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert found is not None, target
    return [line.strip() for line in found[1].splitlines()]


@pytest.mark.parametrize("target", ["run", "test"])
def test_make_runs_the_readmes_command(target: str, tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("no make here")
    shutil.copy(ROOT / "Makefile", tmp_path)
    fence = "<!-- {} -->\n```bash\necho this is {}\n```\n"
    blocks = "".join(fence.format(name, name) for name in ("run", "test"))
    (tmp_path / "README.md").write_text(f"# Title\n\n{blocks}\nMore.\n", encoding="utf-8")
    command = ["make", "--silent", "--directory", str(tmp_path), target]
    assert subprocess.run(command, capture_output=True, text=True).stdout == f"this is {target}\n"
    (tmp_path / "README.md").write_text("# No such block\n", encoding="utf-8")
    assert subprocess.run(command, capture_output=True).returncode != 0


def test_the_hooks_run_what_make_lint_runs() -> None:
    def words(command: str) -> tuple[str, ...]:
        """`.venv/bin/ruff check .` -> ("ruff", "check"): the tool and what it is to do."""
        tool, *rest = command.split()
        return (Path(tool).name, *(word for word in rest if word.isalpha()))

    (local,) = document(".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local", "nothing is fetched for a hook"
    assert {hook["language"] for hook in local["hooks"]} == {"system"}
    hooks = [words(hook["entry"]) for hook in local["hooks"]]
    assert hooks == [words(line) for line in recipe("lint")]
    assert ("tsc",) in hooks


def test_ci_run_checks_what_make_lint_checks() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    commands = [line.split("clean ", 1)[1] for line in lines if line.strip().startswith("clean ")]
    checks = [line for line in commands if "bash" not in line and not line.startswith("npm")]
    assert checks == recipe("lint")


def test_ci_tests_the_oldest_python_that_is_promised() -> None:
    versions = document(".github/workflows/ci.yml")["jobs"]["tests"]["strategy"]["matrix"]["python"]
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert min(versions, key=lambda version: int(version.split(".")[1])) == oldest


@pytest.mark.parametrize(("job", "target"), [("tests", "test"), ("lint", "lint"), ("docs", "docs")])
def test_ci_runs_what_people_run(job: str, target: str) -> None:
    steps = document(".github/workflows/ci.yml")["jobs"][job]["steps"]
    assert f"make {target}" in [step.get("run") for step in steps]
    assert recipe(target)


def test_the_citation_agrees_with_the_package() -> None:
    citation = document("CITATION.cff")
    assert citation["title"] == "CBAM Lens"
    for name in ("version", "license", "keywords"):
        assert citation[name] == PROJECT[name]
    (paper,) = citation["references"]
    assert "1807.06521" in paper["identifiers"][0]["value"], "the paper that the README names"


def test_the_sketches_show_every_view_and_name_its_files() -> None:
    sketches = (ROOT / "docs" / "sketches.html").read_text(encoding="utf-8")
    assert re.findall(r"<h2>(.+)</h2>", sketches)[1:] == [view.title for view in VIEWS.values()]
    named = set(re.findall(r"[\w-]+\.(?:html|js|css)", sketches))
    known = [path.name for folder in ("templates", "static") for path in (ROOT / folder).rglob("*")]
    assert named <= set(known)
    assert {f"{name}.html" for name in VIEWS} <= named
    assert sketches.count(' role="img"') == 2 * (len(VIEWS) + 1)
    assert len(sketches.encode()) < 40_000
