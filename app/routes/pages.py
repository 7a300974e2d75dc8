"""The page: the same answer as /explain, as HTML. It works without JavaScript.

The page's script asks `POST /` for a fragment with the header `X-Fragment`:
* `answer`: the answer's section or the error's box alone, without pictures; the script paints the
  maps itself, on the gallery's photo or on the file that it has sent.
* `answer, photo`: the same with the photo, for a file that the browser cannot decode as we do.
* `what-if`: only what the models with gates say before and after `gates` are changed. With `after`
  beside it, nothing is computed for before: the script has it from the question before.
Its header Accept-Language names the language of the page.
"""

import json
import tomllib
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse
from PIL import Image
from pydantic import ValidationError

from app import takeaway
from app.edge.access import admit
from app.inference.errors import Loading
from app.problems import refusal
from app.routes import answers
from app.routes.answers import Map
from app.routes.deps import (
    Asked,
    Changed,
    ask_about,
    ask_changed,
    engine_of,
    photo_of,
    settings_of,
)
from app.routes.forms import PageFields
from app.routes.uploads import Upload, read_upload
from app.routes.views import VIEWS, shown
from app.templating import uri
from app.words import FIELD, asked_for, headers, language_of, languages, words
from cbam import ATTENTION, METHODS, __version__, render
from cbam.bundle.records import Asked as AskedAgain
from cbam.bundle.records import ModelRecord, target_of
from cbam.cards.card import Card
from cbam.errors import CBAMLensError
from cbam.explain.explanation import BlockAttention, Explanation
from cbam.explain.formulas import FUSIONS
from cbam.explain.gate_words import judge
from cbam.explain.verdict import verdict
from cbam.images.formats import FORMATS, TITLES
from cbam.model import Model

pages = APIRouter(include_in_schema=False)
SHOWN_PX = 1024  # longest side of pictures in the page
_jpeg = partial(uri, quality=85)  # these, as data: URIs
FRAGMENT = "X-Fragment"
VARIES = f"{FRAGMENT}, Accept-Language, Cookie"  # what the page depends on beside its address
WHAT_IF = "what-if"
AFTER = "after"


def gallery(static: Path) -> list[dict[str, Any]]:
    """The bundled photos with their credits, in the order in which they are shown."""
    file = static / "gallery" / "gallery.toml"
    photos: list[dict[str, Any]] = tomllib.loads(file.read_text(encoding="utf-8"))["photo"]
    return photos


@pages.get("/")
async def page(request: Request) -> HTMLResponse:
    """The page with the answer for the gallery photo `?photo=`, by default with an example."""
    known = {
        name: request.query_params.getlist(name)
        for name in request.query_params
        if name in PageFields.model_fields  # ignore what else a shared link picked up
    }
    try:
        await admit(request)
    except HTTPException as error:
        return await _rendered(request, PageFields(), error=error)
    return await _answer(request, Upload(None, known), asked="photo" in known)


@pages.post("/")
async def answer(request: Request) -> HTMLResponse:
    """The page with the answer for the photo that was sent, or for one of the gallery."""
    try:
        await admit(request)
        upload = await read_upload(request, settings_of(request))
    except HTTPException as error:
        return await _rendered(request, PageFields(), error=error)
    upload.fields.pop(FIELD, None)
    return await _answer(request, upload)


async def _answer(request: Request, upload: Upload, asked: bool = True) -> HTMLResponse:
    """The page for these fields; with an example if no photo was `asked` about."""
    fields = PageFields()
    try:
        fields = PageFields.model_validate(PageFields.values(upload))
        if not asked:
            return await _example(request, fields)
        # Only a pressed gallery button sends `photo`, so it takes precedence over a chosen file.
        image = _gallery_photo(request, fields.photo) if fields.photo else None
        parts = _parts(request)
        ask = ask_changed if fields.changes_gates else ask_about
        if WHAT_IF in parts:  # shows neither gate maps nor models that stay as they are
            only = {"models": _with_gates(request, fields), "attention": False}
            fields = fields.model_copy(update=only)
            ask = partial(ask_changed, others=False, before=AFTER not in parts)
        answer = await ask(request, image or photo_of(upload), fields)
        result = await engine_of(request).in_picture_thread(_shown, answer, parts)
    except (HTTPException, CBAMLensError, ValidationError) as error:
        return await _rendered(request, fields, error=error)
    return await _rendered(request, fields, result=result)


async def _example(request: Request, fields: PageFields) -> HTMLResponse:
    """The page with the answer for the gallery's first photo, made once per family and kept."""
    engine = engine_of(request)
    if not engine.ready:
        return await _rendered(request, fields, loading=engine.loading)
    name = request.app.state.gallery[0]["file"]
    fields = PageFields(family=fields.family, photo=name)
    examples: dict[str, dict[str, Any]] = request.app.state.examples
    family = fields.family or engine.default_family
    if family not in examples:
        answer = await ask_about(request, _gallery_photo(request, name), fields)
        examples[family] = await engine.in_picture_thread(_shown, answer, _parts(request))
    return await _rendered(request, fields, result=examples[family])


def _with_gates(request: Request, fields: PageFields) -> list[str]:
    """Those models of the chosen family that have gates."""
    engine = engine_of(request)
    members = engine.families.get(fields.family or engine.default_family, [])
    return [name for name in members if ATTENTION[engine.cards[name].attention].gates]


def _gallery_photo(request: Request, name: str) -> bytes:
    """A gallery photo's bytes. The name is looked up, never used as a path."""
    static: Path = request.app.state.static
    for photo in request.app.state.gallery:
        if photo["file"] == name:
            return (static / "gallery" / str(photo["file"])).read_bytes()
    raise HTTPException(422, f"The gallery has no photo '{name}'.")


def _parts(request: Request) -> frozenset[str]:
    """The requested parts: those in the header X-Fragment, by default "page" and "photo"."""
    asked = request.headers.get(FRAGMENT) if request.method == "POST" else None
    return frozenset(part.strip() for part in (asked or "page, photo").split(","))


async def _rendered(request: Request, fields: PageFields, **what: Any) -> HTMLResponse:
    """The page as `_render` makes it, off the event loop."""
    made: HTMLResponse = await engine_of(request).in_picture_thread(
        partial(_render, request, fields, **what)
    )
    return made


def _render(
    request: Request,
    fields: PageFields,
    result: dict[str, Any] | None = None,
    error: Exception | None = None,
    loading: bool = False,
) -> HTMLResponse:
    engine = engine_of(request)
    family = fields.family if fields.family in engine.families else engine.default_family
    photos = _gallery(request, family)
    refused = refusal(request, error) if error else None
    # A fragment is in the language of its page, whatever another page has chosen meanwhile.
    language = asked_for(request) if FRAGMENT in request.headers else language_of(request)
    context = {
        "t": words(language),
        "languages": languages(),
        "root": request.scope.get("root_path", "").rstrip("/"),
        "photo": next((photo for photo in photos if photo["file"] == fields.photo), None),
        "options": fields.model_dump(),
        "attention": ATTENTION,
        "methods": [answers.method_info(name, method) for name, method in METHODS.items()],
        "fusions": FUSIONS,
        "colour_maps": {name: each.stops for name, each in render.COLOUR_MAPS.items()},
        "colourings": render.COLOUR_MAPS,
        "error": refused,
        "loading": loading or isinstance(error, Loading),
        "may_refresh": request.method == "GET",
        "result": result,
        "detectors": request.app.state.detectors,
        "paper": request.app.state.paper,
        "measured": measured(engine.cards.values()),
        "detection": measured_detection(request.app.state.detectors),
        "views": VIEWS,
        "view": shown(request.query_params.get("view"), fields.changes_gates),
    }
    template = "changes.html" if WHAT_IF in _parts(request) else "answer.html"
    if "page" in _parts(request):
        template = "index.html"
        context |= {"photos": photos, "version": __version__, **_form(request, family)}
    html = request.app.state.templates.get_template(template).render(context)
    status, more = (refused.status, refused.headers) if refused else (200, None)
    return HTMLResponse(
        html, status, {**(more or {}), **headers(request, language), "Vary": VARIES}
    )


def measured(cards: Iterable[Card]) -> list[dict[str, Any]]:
    """By family what the cards say was measured: accuracy, and accuracy with all gates held.

    A number that is on no card is None.
    """
    families: dict[str, list[dict[str, Any]]] = {}
    titles: dict[str, str] = {}
    for card in cards:
        val, gates = card.metrics.get("val", {}), card.metrics.get("gates", {})
        held: dict[str, Any] = gates.get("all") or next(filter(_is_held, gates.values()), {})
        titles[card.family] = card.family_title
        families.setdefault(card.family, []).append(
            {
                "title": card.title,
                "name": card.name,
                "photos": val.get("photos"),
                "top1_error": None if "top1" not in val else 100 * (1 - val["top1"]),
                "top5_error": None if "top5" not in val else 100 * (1 - val["top5"]),
                "command": val.get("command", ""),
                "held": {way: held.get(way) for way in ("mean", "open")},
                "held_photos": gates.get("photos"),
                "held_command": gates.get("command", ""),
            }
        )
    return [
        {"name": name, "title": titles[name], "models": members}
        for name, members in families.items()
    ]


def measured_detection(detectors: Iterable[answers.DetectorInfo]) -> list[dict[str, Any]]:
    """By family what the detectors' cards say was measured; those without such numbers left out."""
    families: dict[str, list[answers.DetectorInfo]] = {}
    for each in detectors:
        if "boxes" in each.metrics:
            families.setdefault(each.family, []).append(each)
    return [_detection(members) for members in families.values()]


def _detection(members: Sequence[answers.DetectorInfo]) -> dict[str, Any]:
    """One family: how well each member finds, and its difference from those before it."""

    def difference(mine: answers.DetectorInfo, other: answers.DetectorInfo) -> list[float] | None:
        found: list[float] | None
        found = mine.metrics.get(f"against_{other.attention}", {}).get("map50")
        return found

    others = [other for other in members if any(difference(each, other) for each in members)]
    compared = [found for each in members for other in others if (found := difference(each, other))]
    return {
        "name": members[0].family,
        "title": members[0].family_title,
        "data": members[0].data,
        "size_px": members[0].input_size,
        "others": [other.network for other in others],
        "noise": all(low <= 0 <= high for _, low, high in compared),
        "models": [
            {
                "title": each.title,
                **each.metrics["boxes"],
                "differences": [difference(each, other) for other in others],
            }
            for each in members
        ],
    }


def _is_held(value: object) -> bool:
    """Whether this entry of a card's gates is about gates that were held."""
    return isinstance(value, dict) and "mean" in value


def read_paper(static: Path) -> dict[str, Any]:
    """The paper's tables and their recount, as `cbam-lens paper` wrote them."""
    found: dict[str, Any] = json.loads((static / "paper.json").read_text(encoding="utf-8"))
    return found


def _form(request: Request, chosen: str) -> dict[str, Any]:
    """What the form offers while the family `chosen` is shown."""
    engine, settings = engine_of(request), settings_of(request)
    families: list[dict[str, Any]] = [
        {
            "name": name,
            "title": engine.cards[members[0]].family_title,
            "default": name == engine.default_family,
            "models": members,
            "classes": engine.cards[members[0]].labels,
            "input_size": engine.cards[members[0]].preprocess.size_px,
            "models_info": [
                answers.model_info(engine.models[model])
                for model in members
                if model in engine.models
            ],
        }
        for name, members in engine.families.items()
    ]
    first = engine.models.get(engine.families[chosen][0])
    return {
        "families": families,
        "family": next(item for item in families if item["name"] == chosen),
        "layers": first.layers if first else [],
        "limits": {
            "max_upload_mb": settings.max_upload_mb,
            "max_megapixels": settings.max_megapixels,
            "formats": ", ".join(TITLES),
            "accept": ",".join(each for format in FORMATS.values() for each in format.accept),
        },
    }


def _gallery(request: Request, family: str) -> list[dict[str, Any]]:
    """The gallery's photos, each with the family's labels for it and the models that miss it."""
    engine = engine_of(request)
    members = engine.families[family]
    card = engine.cards[members[0]]
    return [
        {
            **photo,
            "known": (known := [label for label in photo["shows"] if label in card.labels]),
            "known_words": [card.word(label) for label in known],
            "missed": [name for name in photo.get("missed_by", ()) if name in members],
        }
        for photo in request.app.state.gallery
    ]


def _shown(asked: Asked[PageFields], parts: frozenset[str]) -> dict[str, Any]:
    """The answer with the pictures that `parts` ask for. Only the whole page has pictures of the
    maps, for readers without JavaScript."""
    explanations = asked.answer.explanations
    target = target_of(asked.models[0].card, explanations[0].target)
    question = AskedAgain.of(asked.fields.options(), target)
    records = [ModelRecord.of(model) for model in asked.models]
    result: dict[str, Any] = {
        "explained": answers.explained(asked.answer),
        "verdict": verdict(explanations),
        "models": [answers.model_info(model) for model in asked.models],
        "photo_uri": "",
        "overlays": [],
        "gates": [
            _gates(each, model.card, "page" in parts)
            for each, model in zip(explanations, asked.models, strict=True)
        ],
        "unit": METHODS[explanations[0].method].unit,
        "places": _places(asked.models),
        "lines": takeaway.lines(question, records, asked.fields.photo or "photo.jpg"),
        "lines_target": question.target,
        "what_if": None,
    }
    if "photo" in parts or "page" in parts:
        shown = explanations[0].photo.copy()
        shown.thumbnail((SHOWN_PX, SHOWN_PX))
        result["shown_size"] = shown.size
        if not asked.fields.photo:  # gallery photos have a URL
            result["photo_uri"] = _jpeg(shown)
    if "page" in parts:
        result["overlays"] = [_jpeg(_overlay(each, shown)) for each in explanations]
    if isinstance(asked, Changed):
        changed = [bool(each.changed) for each in asked.after.explanations]
        result["what_if"] = answers.intervened(asked.answer, asked.after)
        result["changed"] = {
            gate: how for each in asked.after.explanations for gate, how in each.changed.items()
        }
        result["changed_overlays"] = [
            _jpeg(_overlay(each, shown)) if "page" in parts and is_changed else ""
            for each, is_changed in zip(asked.after.explanations, changed, strict=True)
        ]
    return result


def _places(models: Sequence[Model]) -> list[dict[str, Any]]:
    """The gates that can be changed, block by block; models that have the same gate share it."""
    blocks: dict[str, dict[str, dict[str, Any]]] = {}
    for model in models:
        for name, place in model.gates.items():
            gate = blocks.setdefault(place.block, {}).setdefault(
                name,
                {
                    "name": name,
                    "kind": place.kind,
                    "paths": place.paths,
                    "mask": "HW" in place.kind.axes,
                    "mean": True,
                },
            )
            gate["paths"] = gate["paths"] or place.paths
            gate["mean"] = gate["mean"] and name in model.card.gate_means
    return [{"block": block, "gates": list(gates.values())} for block, gates in blocks.items()]


def _overlay(explanation: Explanation, shown: Image.Image) -> Image.Image:
    """The overlay at the size in which the photo is shown."""
    scale = shown.width / explanation.photo.width
    view = explanation.view
    return render.overlay(shown, explanation.heatmap, view.scaled(scale, *shown.size))


def _gates(explanation: Explanation, card: Card, pictures: bool) -> list[dict[str, Any]]:
    """Each block's gates as they are drawn: planes over the view, vectors as bars, sorted.

    `judged` says what each does to this photo. `pictures` adds pictures for readers without
    JavaScript.
    """
    view = explanation.view
    tile = explanation.photo.crop((view.x0, view.y0, view.x1, view.y1)).resize((112, 112))
    blocks: list[dict[str, Any]] = []
    for block in explanation.attention:
        planes, vectors, judged = [], [], []
        for gate in block.gates.values():
            name = f"{block.block}.{gate.kind.name}"
            judged.append({"kind": gate.kind, "judgement": judge(gate, card, name)})
            plane, vector = gate.plane, gate.vector
            drawn = {"kind": gate.kind, "pooled": plane is not None and vector is not None}
            if plane is not None:
                picture = _jpeg(render.spatial_tile(tile, plane)) if pictures else ""
                flat = float(np.ptp(plane)) < render.FLAT
                planes.append({**drawn, "map": Map.of(plane), "flat": flat, "picture": picture})
            if vector is not None:
                span, base, line = gate.span, gate.base, gate.kind.neutral
                falling = -np.sort(-vector)
                bars = {"bars": falling.tolist(), "span": span, "base": base, "line": line}
                drawing = render.channel_bars(falling, 112, 40, span, base, line)
                picture = uri(drawing, "PNG") if pictures else ""
                vectors.append({**drawn, **bars, "picture": picture})
        blocks.append(
            {
                "block": block.block,
                "planes": planes,
                "vectors": vectors,
                "judged": judged,
                "rows": _rows(block),
            }
        )
    return blocks


def _rows(block: BlockAttention) -> int:
    """Rows of the block's maps; 0 if no gate varies over places."""
    planes = [plane for gate in block.gates.values() if (plane := gate.plane) is not None]
    return max((len(plane) for plane in planes), default=0)
