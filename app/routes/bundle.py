"""One answer as a file to take away: a bundle, or an HTML page."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app import takeaway
from app.routes.api import PROBLEMS
from app.routes.deps import Changed, ask_about, ask_changed, engine_of, read
from app.routes.forms import BundleFields, body
from app.words import asked_for
from cbam.bundle.records import bundle_of

bundles = APIRouter(prefix="/api/v1", tags=["v1"])
FILE: dict[str, Any] = {
    "description": "the file: a zip, or HTML",
    "content": {"application/zip": {}, "text/html": {}},
}


@bundles.post(
    "/bundle",
    response_class=Response,
    responses={**PROBLEMS, 200: FILE},
    openapi_extra=body(BundleFields),
)
async def bundle(request: Request) -> Response:
    """One answer as a file: photo, maps, models' hashes, settings; or as one HTML page."""
    image, fields = await read(request, BundleFields)
    ask = ask_changed if fields.gates.strip() else ask_about
    asked = await ask(request, image, fields)
    changed = asked.after.explanations if isinstance(asked, Changed) else None
    page = fields.format == "html"
    language = asked_for(request)

    def made() -> bytes:
        found = bundle_of(
            asked.answer.explanations, asked.models, fields.options(), asked.answer.sha256, changed
        )
        return takeaway.html_file(found, language).encode() if page else takeaway.zip_file(found)

    content = await engine_of(request).in_picture_thread(made)
    # A download is not run as a page of ours: its own styles need not pass our policy.
    name = "cbam-lens-answer.html" if page else "cbam-lens-answer.zip"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Vary": "Accept-Language"}
    if page:
        headers["Content-Language"] = language
    kind = "text/html; charset=utf-8" if page else "application/zip"
    return Response(content, media_type=kind, headers=headers)
