"""How the command speaks: everything that it prints goes through here.

Names, paths and messages come from outside. They are printed whole and as they are, never read as
markup; characters that would move the cursor or hide are made visible. In a pipe there are no
colours and no width is assumed. A terminal that is too narrow for a table gets its rows as lines.
"""

import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn, TextIO

from PIL import Image
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from cbam.backends.choose import AUTO, BACKENDS
from cbam.data.labelled import Unread
from cbam.errors import CannotWrite
from cbam.images.formats import FORMATS

RUNNERS = ", ".join((*BACKENDS, AUTO))
# Exit statuses beside 0; `serve` has others of its own.
FAILED, SOME_UNREAD, INTERRUPTED, PIPE_CLOSED = 1, 4, 130, 141  # the last two as shells have them
NAMED = 10  # photos that are named when many cannot be read
WIDEST = 100_000  # columns: no width at all
PICTURES = {suffix: name for name, kind in FORMATS.items() for suffix in kind.suffixes}

# Control characters, line separators, marks that turn the direction of text, halves of a character.
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: object) -> str:
    r"""The text on one line, hidden characters as Python writes them: a line break as `\n`.

    Bytes of a path that are no text become `\xff`.
    """
    return _HIDDEN.sub(_escaped, str(text))


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    if 0xDC80 <= ord(character) <= 0xDCFF:  # how Python carries a byte that it could not decode
        return f"\\x{ord(character) - 0xDC00:02x}"
    return repr(character)[1:-1]


def say(text: object) -> None:
    """One line of the command's answer, on stdout."""
    _print(Text(visible(text)))


def note(text: object) -> None:
    """One line beside the answer, on stderr."""
    _print(Text(visible(text)), stderr=True)


def complain(error: object) -> None:
    """An error as one line on stderr."""
    _print(Text.assemble(("cbam-lens:", "red"), f" {visible(error)}"), stderr=True)


def show_table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table; where the terminal is too narrow, each row as its first cell and a line a column.

    Nothing is ever cut, and no cell is broken into lines.
    """
    heads, cells = [visible(title) for title in titles], [[visible(c) for c in row] for row in rows]
    table = Table()
    for head in heads:
        table.add_column(Text(head), no_wrap=True)
    for row in cells:
        table.add_row(*map(Text, row))
    console = Console()
    needed = console.measure(table, options=console.options.update(width=WIDEST)).maximum
    # COLUMNS is somebody's wish even in a pipe. Otherwise a pipe has no width.
    if needed <= console.width or not (console.is_terminal or os.environ.get("COLUMNS")):
        _print(table, width=needed)
        return
    for first, *others in cells:
        say(first)
        for head, cell in zip(heads[1:], others, strict=True):
            if cell:
                say(f"  {head}: {cell}")


def show_json(text: str) -> None:
    """JSON on stdout, to be read by programs: valid whatever the terminal can show."""
    text = re.sub(r"[^\n -~]", lambda found: _in_json(found[0]), text)
    _write(sys.stdout, text + "\n")


def show_text(text: str) -> None:
    """A file's worth of our own text, such as Markdown, on stdout."""
    _write(sys.stdout, text)


def _in_json(character: str) -> str:
    r"""The character, or `\u00e9` where it is hidden or the output cannot take it."""
    if not _HIDDEN.match(character):
        try:
            character.encode(sys.stdout.encoding or "utf-8")
        except UnicodeEncodeError:
            pass
        else:
            return character
    return json.dumps(character)[1:-1] if ord(character) != 0x7F else "\\u007f"


def report_unread(unread: Sequence[Unread]) -> None:
    """Which photos of a data set were left out, and why, on stderr: their count, the first ones."""
    count = len(unread)
    note(f"{count} {'photo' if count == 1 else 'photos'} could not be read and were left out:")
    for each in unread[:NAMED]:
        note(f"  {each}")
    if count > NAMED:
        note(f"  ... and {count - NAMED} more")


def _print(what: RenderableType, stderr: bool = False, width: int | None = None) -> None:
    console = Console(stderr=stderr, markup=False, highlight=False, emoji=False, width=width)
    with console.capture() as captured:
        console.print(what, soft_wrap=True)
    _write(sys.stderr if stderr else sys.stdout, captured.get())


def _write(stream: TextIO, text: str) -> None:
    """Write at once. If the reader has gone (`| head -1`), end quietly."""
    encoding = stream.encoding or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)  # LANG=C: é becomes \xe9
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        end_quietly()


def end_quietly() -> NoReturn:
    """End the command after its reader has gone, without a word about it."""
    with Path(os.devnull).open("w") as nowhere:  # what Python still flushes at its end
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    raise SystemExit(PIPE_CLOSED)


def check_picture(path: Path, others: Sequence[str] = ()) -> None:
    """Check that a picture can be written to `path`, before the work. Raises CannotWrite.

    `others`: endings of what else it may be.
    """
    what = "file" if others else "picture"
    check_file(path, (*PICTURES, *others), what, "sheet.png")


def check_file(path: Path, endings: Sequence[str], what: str, example: str) -> None:
    """Check that a file with one of these endings can be written, before the work.

    `what` it is and an `example` of a name, for the message. Raises CannotWrite.
    """
    if path.suffix.lower() not in endings:
        came = f"the ending '{path.suffix}'" if path.suffix else "no ending"
        raise CannotWrite(
            f"The {what} '{path}' has {came}; it decides the format. Known: {', '.join(endings)}."
        )
    if path.is_dir():
        raise CannotWrite(f"'{path}' is a folder. Name a file, such as '{path / example}'.")
    check_folder(path.parent)
    if path.exists() and not os.access(path, os.W_OK):
        raise CannotWrite(f"The file '{path}' cannot be overwritten: permission denied.")


def check_folder(folder: Path, create: bool = False) -> None:
    """Check that files can be written into a folder; `create` makes it. Raises CannotWrite."""
    try:
        if create:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileNotFoundError as error:
        if folder.is_dir():
            raise CannotWrite(f"No file can be written into '{folder}'.") from error
        raise CannotWrite(f"There is no folder '{folder}' to write into. Make it first.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CannotWrite(f"No file can be written into '{folder}': {reason}.") from error


def write_picture(image: Image.Image, path: Path) -> None:
    """Write a picture in the format of its ending. Raises CannotWrite."""
    buffer = io.BytesIO()
    image.save(buffer, PICTURES[path.suffix.lower()])
    write_file(buffer.getvalue(), path)


def write_file(data: bytes, path: Path) -> None:
    """Write a file and say so. Raises CannotWrite."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise CannotWrite(f"'{path}' could not be written: {error.strerror}.") from error
    note(f"wrote {path}")
