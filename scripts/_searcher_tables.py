"""The tables and the chart of a comparison of searchers, from its JSON alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from nas.reports.charts import HEIGHT, WIDTH, Chart, Series, chart_svg

MARGIN = 0.4
"""How much of the chart, over the span of all means, is for the ends of intervals, above and below."""
COLOURS = ("#8a91a3", "#2563eb", "#d97706", "#0d9488", "#a855f7", "#db2777", "#15803d", "#b45309")
LEGEND_LEFT = 62
TITLES = {
    "pool": "Pool replay: {pool}, {cells:,} trained cells",
    "surrogate": "Surrogate (not training) of {pool}, over the space {space}",
}


def page(facts: dict[str, Any]) -> str:
    """A section of Markdown."""
    setting, methods = facts["setting"], facts["methods"]
    seeds = sorted({len(m["seeds"]) for m in methods.values()})
    lines = [
        f"## {TITLES[setting['kind']].format(**setting)}",
        "",
        f"Budget {facts['budget']} trials, {' to '.join(map(str, seeds))} seeds. `{facts['command']}`",
        "",
    ]
    if facts["level"] is not None:
        share = f"{setting['rare']:.0%} of samples" if "rare" in setting else "1 %"
        lines += [
            f"A top cell is one of the best {share}: a loss of at most {facts['level']:.4f}; "
            f"the best has {setting['best']:.4f}.",
            "",
        ]
    if "surrogate" in setting:
        quality = ", ".join(
            f"{name.replace('_', ' ')} {value}" for name, value in setting["surrogate"].items()
        )
        lines += [
            f"The surrogate on cells that it did not see: {quality}. {_seen(setting)}",
            "",
        ]
    if "rare" in setting:
        lines += [
            "All or nothing: a cell that is no top cell by the surrogate scores as the worst of the table, with the "
            "noise of a run.",
            "",
        ]
    lines += [*_finals(facts), "", *_differences(facts)]
    return "\n".join(lines) + "\n"


def _seen(setting: Mapping[str, Any]) -> str:
    if "sees" in setting:
        return f"It sees {' and '.join(setting['sees'])}, by boosted trees; searchers see no features."
    guides = " and ".join(setting["guides_see"])
    return (
        "It sees untrained probes, by boosted trees; "
        f"guides see {guides}, by random trees and a Gaussian process."
    )


def _finals(facts: dict[str, Any]) -> list[str]:
    budget = facts["budget"]
    places = sorted({max(budget // 8, 1), budget // 4, budget // 2, budget} - {0})
    heads = [f"best at {place}" for place in places]
    top = facts["level"] is not None
    heads += ["median trials to a top cell", "seeds that found one"] if top else []
    lines = ["| method | " + " | ".join([*heads, "failed"]) + " |", "|---" * (len(heads) + 2) + "|"]
    for name, one in facts["methods"].items():
        row = [f"{one['curve'][place - 1][0]:.4f} +- {one['curve'][place - 1][1]:.4f}" for place in places]
        if top:
            median = one["trials_to_top"]
            row += [f"> {budget}" if median is None else f"{median:.0f}", f"{one['reached']:.0%}"]
        lines.append(f"| {name} | " + " | ".join([*row, f"{one['failed']:.0%}"]) + " |")
    return lines


def _differences(facts: dict[str, Any]) -> list[str]:
    lines = [
        "Best at the end, first less second, seed by seed (below 0: the first is better), with 95 % intervals:",
        "",
        "| first | second | difference | |",
        "|---|---|---|---|",
    ]
    for one in facts["differences"]:
        half = "" if one["half"] is None else f" +- {one['half']:.4f}"
        said = "real" if one["real"] else "within chance"
        lines.append(f"| {one['method']} | {one['other']} | {one['mean']:.4f}{half} | {said} |")
    return lines


def curves_svg(facts: dict[str, Any]) -> str:
    """Best until each trial, a line for each method."""
    first = max(facts["budget"] // 20, 1)  # before that the scale is that of failures
    curves = {
        name: [(float(n), mean, half) for n, (mean, half) in enumerate(one["curve"], start=1)][first - 1 :]
        for name, one in facts["methods"].items()
    }
    return lines_svg(curves, "trials", "best loss until then", "best loss by number of trials")


def lines_svg(
    curves: Mapping[str, Sequence[tuple[float, float, float]]], x_label: str, y_label: str, label: str
) -> str:
    """Lines of (x, mean, half of the 95 % interval), with thin lines at the ends of the intervals, and a legend below.

    Means say what is seen: intervals that are much wider, as those of two seeds are, end at the edge.
    """
    series: list[Series] = []
    means = [mean for points in curves.values() for _, mean, _ in points]
    margin = MARGIN * (max(means) - min(means))
    least, most = min(means) - margin, max(means) + margin
    rules = [
        "text{font:12px system-ui,sans-serif;fill:#646a78;text-anchor:middle}",
        ".y{text-anchor:end}.name{text-anchor:start}path{fill:none}.axis,.grid{stroke:#d5d8e0}",
    ]
    for number, (name, points) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        rules.append(
            f".m{number}{{stroke:{colour};stroke-width:2}}.e{number}{{stroke:{colour};stroke-width:.6}}"
        )
        if any(half for _, _, half in points):
            series += [
                Series(
                    name,
                    [(x, min(max(mean + sign * half, least), most)) for x, mean, half in points],
                    f"e{number}",
                )
                for sign in (-1, 1)
            ]
        series.append(Series(name, [(x, mean) for x, mean, _ in points], f"m{number}"))
    head, end, rest = chart_svg(Chart(x_label, y_label, series), label).partition(">")
    legend, below = _legend([*curves])
    head = head.replace(f'"0 0 {WIDTH} {HEIGHT}"', f'"0 0 {WIDTH} {HEIGHT + below}"')
    body = rest.replace("</svg>", "\n".join([*legend, "</svg>"]))
    return f"{head}{end}\n<style>{''.join(rules)}</style>{body}\n"


def _legend(names: Sequence[str]) -> tuple[list[str], int]:
    """The names in the colours of their lines, from left to right under a chart, and the height that they take."""
    texts, x, y = [], LEGEND_LEFT, HEIGHT + 12
    for number, name in enumerate(names):
        width = 7 * len(name) + 20  # of 12 px text, about
        if x > LEGEND_LEFT and x + width > WIDTH:
            x, y = LEGEND_LEFT, y + 16
        colour = COLOURS[number % len(COLOURS)]
        texts.append(f'<text class="name" x="{x}" y="{y}" style="fill:{colour}">{escape(name)}</text>')
        x += width
    return texts, y + 8 - HEIGHT
