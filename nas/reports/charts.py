"""Line and scatter charts as inline SVG, coloured by classes so that they follow the page into the dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 560, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 14, 46
_MOST_POINTS = 1500

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One set of points. `kind` is "line", "steps" (a line that keeps its value until the next point) or "dots".

    `colour` is the class that the page's style gives a colour; `notes` are shown when a dot is pointed at.
    """

    name: str
    points: Sequence[Point]
    colour: str
    kind: str = "line"
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Chart:
    """Series on common axes. `top` cuts the y axis there: what is above is marked on the upper edge."""

    x_label: str
    y_label: str
    series: Sequence[Series]
    levels: Sequence[tuple[str, float, str]] = field(default=())
    """Horizontal lines: (name, value, colour)."""
    top: float | None = None


def chart_svg(chart: Chart, label: str) -> str:
    """The chart as one `<svg>` element, an empty string without a point; `label` is for screen readers."""
    points = [p for s in chart.series for p in s.points]
    if not points:
        return ""
    ys = [y for _, y in points] + [value for _, value, _ in chart.levels]
    if chart.top is not None:
        ys = [min(y, chart.top) for y in ys]
    frame = _Frame(_span([x for x, _ in points]), _span(ys))
    lines = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}" '
        'xmlns="http://www.w3.org/2000/svg">',
        *frame.axes(chart.x_label, chart.y_label),
    ]
    lines += _levels(chart.levels, frame)
    for series in chart.series:
        lines += _dots(series, frame) if series.kind == "dots" else [_line(series, frame)]
    return "\n".join([*lines, "</svg>"])


def _levels(levels: Sequence[tuple[str, float, str]], frame: _Frame) -> list[str]:
    """Dashed lines with their names: above the line, or below it where that of a higher one is too near."""
    lines: list[str] = []
    above = -math.inf
    for name, value, colour in sorted(levels, key=lambda level: -level[1]):
        if not frame.low <= value <= frame.high:
            continue
        y = frame.y(value)
        lines.append(f'<path class="level {colour}" d="M{_LEFT} {y:.1f} H{WIDTH - _RIGHT}"/>')
        text_y = y - 5 if y - 5 - above > 13 else y + 13
        above = text_y
        lines.append(
            f'<text class="level-name {colour}" x="{WIDTH - _RIGHT - 4}" y="{text_y:.1f}">{escape(name)}</text>'
        )
    return lines


def _line(series: Series, frame: _Frame) -> str:
    path: list[str] = []
    for x, y in thinned(series.points):
        at = f"{frame.x(x):.1f} {frame.y(y):.1f}"
        if path and series.kind == "steps":
            path.append(f"H{frame.x(x):.1f} V{frame.y(y):.1f}")
        else:
            path.append(f"{'L' if path else 'M'}{at}")
    if series.kind == "steps":
        path.append(f"H{WIDTH - _RIGHT}")
    return (
        f'<path class="line {series.colour}" d="{" ".join(path)}"><title>{escape(series.name)}</title></path>'
    )


def _dots(series: Series, frame: _Frame) -> list[str]:
    notes = series.notes or [series.name] * len(series.points)
    return [_dot(series, frame, point, note) for point, note in zip(series.points, notes, strict=True)]


def _dot(series: Series, frame: _Frame, point: Point, note: str) -> str:
    """A circle; a triangle that points up for what lies above the axis."""
    x, y = frame.x(point[0]), frame.y(point[1])
    if point[1] > frame.high:
        shape = f'<path class="dot beyond {series.colour}" d="M{x - 5:.1f} {y + 9:.1f} h10 l-5 -9 z">'
        return f"{shape}<title>{escape(note)} (above the chart)</title></path>"
    shape = f'<circle class="dot {series.colour}" cx="{x:.1f}" cy="{y:.1f}" r="4">'
    return f"{shape}<title>{escape(note)}</title></circle>"


def thinned(points: Sequence[Point]) -> Sequence[Point]:
    """At most some 1500 of the points, the last one included: more cannot be seen."""
    stride = math.ceil(len(points) / _MOST_POINTS)
    return points if stride <= 1 else [*points[::stride], points[-1]]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from `low` to `high`."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def tick_text(value: float, step: float) -> str:
    """A number with as many digits as the step between ticks needs: 1.25, 3k."""
    if step >= 1:
        return f"{value:,.0f}" if step >= 2 or float(value).is_integer() else f"{value:,.1f}"
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    text = f"{value:.{digits}f}"
    exact = math.isclose(float(text), value, abs_tol=step / 100)
    return text if exact else f"{value:.{digits + 1}f}"


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    return low - margin, high + margin


class _Frame:
    """The plotting area: from values to places."""

    def __init__(self, across: tuple[float, float], up: tuple[float, float]) -> None:
        self.left, self.right = across
        self.low, self.high = up

    def x(self, value: float) -> float:
        """The place of a value on the x axis."""
        return _LEFT + (value - self.left) / (self.right - self.left) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """The place of a value on the y axis; one that is too high sticks to the upper edge."""
        part = (min(value, self.high) - self.low) / (self.high - self.low)
        return HEIGHT - _BOTTOM - part * (HEIGHT - _TOP - _BOTTOM)

    def axes(self, x_label: str, y_label: str) -> list[str]:
        """Grid lines, numbers and labels."""
        lines: list[str] = []
        marks = ticks(self.low, self.high)
        for value in marks:
            y = self.y(value)
            text = tick_text(value, marks[1] - marks[0] if len(marks) > 1 else 1)
            lines.append(f'<path class="grid" d="M{_LEFT} {y:.1f} H{WIDTH - _RIGHT}"/>')
            lines.append(f'<text class="tick y" x="{_LEFT - 8}" y="{y + 4:.1f}">{text}</text>')
        marks = ticks(self.left, self.right, 6)
        for value in marks:
            text = tick_text(value, marks[1] - marks[0] if len(marks) > 1 else 1)
            lines.append(
                f'<text class="tick" x="{self.x(value):.1f}" y="{HEIGHT - _BOTTOM + 18}">{text}</text>'
            )
        bottom = HEIGHT - _BOTTOM
        lines.append(f'<path class="axis" d="M{_LEFT} {bottom} H{WIDTH - _RIGHT}"/>')
        middle = (_LEFT + WIDTH - _RIGHT) / 2
        lines.append(f'<text class="axis-name" x="{middle:.0f}" y="{HEIGHT - 8}">{escape(x_label)}</text>')
        up = (_TOP + bottom) / 2
        lines.append(
            f'<text class="axis-name" transform="translate(15 {up:.0f}) rotate(-90)">{escape(y_label)}</text>'
        )
        return lines
