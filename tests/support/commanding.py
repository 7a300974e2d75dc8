"""The command as from a shell; a test file uses it with `pytest_plugins = ["commanding"]`.

PYTEST_DONT_REWRITE: see app_fixtures.
"""

from collections.abc import Callable

import pytest

from app.cli import main as cli

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command -> exit status, stdout, stderr: `run("open", path, columns=40)`.

    It finds the terminal's width and colours in `columns` and `env` alone.
    """

    def run(*words: object, columns: int | None = None, **env: str) -> tuple[int, str, str]:
        for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR"):
            monkeypatch.delenv(name, raising=False)
        if columns:
            monkeypatch.setenv("COLUMNS", str(columns))
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("sys.argv", ["cbam-lens", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run
