"""The README and the documentation say what is so."""

import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from app.cli.main import app
from app.main import create_app
from app.routes.answers import Map
from app.settings import Settings
from app.tables import DETECTOR_TABLES
from cbam.backends.choose import BACKENDS

ROOT = Path(__file__).parent.parent
DOCS = {page.stem: page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")}
README = (ROOT / "README.md").read_text(encoding="utf-8")


def table(page: str, heading: str) -> dict[str, list[str]]:
    """The table of a page whose first column has this title: what a row names -> other cells."""
    (found,) = re.findall(
        rf"^\| {heading} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", DOCS[page], re.MULTILINE
    )
    rows = [re.split(r" *(?<!\\)\| *", line.strip("| ")) for line in found.splitlines()]
    return {name: cells for first, *cells in rows for name in re.findall(r"`([^`]+)`", first)}


@pytest.mark.parametrize("command", ["list", "trust"])
def test_the_table_of_models_is_what_the_command_prints(command: str) -> None:
    printed = CliRunner().invoke(app, ["models", command, "--markdown"]).stdout
    assert "not measured" not in printed
    assert printed in DOCS["models"]


@pytest.mark.parametrize(
    "command",
    [
        *("gates", "gates resnet18-cbam-tiny-imagenet", "gates resnet50-cbam-imagenet"),
        *("boxes", "faithfulness", "analysis"),
    ],
)
def test_the_tables_of_gates_and_boxes_are_what_the_command_prints(command: str) -> None:
    printed = CliRunner().invoke(app, ["models", *command.split(), "--markdown"]).stdout
    assert printed.count("\n") > 3
    assert printed in DOCS["models"]


@pytest.mark.parametrize("which", DETECTOR_TABLES)
def test_the_tables_of_detectors_are_what_the_command_prints(which: str) -> None:
    printed = CliRunner().invoke(app, ["models", "detectors", which, "--markdown"]).stdout
    assert printed.count("\n") > 4
    assert "not measured" not in printed
    assert printed in DOCS["detection"]


def test_the_speeds_are_all_those_with_a_target_that_the_benchmark_wrote() -> None:
    results = (ROOT / "benchmarks" / "results.md").read_text(encoding="utf-8").splitlines()
    judged = [line for line in results if "| met |" in line or "| missed |" in line]
    assert len(judged) > 5
    assert "\n".join(judged) in DOCS["how"]


PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/README.md",
    *(f"docs/{name}.md" for name in sorted(DOCS)),
]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_it_links_to_is_there(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / page).read_text(encoding="utf-8"))
    local = [link for link in links if not link.startswith("http")]
    assert local
    assert [link for link in local if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_the_readme_links_to_every_page_that_a_reader_of_github_can_use() -> None:
    linked = set(re.findall(r"\]\(docs/(\w+)\.md\)", README))
    assert linked == DOCS.keys() - {"index", "reference"}  # its own twin; filled by `make docs`


def sentences() -> dict[str, str]:
    """What app/settings.py says of each setting: the comments above it and behind it."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in (ROOT / "app" / "settings.py").read_text(encoding="utf-8").splitlines():
        setting = re.match(r"    (\w+): [^#]+? = .+?(?:  # (.+))?$", line)
        if comment := re.match(r"    # (.+)", line):
            above.append(comment[1])
            continue
        if setting:
            found[setting[1]] = " ".join([*above, *filter(None, [setting[2]])])
        above = []
    return found


def test_every_setting_is_explained_with_its_default() -> None:
    defaults = {
        name: "empty"
        if field.default in ("", (), None)
        else f"{field.default:g}"
        if isinstance(field.default, float)
        else str(field.default)
        for name, field in Settings.model_fields.items()
    }
    assert {name: cells[0] for name, cells in table("service", "setting").items()} == defaults


def test_every_setting_is_explained_in_the_words_of_the_code() -> None:
    said = sentences()
    explained = {
        name: said[name].replace("a name in BACKENDS", ", ".join(BACKENDS))
        for name in Settings.model_fields
    }
    assert all(explained.values())
    assert {name: cells[1] for name, cells in table("service", "setting").items()} == explained


def test_every_back_end_is_described() -> None:
    assert table("command", "back end").keys() >= {*BACKENDS, "auto"}
    (setting,) = [
        cells[1] for name, cells in table("service", "setting").items() if name == "backend"
    ]
    assert [name for name in (*BACKENDS, "auto") if name not in setting] == []


def test_every_extra_is_described() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert table("index", "extra").keys() == project["optional-dependencies"].keys()


def test_every_route_and_option_of_the_api_is_described() -> None:
    document = create_app().openapi()
    routes = {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        if path.startswith("/api/")
        for method in methods
    }
    described = table("rest", "route").keys()
    streams = {"WS /api/v1/live"}  # no part of OpenAPI
    assert {name for name in described if " /api/" in name} == routes | streams

    def options(route: str) -> set[str]:
        form = document["paths"][f"/api/v1/{route}"]["post"]["requestBody"]["content"]
        return {*form["multipart/form-data"]["schema"]["properties"]} - {"image"}

    assert table("rest", "option").keys() == options("explain")
    _, _, further = DOCS["rest"].partition("`heatmap` also takes")
    for name in options("heatmap") - options("explain"):
        assert f"`{name}`" in further.split("\n\n")[0]


def examples(text: str) -> str:
    """A page's blocks of Python, one after the other."""
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


@pytest.mark.parametrize("page", ["README", "library"])
def test_the_examples_in_python_run(
    page: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(ROOT / "static" / "gallery" / "koala.jpg", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(examples({**DOCS, "README": README}[page]), page, "exec"), {})
    assert "Prediction(index=" in capsys.readouterr().out
    assert (tmp_path / "out.png").is_file()


def test_the_example_for_clients_gets_a_maps_values_back() -> None:
    values = np.linspace(-1, 3, 12, dtype=np.float32).reshape(3, 4)
    sent = {"results": [{"heatmaps": [{"map": Map.of(values).model_dump()}]}]}
    names: dict[str, object] = {"answer": sent}
    before, _, rest = DOCS["rest"].partition("## A live stream")  # test_app_live.py has a stream
    exec(compile(examples(before + rest.partition("\n## ")[2]), "rest", "exec"), names)
    assert names["values"] == pytest.approx(values, abs=4 / 255)
