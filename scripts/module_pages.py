"""Write what docs/modules/ shows of each attention module: its facts from the tables, its figure.

python scripts/module_pages.py            # the facts, between the two comments of each page
python scripts/module_pages.py --figures  # the figures, too: needs the bundled models
"""

import argparse
import re
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from cbam.attention import ATTENTION, PLAIN, Kind
from cbam.backbones import BACKBONES, blocks, build
from cbam.backbones.resnet import PLACEMENTS
from cbam.cards.card import load_network
from cbam.cards.families import available
from cbam.model import Model, load
from cbam.paper import count
from cbam.sheets import attention_sheet

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "modules"
PHOTO = ROOT / "static" / "gallery" / "koala.jpg"
COUNTED = ("resnet18", "resnet50", "mobilenet_x1.0")
PLAIN_MODEL = "resnet50-imagenet"  # whose features untrained modules are shown
BEGIN, END = "<!-- facts: written by scripts/module_pages.py -->", "<!-- end of the facts -->"
AXES = {"C": "channel", "H": "row", "W": "column"}
USES = {
    "multiplied": "multiplied with the features",
    "added": "added to the features",
    "shown": "shown; a step on the way",
}


def names() -> list[str]:
    """The modules that have a page."""
    return [name for name, record in ATTENTION.items() if record.gates]


def facts(name: str) -> str:
    """Gates, placement and cost of a module as Markdown, all of it from the tables."""
    record = ATTENTION[name]
    lines = [
        f"{record.title} is *{record.phrase}*. [The paper]({record.paper}).",
        "",
        "| gate | one value per | what becomes of it | values |",
        "|---|---|---|---|",
        *(f"| {_gate(kind)} |" for kind in record.gates),
        "",
        f"In a ResNet it stands {PLACEMENTS['block']}"
        + (
            ", where its authors put it, too."
            if record.placement == "block"
            else f'. `placement="own"` puts it where its authors did: '
            f"{PLACEMENTS[record.placement]}."
        ),
        "",
        "| network | parameters | added by the module | 10⁹ multiply-adds | added |",
        "|---|---|---|---|---|",
        *(_cost(backbone, name, "block") for backbone in COUNTED),
    ]
    if record.placement != "block":
        lines.append(_cost("resnet50", name, "own"))
    return "\n".join(lines)


def _gate(kind: Kind) -> str:
    per = " and ".join(AXES[axis] for axis in kind.axes)
    ends = ["any" if end is None else f"{end:.3g}" for end in (kind.lowest, kind.highest)]
    values = "any" if ends == ["any", "any"] else f"{ends[0]} to {ends[1]}"
    return f"{kind.title} | {per} | {USES[kind.use]} | {values}"


def _cost(backbone: str, name: str, placement: str) -> str:
    own = placement != "block"
    plain = count(backbone, PLAIN)
    found = count(backbone, name, (), (("placement", placement),) if own else ())
    title = BACKBONES[backbone].title + (", the authors' places" if own else "")
    return (
        f"| {title} | {found[0]:,} | {found[0] - plain[0]:,} | {found[1]:.4f} "
        f"| {found[1] - plain[1]:.4f} |"
    )


def with_facts(page: str, name: str) -> str:
    """The page's text with its facts written anew."""
    text = f"{BEGIN}\n\n{facts(name)}\n\n{END}"
    return re.sub(f"{BEGIN}.*{END}", lambda _: text, page, flags=re.DOTALL)


def figure(name: str) -> Image.Image:
    """The gates of the last block of each stage on one photo.

    Of a bundled model if there is one; else of a module with fresh weights in the trained plain
    network: that shows the shape of its gates on real features, not what it would learn.
    """
    trained = f"resnet50-{name}-imagenet"
    model = load(trained) if trained in available() else _untrained(name)
    explanation = model.explain(Image.open(PHOTO))
    last = [names[-1] for names in _by_stage(blocks(model.network)).values()]
    kept = tuple(block for block in explanation.attention if block.block in last)
    return attention_sheet(replace(explanation, attention=kept), tile_px=170)


def _by_stage(blocks: list[str]) -> dict[str, list[str]]:
    stages: dict[str, list[str]] = {}
    for block in blocks:
        stages.setdefault(block.partition(".")[0], []).append(block)
    return stages


def _untrained(name: str) -> Model:
    card = available()[PLAIN_MODEL]
    torch.manual_seed(0)
    network = build(card.backbone, name, num_classes=len(card.labels), **card.backbone_options)
    network.load_state_dict(load_network(card).state_dict(), strict=False)
    return Model(replace(card, name=f"{ATTENTION[name].title}, untrained"), network)


def main() -> None:
    """Write the pages' facts and, if asked for, the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figures", action="store_true")
    given = parser.parse_args()
    for name in names():
        page = PAGES / f"{name}.md"
        page.write_text(with_facts(page.read_text(encoding="utf-8"), name), encoding="utf-8")
        if given.figures:
            figure(name).save(PAGES / f"{name}.webp", quality=80)


if __name__ == "__main__":
    main()
