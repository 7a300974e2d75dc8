"""One answer to take away: as JSON, as one HTML file, as lines that ask the same again."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from app.inference.engine import Answer
from app.routes.answers import Explained, Intervened, explained, intervened
from app.templating import bundled, templates, uri
from app.words import DEFAULT, words
from cbam import render
from cbam.bundle.records import Asked, Bundle, ModelRecord
from cbam.bundle.write import gate_picture, shrunk, write
from cbam.explain.explanation import Explanation
from cbam.explain.methods import METHODS
from cbam.explain.verdict import verdict

SHOWN_PX = 640  # longest side of the HTML file's pictures
GATE_PX = 112
CLASSES = 5  # shown of each model
# What is left out of a bundle's answer: times are of one run, not of the answer.
TIMES: Any = {"timing_ms": True, "before": {"timing_ms"}, "after": {"timing_ms"}}


@dataclass(frozen=True)
class Lines:
    """The same question in three languages, to be copied."""

    curl: str
    python: str
    command: str


def answer_of(bundle: Bundle) -> Explained | Intervened:
    """The answer of /explain, or of /intervene if gates were changed, without real times."""
    waits = {"decode": 0.0, "queue": 0.0}
    before = Answer(list(bundle.explanations), waits, bundle.photo_sha256)
    if bundle.changed is None:
        return explained(before)
    return intervened(before, Answer(list(bundle.changed), waits, bundle.photo_sha256))


def answer_json(bundle: Bundle) -> str:
    """`answer_of` as JSON without times, so that the same answer is the same text."""
    without = {"results": {"__all__": TIMES}}
    return answer_of(bundle).model_dump_json(indent=1, exclude=without) + "\n"


def zip_file(bundle: Bundle) -> bytes:
    """The bundle as a zip file, with the API's answer in it."""
    return write(bundle, answer_json(bundle))


def html_file(bundle: Bundle, language: str = DEFAULT) -> str:
    """The answer as one HTML file: it needs no script, no other file and no network."""
    t = words(language)
    shown = bundle.shown
    found = verdict(shown)
    small, scale = shrunk(shown[0].photo, SHOWN_PX)
    context = {
        "t": t,
        "values": (bundled("static") / "css" / "values.css").read_text(encoding="utf-8"),
        "inferno": render.COLOUR_MAPS["inferno"].stops,
        "headline": t.headline(found),
        "warning": t.warning(found, shown[0].classes),
        "target": shown[0].target,
        "method": METHODS[shown[0].method].title if shown[0].method in METHODS else shown[0].method,
        "photo": uri(small),
        "width": small.width,
        "height": small.height,
        "columns": [
            {
                "model": model,
                "answer": each,
                "before": before if each.changed else None,
                "peak": float(each.heatmap.max()),
                "picture": uri(_overlay(each, small, scale)),
                "predictions": each.predictions[:CLASSES],
                "blocks": _blocks(each),
            }
            for model, before, each in zip(bundle.models, bundle.explanations, shown, strict=True)
        ],
        "bundle": bundle,
        "lines": lines(bundle.question, bundle.models),
    }
    return templates().get_template("answer_file.html").render(context)


def lines(
    question: Asked,
    models: Sequence[ModelRecord],
    photo: str = "photo.jpg",
    address: str = "http://127.0.0.1:8000",
) -> Lines:
    """What gives the same answer again: over REST, in Python, on the command line."""
    names = [each.name for each in models]
    options: dict[str, Any] = {
        "target": question.target,
        "method": question.method,
        "layer": question.layer,
        "top_k": question.top_k,
        "versus": question.versus,
        "gates": question.gates,
        "fuse": question.fuse if "," in (question.layer or "") else None,
    }
    given = {name: value for name, value in options.items() if value not in (None, "")}
    backends = list(dict.fromkeys(each.backend for each in models))
    chosen = backends[0] if len(backends) == 1 and backends[0] != "eager" else ""

    fields = [f"image=@{photo}", *(f"models={name}" for name in names)]
    fields += [f"{name}={value}" for name, value in given.items()]
    curl = [f"curl {address}/api/v1/explain", *(f"-F {shlex.quote(each)}" for each in fields)]
    command = [f"cbam-lens explain {shlex.quote(photo)}"]
    command += [f"--model {shlex.quote(name)}" for name in names]
    command += [f"--{n.replace('_', '-')} {shlex.quote(str(v))}" for n, v in given.items()]
    command += [f"--backend {chosen}"] if chosen else []
    backend = f", {chosen!r}" if chosen else ""
    python = (
        "import cbam",
        "",
        f"models = [cbam.load(name{backend}) for name in {names!r}]",
        f"options = cbam.Options({', '.join(f'{n}={v!r}' for n, v in given.items())})",
        f"explanations = cbam.compare(models, {photo!r}, options)",
    )
    split = " \\\n  "  # a line of the shell goes on
    return Lines(split.join(curl), "\n".join(python), split.join([*command, "-o answer.zip"]))


def _overlay(explanation: Explanation, small: Image.Image, scale: float) -> Image.Image:
    """The heat map over the photo as small as it is shown."""
    return render.overlay(small, explanation.heatmap, explanation.view.scaled(scale, *small.size))


def _blocks(explanation: Explanation) -> list[dict[str, Any]]:
    """Each block's gates as pictures with their range."""
    view = explanation.view
    tile = explanation.photo.resize((GATE_PX, GATE_PX), box=(view.x0, view.y0, view.x1, view.y1))
    return [
        {
            "block": block.block,
            "gates": [
                {
                    "kind": gate.kind,
                    "low": float(gate.values.min()),
                    "high": float(gate.values.max()),
                    "picture": uri(gate_picture(gate, tile), "PNG"),
                }
                for gate in block.gates.values()
            ],
        }
        for block in explanation.attention
    ]
