"""A training's log as a picture: an SVG of two panels, drawn without any plotting package."""

from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT, PANEL, LEFT, TOP = 720, 300, 290, 50, 36
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito 2008
Line = tuple[str, str, bool, list[tuple[float, float]]]  # name, colour, dashed, points


def curves(rows: Sequence[Mapping[str, Any]], right: str = "agrees with the teacher") -> str:
    """What a log's rows say, as an SVG: on the left answers, on the right how lively the gates are.

    Dashed on the left: the same with all gates held at their mean over photos.
    """
    answers: list[Line] = []
    spreads: list[Line] = []
    members = list(rows[0]["members"]) if rows else []
    number = 0
    for position, member in enumerate(members):
        colour = COLOURS[position % len(COLOURS)]
        answers.append((member, colour, False, _points(rows, member, "right", 100)))
        answers.append(
            (f"{member}, gates at mean", colour, True, _points(rows, member, "right_at_mean", 100))
        )
        for key in rows[-1]["members"][member]:
            if key.startswith("spread_"):
                name = f"{member} {key.removeprefix('spread_')}"
                spreads.append(
                    (name, COLOURS[number % len(COLOURS)], False, _points(rows, member, key, 1))
                )
                number += 1
    panels = [
        (f"photos held out: {right}, %", answers, LEFT),
        ("deviation of a gate over photos", spreads, LEFT + PANEL + 70),
    ]
    body = "\n".join(_panel(title, lines, x) for title, lines, x in panels if any(lines))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT + 60}" '
        'font-family="sans-serif" font-size="11" role="img">\n'
        f"<title>{right}, and how much gates vary, over the photos seen</title>\n"
        f'<rect width="{WIDTH}" height="{HEIGHT + 60}" fill="#fff"/>\n{body}\n</svg>\n'
    )


def _points(
    rows: Sequence[Mapping[str, Any]], member: str, key: str, by: float
) -> list[tuple[float, float]]:
    return [
        (row["photos"] / 1000, row["members"][member][key] * by)
        for row in rows
        if key in row["members"][member]
    ]


def _panel(title: str, lines: Sequence[Line], x: int) -> str:
    lines = [each for each in lines if each[3]]
    every = [point for *_, points in lines for point in points]
    if not every:
        return ""
    longest = max(at for at, _ in every) or 1.0
    low, high = min(value for _, value in every), max(value for _, value in every)
    margin = 0.05 * (high - low) or 0.5
    low, high = low - margin, high + margin
    bottom = HEIGHT - 30

    def place(point: tuple[float, float]) -> str:
        at, value = point
        across = x + PANEL * at / longest
        return f"{across:.1f},{bottom - (bottom - TOP) * (value - low) / (high - low):.1f}"

    found = [f'<text x="{x}" y="{TOP - 14}" font-weight="bold" fill="#222">{title}</text>']
    for step in range(5):
        value = low + (high - low) * step / 4
        y = bottom - (bottom - TOP) * step / 4
        shown = f"{value:.0f}" if high > 10 else f"{value:.3f}"
        found.append(f'<path d="M{x} {y:.1f}h{PANEL}" stroke="#ddd"/>')
        found.append(
            f'<text x="{x - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#444">{shown}</text>'
        )
    for share in (0.0, 0.5, 1.0):
        found.append(
            f'<text x="{x + PANEL * share:.0f}" y="{bottom + 16}" text-anchor="middle" '
            f'fill="#444">{longest * share:.0f}k photos</text>'
        )
    for position, (name, colour, dashed, points) in enumerate(lines):
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        path = " ".join(place(point) for point in points)
        found.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
        )
        left, y = x + 145 * (position % 2), bottom + 34 + 14 * (position // 2)
        found.append(
            f'<path d="M{left} {y - 4}h18" stroke="{colour}" stroke-width="2"{dash}/>'
            f'<text x="{left + 23}" y="{y}" fill="#222">{name}</text>'
        )
    return "\n".join(found)
