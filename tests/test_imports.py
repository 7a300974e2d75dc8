"""Who may import whom: the library never the service, and its parts in one direction only."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cbam

PACKAGE = Path(cbam.__file__).parent
SERVICE = PACKAGE.parent / "app"

# A part may import those before it. Names not here are at the end: they may import all of these,
# and none of these may import them.
ORDER = (
    *("errors", "images", "data", "render", "attention", "backbones", "cards", "trace", "explain"),
    *("backends", "sheets", "model"),
)
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports when it runs; those for type checking only are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            yield from (f"{module}.{name.name}" for name in node.names)


def part(module: str) -> str:
    """`cbam.trace.cut.Cut` -> `explain`."""
    return module.split(".")[1] if "." in module else ""


def rank(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)


@pytest.mark.parametrize("module", MODULES)
def test_the_library_never_imports_the_service(module: str):
    assert not [name for name in imports(PACKAGE / module) if name.split(".")[0] == "app"]


@pytest.mark.parametrize("module", [name for name in MODULES if name != "__init__.py"])
def test_parts_of_the_library_import_in_one_direction(module: str):
    own = Path(module).parts[0].removesuffix(".py")
    used = {part(name) for name in imports(PACKAGE / module) if name.split(".")[0] == "cbam"}
    against = {
        other
        for other in used - {own}
        if rank(other) > rank(own) or rank(other) == rank(own) < len(ORDER)
    }
    assert not against


def test_the_order_names_what_there_is():
    there = {Path(module).parts[0].removesuffix(".py") for module in MODULES}
    assert set(ORDER) <= there


@pytest.mark.skipif(not SERVICE.is_dir(), reason="the library alone is installed")
def test_the_service_does_not_reach_into_training():
    files = [path for path in SERVICE.rglob("*.py") if "cli" not in path.parts]
    used = {name for path in files for name in imports(path)}
    assert not [name for name in used if name.startswith("cbam.training")]


# The command line too starts at once: it imports the service only to start it.
@pytest.mark.parametrize("module", ["cbam", "app.cli.main"])
def test_importing_the_library_is_light(module: str):
    if module == "app.cli.main":
        pytest.importorskip(module)
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


def test_what_the_library_offers_is_there():
    assert all(hasattr(cbam, name) for name in cbam.__all__)
    assert cbam.__doc__
    assert cbam.__version__
