"""Who may import whom: the library never the service, and its parts in one direction only."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import cbam

PACKAGE = Path(cbam.__file__).parent
SERVICE = PACKAGE.parent / "app"
TESTS = Path(__file__).parent

# A part may import those before it, and itself.
ORDER = (
    *("errors", "said", "undisturbed", "slices", "images", "data", "render", "lettering"),
    *("attention", "backbones", "detectors", "paper", "cards", "trace", "explain", "backends"),
    *("sheets", "model", "detector", "bundle", "zoo", "evaluate", "training"),
)
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
ROOMS = ("cbam", "app", "benchmarks")


def imports(path: Path) -> Iterator[str]:
    """Modules and names that a file imports, wherever it does it, for type checking included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def files_of(room: str) -> dict[str, Path]:
    """Module -> file: `cbam.trace.cut`; a package goes by its own name."""
    paths = (PACKAGE.parent / room).rglob("*.py")
    names = {path: path.relative_to(PACKAGE.parent).with_suffix("").parts for path in paths}
    return {".".join(name).removesuffix(".__init__"): path for path, name in names.items()}


def graph() -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports."""
    modules = {name: path for room in ROOMS for name, path in files_of(room).items()}

    def module_of(name: str) -> str:
        return name if name in modules else name.rpartition(".")[0]

    return {
        name: {module_of(used) for used in imports(path)} & modules.keys() - {name}
        for name, path in modules.items()
    }


def test_no_module_imports_itself_in_a_circle():
    tuple(TopologicalSorter(graph()).static_order())  # raises CycleError with the circle


def test_the_library_imports_nothing_above_it():
    up = {
        f"{name} -> {used}"
        for name, uses in graph().items()
        for used in uses
        if ROOMS.index(used.split(".")[0]) > ROOMS.index(name.split(".")[0])
    }
    assert not up


@pytest.mark.parametrize("module", [name for name in MODULES if name != "__init__.py"])
def test_parts_of_the_library_import_in_one_direction(module: str):
    own = Path(module).parts[0].removesuffix(".py")
    used = [name for name in imports(PACKAGE / module) if name.split(".")[0] == "cbam"]
    parts = {name.split(".")[1] for name in used} - {own}
    assert not {part for part in parts if ORDER.index(part) > ORDER.index(own)}


def test_the_order_names_what_there_is():
    there = {Path(module).parts[0].removesuffix(".py") for module in MODULES}
    assert set(ORDER) == there - {"__init__"}


def test_no_public_name_hides_a_module():
    """`import cbam.explain.methods as m` goes through the attributes of the packages."""
    for name in files_of("cbam"):
        __import__(name)
        found = cbam
        for step in name.split(".")[1:]:
            found = getattr(found, step)
        assert found is sys.modules[name]


def test_the_service_does_not_reach_into_training():
    files = [path for path in SERVICE.rglob("*.py") if "cli" not in path.parts]
    used = {name for path in files for name in imports(path)}
    assert not [name for name in used if name.startswith("cbam.training")]


# The command line too starts at once: it imports the service only to start it.
@pytest.mark.parametrize("module", ["cbam", "app.cli.main"])
def test_importing_the_library_is_light(module: str):
    heavy = (
        "app.main",
        "fastapi",
        "pytorch_grad_cam",
        "accelerate",
        "tensorboard",
        "timm",
        "matplotlib",
    )
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert found.stdout.strip() == "[]"


def normal(distribution: str) -> str:
    """A distribution's name as the package index compares it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def always_there() -> set[str]:
    """Distributions that a test may count on: the mandatory ones and those of the extra [test]."""
    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text("utf-8"))["project"]
    found: set[str] = set()
    wanted = [*project["dependencies"], f"{project['name']}[test]"]
    while wanted:
        match = re.match(r"([\w.-]+)(?:\[([^]]*)\])?", wanted.pop())
        assert match
        name, extras = match.groups()
        found.add(normal(name))
        if normal(name) == project["name"]:
            for extra in (extras or "").split(","):
                wanted += project["optional-dependencies"].get(extra.strip(), [])
    return found


def skipping_calls(path: Path) -> Iterator[tuple[int, str | None]]:
    """Line and module of each `importorskip`; None where the module is not written out."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("importorskip"):
            given = [*node.args, *(word.value for word in node.keywords if word.arg == "modname")]
            first = given[0] if given else None
            plain = isinstance(first, ast.Constant) and isinstance(first.value, str)
            yield node.lineno, str(first.value) if plain else None


def not_to_be_skipped(paths: Iterable[Path]) -> list[str]:
    """Calls of `importorskip` on what is always there, or on nobody knows what."""
    distributions, there = packages_distributions(), always_there()
    found = []
    for path in paths:
        for line, module in skipping_calls(path):
            top = (module or "").split(".")[0]
            names = {normal(name) for name in (top, *distributions.get(top, ()))}
            if not top or top in ("app", "cbam", "benchmarks") or names & there:
                found.append(f"{path.name}:{line} {module}")
    return found


def test_no_test_is_skipped_because_a_module_of_ours_or_a_dependency_is_missing():
    assert not not_to_be_skipped(sorted(TESTS.rglob("*.py")))


@pytest.mark.parametrize(
    ("call", "refused"),
    [
        ('pytest.importorskip("app.main")', True),
        ('pytest.importorskip("cbam.explain.methods")', True),
        ('pytest.importorskip("pytorch_grad_cam")', True),  # the distribution is called grad-cam
        ('importorskip("yaml")', True),  # pyyaml, of the extra [test]
        ('pytest.importorskip("pyarrow.parquet")', True),  # of [train], which [test] brings
        ('pytest.importorskip(modname="openvino")', True),
        ("pytest.importorskip(name)", True),
        ('pytest.importorskip("ray", reason="no Ray here")', False),
        ('pytest.importorskip("atheris")', False),
    ],
)
def test_what_may_be_skipped_is_what_an_extra_outside_of_test_brings(
    tmp_path: Path, call: str, refused: bool
):
    (tmp_path / "test_it.py").write_text(call, encoding="utf-8")
    assert bool(not_to_be_skipped(tmp_path.iterdir())) is refused


def test_what_the_library_offers_is_there():
    assert all(hasattr(cbam, name) for name in cbam.__all__)
    assert cbam.__doc__
    assert cbam.__version__
