"""Reading a multipart form within limits: one photo in memory, a few short fields."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from fastapi import HTTPException, Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from app.settings import Settings
from cbam.images.strangers import is_plain_text

FIELD_NAME = "image"
SEND_FORM = (
    f"Send multipart/form-data with the photo in the field '{FIELD_NAME}', for instance: "
    f"curl -F {FIELD_NAME}=@photo.jpg ..."
)


@dataclass(frozen=True)
class Upload:
    """A form as it came: the photo's bytes (None: not sent) and all other fields, repeats kept."""

    image: bytes | None
    fields: dict[str, list[str]]


class _InMemory(MultiPartParser):
    """A parser that never spools to disk: the body limit keeps a form small.

    The field of the photo is a file even if it has no file name: many clients send none.
    """

    spool_max_size = 1 << 40

    def on_headers_finished(self) -> None:
        """Called before a part's content."""
        part = self._current_part
        _, options = parse_options_header(part.content_disposition)
        if options.get(b"name") == FIELD_NAME.encode() and b"filename" not in options:
            part.content_disposition = (part.content_disposition or b"") + b'; filename=""'
        super().on_headers_finished()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Called for each piece of a part's content. Raises MultiPartException."""
        try:
            super().on_part_data(data, start, end)
        except MultiPartException as error:
            name, most = self._current_part.field_name[:80], self.max_part_size // 1024
            raise MultiPartException(f"Field '{name}' is longer than {most} KiB.") from error

    def close(self) -> None:
        """Close all files, including those of a part that broke off."""
        for file in self._files_to_close_on_error:
            file.close()


def check_encoding(request: Request) -> None:
    """Raises HTTPException 415 for a compressed body: a small one could unpack to gigabytes."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise HTTPException(
            415,
            f"The body is compressed ('{encoding[:80]}'). Send it as it is, without "
            "Content-Encoding: photos hardly get smaller.",
            {"Accept-Encoding": "identity"},  # RFC 9110, section 12.5.3: what would be taken
        )


def _check_form(content_type: str) -> None:
    """Raises HTTPException 415: no form that holds files; 400: a form that cannot be read."""
    kind, options = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        if not options.get(b"boundary"):
            raise HTTPException(
                400,
                "The Content-Type names no boundary, so the form cannot be read. Let your client "
                f"write this header itself. {SEND_FORM}",
            )
        return
    came = f"The body is '{content_type[:80]}'."
    if not kind:
        came = "The body has no Content-Type."
    elif kind == b"application/json" or kind.endswith(b"+json"):
        came += " JSON cannot hold a photo's bytes."
    elif kind == b"application/x-www-form-urlencoded":
        came += " Such a form holds no files; with curl, -F instead of -d."
    elif kind == b"application/octet-stream" or kind.startswith(b"image/"):
        came += " A photo alone leaves no room for options."
    raise HTTPException(415, f"{came} {SEND_FORM}")


async def read_upload(request: Request, settings: Settings) -> Upload:
    """The request's form, with query parameters as further fields.

    Raises HTTPException 400 (broken form, several files), 408 (too slow), 413 (too large), 415 (not
    a form).
    """
    check_encoding(request)
    _check_form(request.headers.get("content-type", ""))
    if request.query_params.get(FIELD_NAME):
        raise HTTPException(
            422, f"The photo is named in the address, which is not fetched. {SEND_FORM}"
        )
    limit = int(settings.max_upload_mb * 2**20)
    parser = _InMemory(
        request.headers,
        _limited(request, limit, settings.max_upload_mb),
        max_files=1,
        max_fields=settings.max_fields,
        max_part_size=settings.max_field_kb * 1024,
    )
    try:
        form = await _parsed(parser, settings.upload_timeout_s)
        image, fields = await _contents(form)
    finally:
        parser.close()
    for name, text in request.query_params.multi_items():
        if name != FIELD_NAME:
            fields.setdefault(name, []).append(text)
    return Upload(image or None, fields)  # a form sent without choosing a file has an empty one


async def read_body(request: Request, settings: Settings) -> bytes:
    """The whole body of a request that is not a form, within the same limits.

    Raises HTTPException 400 (broke off), 408 (too slow), 413 (too large), 415 (compressed).
    """
    check_encoding(request)
    limit_mb, timeout_s = settings.max_upload_mb, settings.upload_timeout_s
    try:
        async with asyncio.timeout(timeout_s):
            chunks = _limited(request, int(limit_mb * 2**20), limit_mb)
            return b"".join([chunk async for chunk in chunks])
    except TimeoutError as error:
        raise HTTPException(
            408, f"The upload took more than {timeout_s:g} s.", {"Connection": "close"}
        ) from error
    except ClientDisconnect as error:
        raise HTTPException(400, "The upload broke off.") from error


async def _parsed(parser: MultiPartParser, timeout_s: float) -> FormData:
    """The whole form. Raises HTTPException 400, 408."""
    try:
        async with asyncio.timeout(timeout_s):
            return await parser.parse()
    except TimeoutError as error:
        raise HTTPException(
            408,
            f"The upload took more than {timeout_s:g} s. Send a smaller photo.",
            {"Connection": "close"},  # do not wait for the rest of the body
        ) from error
    except ClientDisconnect as error:
        raise HTTPException(400, "The upload broke off.") from error  # nobody is left to read it
    except (MultiPartException, KeyError, ValueError) as error:
        reason = getattr(error, "message", None) or "its headers are malformed"
        raise HTTPException(
            400, f"The form cannot be read: {reason} Send one photo as '{FIELD_NAME}'."
        ) from error


async def _contents(form: FormData) -> tuple[bytes | None, dict[str, list[str]]]:
    """The photo's bytes and the other fields. Raises HTTPException 400, 422."""
    image: bytes | None = None
    fields: dict[str, list[str]] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name != FIELD_NAME:
                raise HTTPException(
                    400, f"A file came as '{name[:80]}'. Send the photo as '{FIELD_NAME}'."
                )
            image = await value.read()
            if not value.filename and is_plain_text(image):
                shown = image[:80].decode("utf-8", "replace")
                raise HTTPException(
                    422,
                    f"Field '{FIELD_NAME}' holds text, not a file: '{shown}'. Send the photo "
                    f"itself; with curl: -F {FIELD_NAME}=@photo.jpg, with an @.",
                )
        else:
            fields.setdefault(name, []).append(value)
    return image, fields


async def _limited(request: Request, limit: int, limit_mb: float) -> AsyncGenerator[bytes, None]:
    """The body's chunks. Raises HTTPException 413 as soon as the body is known to be too large."""
    too_large = HTTPException(
        413, f"The body is larger than {limit_mb:g} MiB. Send a smaller photo."
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise too_large
        yield chunk
