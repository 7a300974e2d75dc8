"""Text files as people save them, and errors about them in one sentence."""

from pathlib import Path

from pydantic import ValidationError


def read_text(path: Path) -> str:
    """A text file's content: UTF-8, with or without the mark (BOM) that Windows Notepad puts first.

    Line ends become `\\n`, whatever system wrote them. Raises OSError, UnicodeDecodeError.
    """
    return path.read_text(encoding="utf-8-sig")


def lines_of(path: Path) -> list[str]:
    """The lines of a text file, without blank ones at its end. Raises as `read_text` does."""
    return read_text(path).rstrip().split("\n")


def sentence(error: Exception) -> str:
    """What is wrong with a file, on one line: `weights_sha256: Field required`."""
    if isinstance(error, ValidationError):
        findings = error.errors(include_url=False)
        return "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'it'}{_came(each['input'])}: {each['msg']}"
            for each in findings
        )
    if isinstance(error, UnicodeDecodeError):
        return "it is not text in UTF-8"
    return " ".join(str(error).split())


def _came(value: object) -> str:
    """` is 'squash'`; nothing of a whole section."""
    return f" is {str(value)[:80]!r}" if isinstance(value, str | int | float) else ""
