"""Logs as text for people or JSON for machines. They never tell a photo's content or file name."""

import json
import logging
import sys
from datetime import UTC, datetime

LOGGER = "cbam_lens"
HANDLER = "cbam_lens.stderr"
# Control characters and all other line endings, escaped the way Python writes them.
ESCAPED = {n: repr(chr(n))[1:-1] for n in (*range(32), *range(127, 160), 0x2028, 0x2029)}


class JsonLines(logging.Formatter):
    """One JSON object per record: time, level, message, and the fields given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)  # escapes line breaks: one record stays one line


class Plain(logging.Formatter):
    """`12:00:00 info request route=/api/v1/explain status=200 ms=41.3 ...`

    Each record is one line. Only an error's traceback adds more; its lines are indented, so that
    none of them looks like a record.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        text = super().formatMessage(record)
        line = " ".join([text, *(f"{name}={value}" for name, value in fields.items())])
        return line.translate(ESCAPED)

    def format(self, record: logging.LogRecord) -> str:
        return "\n    ".join(super().format(record).splitlines())


class _Stderr(logging.Handler):
    """Writes to the current sys.stderr, looked up each time: tests and servers replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(self.format(record) + "\n")


def configure(style: str) -> None:
    """Write our log to stderr, "plain" or as "json" lines; "off" leaves logging to the host.

    A second call replaces the first.
    """
    log = logging.getLogger(LOGGER)
    for handler in [each for each in log.handlers if each.get_name() == HANDLER]:
        log.removeHandler(handler)
    if style == "off":
        return
    handler = _Stderr()
    handler.set_name(HANDLER)
    handler.setFormatter(JsonLines() if style == "json" else Plain())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
