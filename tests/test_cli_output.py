"""What the command prints: names and numbers whole, and nothing of them read as markup."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commanding import Run
from PIL import Image

from app.cli import shared
from cbam.cards.card import Card, write_card
from cbam.model import Model

pytest_plugins = ["commanding"]

# A name that markup, narrow tables, terminals and ASCII each could spoil.
ODD = "tench [red]fish[/red] :smile: \x1b[31m a-very-long-name-that-is-wider-than-a-narrow-terminal"
SEEN = ODD.replace("\x1b", "\\x1b")
ROOT = Path(__file__).parent.parent


@pytest.fixture
def card(make_model: Callable[..., Model], tmp_path: Path) -> Card:
    """A model whose name, folder and classes are odd."""
    labels = (ODD, "église", "[/]", "[bold]", "d")
    made = make_model("cbam", labels=labels)
    folder = tmp_path / "odd [folder]" / "model-with-a-name-of-more-than-40-characters"
    card = replace(
        made.card, name=folder.name, backbone_options={"width": 8}, storage="float32", folder=folder
    )
    return write_card(card, made.network.state_dict())


@pytest.fixture
def photo(make_photo: Callable[..., Image.Image], tmp_path: Path) -> Path:
    path = tmp_path / "a [b]photo\n.png"
    make_photo().save(path)
    return path


@pytest.mark.parametrize("columns", [None, 20, 40, 80, 300])
def test_explain_shows_names_and_numbers_whole_at_every_width(
    run: Run, card: Card, photo: Path, columns: int | None
):
    status, out, err = run("explain", photo, "--model", card.folder, "--target", "0",
                           columns=columns)  # fmt: skip
    assert (status, err) == (0, "")
    assert card.name in out
    assert f"P({SEEN})" in out
    assert "\x1b" not in out
    assert "%" in out
    assert "…" not in out


@pytest.mark.parametrize("columns", [None, 40, 80])
def test_lists_are_whole_at_every_width(
    run: Run,
    card: Card,
    monkeypatch: pytest.MonkeyPatch,
    columns: int | None,
):
    monkeypatch.setattr("cbam.cards.families.models_folder", lambda: card.folder.parent)
    for words in (("list",), ("list", "--markdown"), ("show", card.name)):
        status, out, _ = run("models", *words, columns=columns)
        assert status == 0
        assert card.name in out
        assert "…" not in out


def test_measures_are_whole_in_a_narrow_terminal(run: Run, card: Card, photo: Path, tmp_path: Path):
    card = write_card(replace(card, folders=tuple("abcde")))
    (tmp_path / "val" / "a").mkdir(parents=True)
    photo.rename(tmp_path / "val" / "a" / "x.png")
    for columns in (None, 40):
        status, out, _ = run("evaluate", card.folder, "--val", tmp_path / "val", columns=columns)
        assert status == 0
        assert card.name in out
        assert "val calibration_error" in out


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_narrow_terminal_stacks_rows_and_a_wide_one_aligns_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
):
    monkeypatch.setenv("COLUMNS", str(columns))
    titles, rows = ("name", "one", "two"), [("x" * 30, "1" * 30, "2" * 30), ("y", "", "z")]
    shared.show_table(titles, rows)
    lines = capsys.readouterr().out.splitlines()
    if columns < 100:
        assert lines == ["x" * 30, f"  one: {'1' * 30}", f"  two: {'2' * 30}", "y", "  two: z"]
    else:
        assert any(all(cell in line for cell in rows[0]) for line in lines)
        assert max(map(len, lines)) <= columns


@pytest.mark.parametrize(
    "words",
    [
        ("explain", "no [red]file[/].png"),
        ("explain", "x.png", "--method", "[/gradcam]"),
        ("explain", "x.png", "--backend", "[bold]"),
        ("explain", "x.png", "-o", "[/].bmp"),
        ("models", "show", "[/nope]"),
        ("evaluate", "[/nope]", "--val", "."),
        ("evaluate", "x", "--val", "[/nope]"),
        ("train", "[/nope].toml", "--data", "."),
    ],
    ids=" ".join,
)
def test_an_error_names_what_came_on_one_line_of_stderr(run: Run, words: tuple[str, ...]):
    status, out, err = run(*words, columns=40)
    assert (status, out) == (1, "")
    odd = next(word for word in words if "[" in word)
    assert odd in err
    assert err.startswith("cbam-lens: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a\nb\tc\x00", r"a\nb\tc\x00"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("line\u2028end", r"line\u2028end"),
        (os.fsdecode(b"caf\xe9.png"), r"caf\xe9.png"),
        ("\ud83d", r"\ud83d"),
        ("[red]église[/red] 猫 👩‍🔬 :cat:", "[red]église[/red] 猫 👩‍🔬 :cat:"),
    ],
)
def test_hidden_characters_are_made_visible_and_others_left(text: str, seen: str):
    assert shared.visible(text) == seen


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_terminal_gets_what_it_can_show(
    encoding: str, monkeypatch: pytest.MonkeyPatch, card: Card
):
    buffer = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(buffer, encoding, write_through=True))
    shared.show_table(("église", "猫"), [("é", "b")])
    shared.say("église")
    text = buffer.getvalue().decode(encoding)
    assert ("église" if encoding != "ascii" else r"\xe9glise") in text
    buffer.seek(0)
    buffer.truncate()
    values = {"é": '猫👩 "\\ \x7f\x9b\u202e'}
    shared.show_json(json.dumps(values, ensure_ascii=False, indent=1))
    raw = buffer.getvalue().decode(encoding)
    assert json.loads(raw) == values
    assert not {"\x7f", "\x9b", "\u202e"} & set(raw)


@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_pipe_gets_no_colours(run: Run, env: dict[str, str], card: Card):
    for words in (
        ("models", "list"),
        ("models", "show", card.folder),
        ("--help",),
        ("explain", "n"),
    ):
        _, out, err = run(*words, **env)
        assert "\x1b" not in out + err


def test_help_is_whole_in_a_narrow_terminal(run: Run):
    for command in ("explain", "serve", "evaluate", "train"):
        status, out, _ = run(command, "--help", columns=40)
        assert status == 0
        assert "--help" in out
        assert "…" not in out


def command(**options: Any) -> subprocess.Popen[bytes]:
    """`cbam-lens models list` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "app.cli", *options.pop("words", ("models", "list"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        **options,
    )


def test_a_reader_that_leaves_early_ends_the_command_quietly():
    running = command(words=("models", "list", "--markdown"))
    running.stdout.close()
    error = running.stderr.read()
    running.stderr.close()
    assert (running.wait(120), error) == (shared.PIPE_CLOSED, b"")


def test_ctrl_c_ends_the_command_with_one_line(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # Whoever starts the tests may have told their children to ignore Ctrl-C.
    running = command(
        words=("explain", str(pipe)),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with pipe.open("wb"):  # opens once the command reads: it is past its imports
        running.send_signal(signal.SIGINT)
        _, error = running.communicate(timeout=120)
    assert running.returncode == shared.INTERRUPTED
    assert error == b"cbam-lens: interrupted\n"


def test_one_file_alone_prints():
    speaks = re.compile(
        r"(?<![\w.])print\(|^\s*(from|import) rich|typer\.s?echo|sys\.std(out|err)", re.M
    )
    files = [*(ROOT / "app" / "cli").glob("*.py")]
    found = {file.name for file in files if speaks.search(file.read_text(encoding="utf-8"))}
    # __main__ speaks for itself when Ctrl-C comes before anything is imported.
    assert found == {"shared.py", "__main__.py"}
