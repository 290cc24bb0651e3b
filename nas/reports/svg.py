"""Diagrams as inline SVG. Colours are classes, so that the page around it decides about light and dark."""

from __future__ import annotations

from html import escape

from nas.reports.diagram import Box, Diagram

_HALF = 15.0  # of a box's height
_TITLED = 20.0


def diagram_svg(made: Diagram, label: str) -> str:
    """The drawing as one `<svg>` element; `label` is read out by screen readers."""
    lines = [
        f'<svg class="diagram" viewBox="0 0 {made.width:.0f} {made.height:.0f}" width="{made.width:.0f}" '
        f'height="{made.height:.0f}" role="img" aria-label="{escape(label)}" xmlns="http://www.w3.org/2000/svg">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="tip" d="M0 0 L8 4 L0 8 z"/></marker></defs>',
    ]
    ends = _ends(made)
    for number, (path, port) in enumerate(zip(made.arrows, made.ports, strict=True)):
        lines.append(_arrow([made.boxes[n] for n in path], port, ends[number]))
    lines += [_box(box) for box in made.boxes if box.kind != "bend"]
    return "\n".join([*lines, "</svg>"])


def _ends(made: Diagram) -> list[float]:
    """Where each arrow meets its box: side by side along the upper edge, in the order in which they come."""
    coming: dict[int, list[int]] = {}
    for number, path in enumerate(made.arrows):
        coming.setdefault(path[-1], []).append(number)
    ends = [0.0] * len(made.arrows)
    for target, numbers in coming.items():
        box = made.boxes[target]
        numbers.sort(key=lambda n: made.boxes[made.arrows[n][-2]].x)
        step = min(20.0, (box.width - 8.0) / len(numbers))
        for place, number in enumerate(numbers):
            ends[number] = box.x + step * (place - (len(numbers) - 1) / 2)
    return ends


def _arrow(path: list[Box], port: str, end: float) -> str:
    """A smooth curve that leaves downwards and arrives from above, at `end` on the box's edge."""
    x, y = path[0].x, path[0].y + _half(path[0])
    d = f"M{x:.1f} {y:.1f}"
    for box in path[1:]:
        last = box is path[-1]
        to_x, to_y = (end, box.y - _half(box)) if last else (box.x, box.y)
        middle = (y + to_y) / 2
        d += f" C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}"
        x, y = to_x, to_y
    drawn = f'<path class="arrow" d="{d}" marker-end="url(#tip)"/>'
    if not port:
        return drawn
    side = -7 if end < path[-1].x else 7
    return f'{drawn}<text class="port" x="{end + side:.1f}" y="{y - 5:.1f}">{escape(port)}</text>'


def _box(box: Box) -> str:
    half = _half(box)
    shape = (
        f'<rect class="box {box.kind}" x="{box.x - box.width / 2:.1f}" y="{box.y - half:.1f}" '
        f'width="{box.width:.1f}" height="{2 * half:.1f}" rx="{14 if box.kind in _ROUND else 5}"/>'
    )
    if not box.title:
        return f'{shape}<text class="label" x="{box.x:.1f}" y="{box.y + 4.5:.1f}">{escape(box.label)}</text>'
    return (
        f'{shape}<text class="title" x="{box.x:.1f}" y="{box.y - 5:.1f}">{escape(box.title)}</text>'
        f'<text class="label" x="{box.x:.1f}" y="{box.y + 12:.1f}">{escape(box.label)}</text>'
    )


_ROUND = ("input", "state", "new", "out")


def _half(box: Box) -> float:
    return 0.0 if box.kind == "bend" else _TITLED if box.title else _HALF
