"""The paper's systems and the numbers printed for them, and the same counted anew.

Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018,
https://arxiv.org/abs/1807.06521, Tables 1 to 5: errors in percent on ImageNet-1K's validation
photos, one crop of 224 pixels; Tables 6 and 7: detectors' mean average precision. Parameters and
multiply-adds are counted here; errors and precisions are quoted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from cbam.attention import ATTENTION, PLAIN
from cbam.backbones import BACKBONES, build
from cbam.detectors import DETECTORS

SIZE_PX = 224
PAPER, RELEASED = "1x1", "3x3"  # where a bottleneck has its stride
CONVENTIONS = {
    PAPER: "the paper: multiply-adds of convolutions and linear layers; a bottleneck's stride in "
    "its first 1x1 convolution",
    RELEASED: "the authors' released code and torchvision: the same, the stride in the 3x3 "
    "convolution",
}
TABLES = {
    1: "what the channel gate pools",
    2: "how the spatial gate looks",
    3: "the order of the two gates",
    4: "networks on ImageNet",
    5: "MobileNet on ImageNet",
}


@dataclass(frozen=True)
class Row:
    """One system of a table, as printed."""

    table: int
    system: str  # in the table's words
    backbone: str  # a name in BACKBONES
    attention: str  # a name in ATTENTION
    top1_error: float  # percent
    top5_error: float
    params_m: str = ""  # millions, with the digits printed; empty: not printed
    gmacs: str = ""  # 10^9 multiply-adds, which the paper calls GFLOPs
    options: Mapping[str, Any] = field(default_factory=dict)  # of the attention
    note: str = ""  # where the paper contradicts itself or our count


@dataclass(frozen=True)
class DetectionRow:
    """One detector of a table, as printed."""

    table: int
    system: str
    detector: str  # a name in DETECTORS
    backbone: str
    attention: str
    classes: int
    map50: float  # percent, at an IoU of 0.5
    map75: float | None = None
    map50_95: float | None = None
    params_m: str = ""  # millions, with the digits printed; empty: not printed


@dataclass(frozen=True)
class Counted:
    """A row beside what our network of the same name has."""

    row: Row
    params: int
    gmacs: Mapping[str, float]  # by convention

    @property
    def params_agree(self) -> bool | None:
        """Whether the count rounds to the printed digits; None if nothing is printed."""
        return _agrees(self.row.params_m, self.params / 1e6)

    @property
    def gmacs_agree(self) -> bool | None:
        """The same for multiply-adds in the paper's convention."""
        return _agrees(self.row.gmacs, self.gmacs[PAPER])


def _agrees(printed: str, counted: float) -> bool | None:
    return _rounded(counted, printed) == printed if printed else None


def _rounded(value: float, like: str) -> str:
    """With as many decimals as `like` has."""
    return f"{value:.{len(like.partition('.')[2])}f}"


def _three(table: int, system: str, backbone: str, *cells: str) -> tuple[Row, ...]:
    """A backbone plain, with SE and with CBAM; a cell is "params/gmacs/top-1/top-5"."""
    rows = []
    for attention, cell in zip((PLAIN, "se", "cbam"), cells, strict=True):
        params, gmacs, top1, top5 = cell.split("/")
        title = ATTENTION[attention].title
        name = f"{system} + {title}" if title else system
        rows.append(Row(table, name, backbone, attention, float(top1), float(top5), params, gmacs))
    return tuple(rows)


SE_CLASH = (
    "Table 1 prints 25.92M and 3.94 for the system that Tables 2 and 4 print with 28.09M and "
    "3.860. 25.92M is what BAM-ResNet-50 has (25,915,099)."
)
CHANNEL_CLASH = (
    "3.860 is the cost of one pass of the MLP; the formula has two, for both pooled vectors: 3.863."
)
K3_CLASH = (
    "The 1x1 convolution costs the same before a 3x3 as before a 7x7 one, whose row says 3.869: "
    "printed 3.862, counted 3.869."
)
CHANNEL: dict[str, Any] = {"gates": "channel"}

ROWS: tuple[Row, ...] = (
    Row(1, "ResNet50", "resnet50", PLAIN, 24.56, 7.50, "25.56", "3.86"),
    Row(1, "+ AvgPool (SE)", "resnet50", "se", 23.14, 6.70, "25.92", "3.94", {}, SE_CLASH),
    Row(
        *(1, "+ MaxPool", "resnet50", "cbam", 23.20, 6.83, "25.92", "3.94"),
        {**CHANNEL, "pool": "max"},
        SE_CLASH,
    ),
    Row(
        *(1, "+ AvgPool & MaxPool", "resnet50", "cbam", 22.80, 6.52, "25.92", "4.02"),
        CHANNEL,
        SE_CLASH,
    ),
    Row(2, "+ SE", "resnet50", "se", 23.14, 6.70, "28.09", "3.860"),
    Row(
        *(2, "+ channel", "resnet50", "cbam", 22.80, 6.52, "28.09", "3.860"),
        CHANNEL,
        CHANNEL_CLASH,
    ),
    Row(
        *(2, "+ channel, 1x1 conv, k=3", "resnet50", "cbam", 22.96, 6.64, "28.10", "3.862"),
        {"squeeze": "conv", "kernel": 3},
        K3_CLASH,
    ),
    Row(
        *(2, "+ channel, 1x1 conv, k=7", "resnet50", "cbam", 22.90, 6.47, "28.10", "3.869"),
        {"squeeze": "conv"},
    ),
    Row(
        *(2, "+ channel, avg & max, k=3", "resnet50", "cbam", 22.68, 6.41, "28.09", "3.863"),
        {"kernel": 3},
    ),
    Row(2, "+ channel, avg & max, k=7", "resnet50", "cbam", 22.66, 6.31, "28.09", "3.864"),
    Row(3, "SE", "resnet50", "se", 23.14, 6.70),
    Row(3, "channel, then spatial", "resnet50", "cbam", 22.66, 6.31),
    Row(
        *(3, "spatial, then channel", "resnet50", "cbam", 22.78, 6.42),
        options={"order": "spatial-first"},
    ),
    Row(3, "in parallel", "resnet50", "cbam", 22.95, 6.59, options={"order": "parallel"}),
    *_three(
        *(4, "ResNet18", "resnet18", "11.69/1.814/29.60/10.55"),
        *("11.78/1.814/29.41/10.22", "11.78/1.815/29.27/10.09"),
    ),
    *_three(
        *(4, "ResNet34", "resnet34", "21.80/3.664/26.69/8.60"),
        *("21.96/3.664/26.13/8.35", "21.96/3.665/25.99/8.24"),
    ),
    *_three(
        *(4, "ResNet50", "resnet50", "25.56/3.858/24.56/7.50"),
        *("28.09/3.860/23.14/6.70", "28.09/3.864/22.66/6.31"),
    ),
    *_three(
        *(4, "ResNet101", "resnet101", "44.55/7.570/23.38/6.88"),
        *("49.33/7.575/22.35/6.19", "49.33/7.581/21.51/5.69"),
    ),
    *_three(
        *(4, "WideResNet18 (x1.5)", "wide_resnet18_x1.5", "25.88/3.866/26.85/8.88"),
        *("26.07/3.867/26.21/8.47", "26.08/3.868/26.10/8.43"),
    ),
    *_three(
        *(4, "WideResNet18 (x2.0)", "wide_resnet18_x2.0", "45.62/6.696/25.63/8.20"),
        *("45.97/6.696/24.93/7.65", "45.97/6.697/24.84/7.63"),
    ),
    *_three(
        *(4, "ResNeXt50 (32x4d)", "resnext50_32x4d", "25.03/3.768/22.85/6.48"),
        *("27.56/3.771/21.91/6.04", "27.56/3.774/21.92/5.91"),
    ),
    *_three(
        *(4, "ResNeXt101 (32x4d)", "resnext101_32x4d", "44.18/7.508/21.54/5.75"),
        *("48.96/7.512/21.17/5.66", "48.96/7.519/21.07/5.59"),
    ),
    *_three(
        *(5, "MobileNet x0.7", "mobilenet_x0.7", "2.30/0.283/34.86/13.69"),
        *("2.71/0.283/32.50/12.49", "2.71/0.289/31.51/11.48"),
    ),
    *_three(
        *(5, "MobileNet", "mobilenet_x1.0", "4.23/0.569/31.39/11.51"),
        *("5.07/0.570/29.97/10.63", "5.07/0.576/29.01/9.99"),
    ),
)


COCO_CLASSES, VOC_CLASSES = 80, 20
DETECTION_ROWS: tuple[DetectionRow, ...] = (
    *(
        DetectionRow(6, system, "faster_rcnn", backbone, attention, COCO_CLASSES, *precisions)
        for system, backbone, attention, precisions in (
            ("Faster R-CNN, ResNet50", "resnet50", PLAIN, (46.2, 28.1, 27.0)),
            ("Faster R-CNN, ResNet50 + CBAM", "resnet50", "cbam", (48.2, 29.2, 28.1)),
            ("Faster R-CNN, ResNet101", "resnet101", PLAIN, (48.4, 30.7, 29.1)),
            ("Faster R-CNN, ResNet101 + CBAM", "resnet101", "cbam", (50.5, 32.6, 30.8)),
        )
    ),
    *(
        DetectionRow(
            7, system, detector, backbone, attention, VOC_CLASSES, map50, params_m=params_m
        )
        for system, detector, backbone, attention, map50, params_m in (
            ("VGG16, SSD", "ssd", "vgg16", PLAIN, 77.8, "26.5"),
            ("VGG16, StairNet", "stairnet", "vgg16", PLAIN, 78.9, "32.0"),
            ("VGG16, StairNet + SE", "stairnet", "vgg16", "se", 79.1, "32.1"),
            ("VGG16, StairNet + CBAM", "stairnet", "vgg16", "cbam", 79.3, "32.1"),
            ("MobileNet, SSD", "ssd", "mobilenet_x1.0", PLAIN, 68.1, "5.81"),
            ("MobileNet, StairNet", "stairnet", "mobilenet_x1.0", PLAIN, 70.1, "5.98"),
            ("MobileNet, StairNet + SE", "stairnet", "mobilenet_x1.0", "se", 70.0, "5.99"),
            ("MobileNet, StairNet + CBAM", "stairnet", "mobilenet_x1.0", "cbam", 70.5, "6.00"),
        )
    ),
)
DETECTION_TABLES = {
    6: "Faster R-CNN on MS COCO's validation photos, 80 classes",
    7: "SSD and StairNet on VOC 2007's test photos, 20 classes",
}
DETECTION_NOTES = {
    6: "Table 6 prints no parameters. What is counted here is a Faster R-CNN with a feature "
    "pyramid.",
    7: "SSD on VGG16 agrees with six anchors at each place of the first map; SSD300 as published "
    "has four there, and 26.285M parameters. The paper does not describe StairNet on MobileNet: "
    "ours is one arrangement with which all rows agree, and others may.",
}


@cache
def count_detector(row: DetectionRow) -> int:
    """Parameters of our detector of the same name; no value is computed."""
    kind = DETECTORS[row.detector]
    gates: dict[str, Any] = {"attention": row.attention}
    with torch.device("meta"):
        body = build(row.backbone, **({} if kind.in_head else gates))
        network = kind.make(body, row.classes, **(gates if kind.in_head else {}))
    return sum(parameter.numel() for parameter in network.parameters())


def detection_agrees(row: DetectionRow) -> bool | None:
    """Whether the count rounds to the printed digits; None if nothing is printed."""
    return _agrees(row.params_m, count_detector(row) / 1e6)


def counted(row: Row, conventions: Iterable[str] = tuple(CONVENTIONS)) -> Counted:
    """The row beside our network's parameters and multiply-adds, without computing any value.

    `conventions`: those to count in; the paper's is always among them.
    """
    options = tuple(sorted(row.options.items()))
    strides = BACKBONES[row.backbone].bottlenecks  # elsewhere, nothing depends on the convention
    found = {
        where: count(
            row.backbone, row.attention, options, (("stride_in", where),) if strides else ()
        )
        for where in (PAPER, *conventions)
    }
    params = found[PAPER][0]
    return Counted(row, params, {where: gmacs for where, (_, gmacs) in found.items()})


Options = tuple[tuple[str, Any], ...]


@cache
def count(
    backbone: str, attention: str, attention_options: Options = (), backbone_options: Options = ()
) -> tuple[int, float]:
    """Parameters and 10^9 multiply-adds of convolutions and linear layers at SIZE_PX.

    Names and options as in `cbam.build`, options as pairs; no value is computed.
    """
    with torch.device("meta"):  # shapes only
        network = build(
            backbone,
            attention,
            attention_options=dict(attention_options),
            **dict(backbone_options),
        ).eval()
        images = torch.empty(1, 3, SIZE_PX, SIZE_PX)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    params = sum(parameter.numel() for parameter in network.parameters())
    return params, counter.get_total_flops() / 2 / 1e9


def as_json() -> dict[str, Any]:
    """Everything, for whoever shows it."""
    rows = []
    for found in map(counted, ROWS):
        row = asdict(found.row)
        rows.append(
            {
                **{key: row[key] for key in ("table", "system", "backbone", "attention")},
                "options": dict(found.row.options),
                "printed": {
                    **{key: float(row[key]) if row[key] else None for key in ("params_m", "gmacs")},
                    **{key: row[key] for key in ("top1_error", "top5_error")},
                },
                "counted": {
                    "params": found.params,
                    "gmacs": {where: round(value, 4) for where, value in found.gmacs.items()},
                },
                "agrees": {"params": found.params_agree, "gmacs": found.gmacs_agree},
                "note": found.row.note,
            }
        )
    return {
        "paper": ATTENTION["cbam"].paper,
        "command": "cbam-lens paper --json",
        "size_px": SIZE_PX,
        "conventions": CONVENTIONS,
        "tables": TABLES,
        "rows": rows,
        "detection": {
            "rows": [
                {
                    **{
                        key: getattr(row, key)
                        for key in ("table", "system", "detector", "backbone", "attention")
                    },
                    "printed": {
                        "params_m": float(row.params_m) if row.params_m else None,
                        **{key: getattr(row, key) for key in ("map50", "map75", "map50_95")},
                    },
                    "counted": {"params": count_detector(row)},
                    "agrees": {"params": detection_agrees(row)},
                }
                for row in DETECTION_ROWS
            ],
            "tables": {str(table): title for table, title in DETECTION_TABLES.items()},
            "notes": {str(table): note for table, note in DETECTION_NOTES.items()},
        },
    }


def as_markdown() -> str:
    """The tables, one after the other, and what does not agree."""
    lines: list[str] = []
    for table in sorted({row.table for row in ROWS}):
        lines += [
            f"### Table {table}",
            "",
            "| system | parameters printed | counted | GFLOPs printed | counted | stride in 3x3 "
            "| top-1 error | top-5 error |",
            "|---|---|---|---|---|---|---|---|",
        ]
        of_table = [counted(row) for row in ROWS if row.table == table]
        for found in of_table:
            row = found.row
            lines.append("| " + " | ".join([row.system, *cells(found)]) + " |")
        notes = dict.fromkeys(found.row.note for found in of_table if found.row.note)
        lines += ["", *(f"**\\*** {note}\n" for note in notes)]
    for table, note in DETECTION_NOTES.items():
        of_rows = [row for row in DETECTION_ROWS if row.table == table]
        lines += [
            f"### Table {table}",
            "",
            "| system | parameters printed | counted | mAP@.5 | mAP@.75 | mAP@[.5, .95] |",
            "|---|---|---|---|---|---|",
            *("| " + " | ".join([row.system, *detection_cells(row)]) + " |" for row in of_rows),
            "",
            f"{note}\n",
        ]
    return "\n".join(lines).rstrip() + "\n"


def detection_cells(row: DetectionRow) -> list[str]:
    """A detector's numbers as text; a star marks a count that does not agree."""
    star = " *" if detection_agrees(row) is False else ""
    return [
        f"{row.params_m}M" if row.params_m else "",
        f"{count_detector(row) / 1e6:.3f}M{star}",
        *("" if each is None else f"{each}" for each in (row.map50, row.map75, row.map50_95)),
    ]


def cells(found: Counted) -> list[str]:
    """A row's numbers as text; a star marks a count that does not agree with the printed one."""
    row = found.row

    def marked(text: str, agrees: bool | None) -> str:
        return f"{text} *" if agrees is False else text

    return [
        f"{row.params_m}M" if row.params_m else "",
        marked(f"{found.params / 1e6:.3f}M", found.params_agree),
        row.gmacs,
        marked(f"{found.gmacs[PAPER]:.4f}", found.gmacs_agree),
        f"{found.gmacs[RELEASED]:.4f}",
        f"{row.top1_error:.2f}",
        f"{row.top5_error:.2f}",
    ]
