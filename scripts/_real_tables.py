"""What real runs found, as sections of Markdown and charts, from its JSON alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from _searcher_tables import lines_svg

from nas.reports.judge import p_text

AXES = {"seconds": "seconds of training", "trials": "trials", "active": "seconds of the budget"}


def runs_page(facts: Mapping[str, Any]) -> str:
    """How far the runs are, the best by cost, and which differences are real."""
    setting, against = facts["setting"], facts["against"]
    about = f", {setting['about']}" if setting.get("about") else ""
    lines = [
        f"## Real runs: {setting['task']}, space {setting['space']}{about}",
        "",
        f"{_conditions(setting)} Validation scores in {setting['metric']}, lower is better; "
        f"{setting['none_yet']:.4f} stands for none yet. `{facts['command']}`",
        "",
        *_states(facts),
        "",
        "Best validation score at the cost that every run has reached: means over the seeds, with 95 % intervals of "
        "Student's t over the seeds (few, so the intervals are wide).",
        "",
    ]
    for axis, label in AXES.items():
        lines += [*_bests(facts["axes"][axis], label), ""]
    lines += [
        f"At the full common cost, method less {against} (below 0: better than {against}); Welch's t over the seeds, "
        f"unpaired, p after Holm's correction for {len(facts['axes']['seconds']['differences'])} comparisons; real: at "
        "most 0.05.",
        "",
        "| at | method | difference | p | corrected | |",
        "|---|---|---|---|---|---|",
    ]
    for axis, label in AXES.items():
        found = facts["axes"][axis]
        lines += [f"| {_number(found['common'])} {label} {_difference(one)}" for one in found["differences"]]
    return "\n".join(lines) + "\n"


def _conditions(setting: Mapping[str, Any]) -> str:
    recipe = setting["recipe"]
    models = f"{setting['params']:,} parameters" if setting["width"] is None else f"width {setting['width']}"
    return (
        f"Task {setting['task']} ({setting['size']}), {models}, {recipe['steps']} steps of {recipe['batch_size']} "
        f"sequences, rate {recipe['lr']:g}."
    )


def _states(facts: Mapping[str, Any]) -> list[str]:
    lines = []
    if facts["skipped"]:
        lines += [f"Left out, not come far enough yet: {'; '.join(facts['skipped'])}.", ""]
    lines += [
        "| run | state | of its budget | training | trials | failed | best |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in facts["runs"]:
        trials = f"{one['trials']}" + (f" ({one['supernets']} supernets)" if one["supernets"] else "")
        best = "none" if one["best"] is None else f"{one['best']:.4f}"
        lines.append(
            f"| {one['method']}, seed {one['seed']} | {one['state']} | {one['active']:.0f} of {one['budget']:.0f} s "
            f"| {one['seconds']:.0f} s | {trials} | {one['failed']} | {best} |"
        )
    return lines


def _bests(found: Mapping[str, Any], label: str) -> list[str]:
    heads = [f"{_number(place)} {label}" for place in found["places"]]
    lines = [f"| method | seeds | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    for name, one in found["methods"].items():
        cells = [_interval(mean, half) for mean, half in one["at"]]
        lines.append(f"| {name} | {len(one['seeds'])} | {' | '.join(cells)} |")
    return lines


def runs_charts(facts: Mapping[str, Any]) -> dict[str, str]:
    """Charts by the way in which cost is counted."""
    charts = {}
    for axis in ("seconds", "trials"):
        found = facts["axes"][axis]
        start = found["common"] / 10  # before that the scale is that of failures
        curves = {
            name: [(x, mean, half or 0.0) for x, mean, half in one["curve"] if x >= start]
            for name, one in found["methods"].items()
        }
        charts[axis] = lines_svg(curves, AXES[axis], "best validation score", f"best by {AXES[axis]}")
    return charts


def final_page(facts: Mapping[str, Any]) -> str:
    """Who was trained anew, with what result, and which differences are real."""
    setting, seeds = facts["setting"], facts["setting"]["seeds"]
    trained = [row for row in facts["zoo"] if row["score"] is not None]
    lines = [
        f"## Found and known cells, trained anew: {setting['task']}",
        "",
        f"{_conditions(setting)} Each cell from scratch with {len(seeds)} fresh seeds ({seeds[0]} to {seeds[-1]}), "
        f"{setting['metric']} on test data, 95 % intervals of Student's t over the seeds. Found cells are the best of "
        f"each run by validation score; known ones the best of {len(facts['zoo'])} of the zoo by one training each "
        f"({len(trained)} with a score, seed {setting['screened_with']}), and others for orientation. "
        f"`{facts['command']}`",
        "",
    ]
    if facts["done"] < facts["planned"]:
        lines += [f"Not finished: {facts['done']} of {facts['planned']} trainings are done.", ""]
    lines += [
        "| cell | chosen by (validation, one seed) | validation | test | parameters | |",
        "|---|---|---|---|---|---|",
        *(_row(one) for one in sorted(facts["contenders"], key=_by_test)),
        "",
        *_verdict(facts),
        "",
        *_methods(facts),
        "",
        "Known cells by their one training (validation): "
        + ", ".join(f"{row['name']} {row['score']:.4f}" for row in trained[:10])
        + (f", and {len(trained) - 10} more" if len(trained) > 10 else "")
        + "."
        + _unscored(facts["zoo"]),
        "",
        "Cells found:",
        "",
        *(f"- {one['name']}: `{one['cell']}`" for one in facts["contenders"] if one["method"] is not None),
    ]
    return "\n".join(lines) + "\n"


def _by_test(one: Mapping[str, Any]) -> tuple[bool, float]:
    return one["test"] is None, one["test"]["mean"] if one["test"] else one["chosen_by"]


def _row(one: Mapping[str, Any]) -> str:
    notes = []
    if one["same_as"] and one["method"] is not None:
        notes.append(f"is the known {one['same_as']}")
    if one["missing"]:
        notes.append(f"{one['missing']} seeds to come")
    if one["failed"]:
        notes.append(f"failed with {one['failed']} seeds")
    if one["recipe"]:
        notes.append(f"with a recipe of its own: {one['recipe']}")
    if one["fallback"]:
        notes.append("on the reference")
    test = "" if one["test"] is None else _interval(one["test"]["mean"], one["test"]["half"])
    valid = "" if one["valid"] is None else f"{one['valid']:.4f}"
    kind = "" if one["method"] else " (known)"
    return (
        f"| {one['name']}{kind} | {one['chosen_by']:.4f} | {valid} | {test} | {one['params']:,} | "
        f"{'; '.join(notes)} |"
    )


def _verdict(facts: Mapping[str, Any]) -> list[str]:
    if not facts["tests"]:
        return ["No found cell and no known one has been trained with all seeds yet: nothing is compared."]
    lines = [
        f"**The best cell of each method less the best known one, {facts['rival']}** (lowest mean test score of the "
        f"known), test, seed by seed; paired t, p after Holm's correction for {len(facts['tests'])} comparisons:",
        "",
        "| found | difference | p | corrected | |",
        "|---|---|---|---|---|",
        *(f"{_difference(one, 'name')}" for one in facts["tests"]),
    ]
    if facts["untested"]:
        lines += ["", f"Not compared, for want of seeds: {', '.join(facts['untested'])}."]
    return lines


def _methods(facts: Mapping[str, Any]) -> list[str]:
    means = facts["methods"]["means"]
    if not means:
        return ["No run's best cell has been trained with all seeds yet."]
    lines = [
        "The best cell of every run, trained anew: mean test score over the runs of a method, with 95 % intervals.",
        "",
        "| method | runs | test |",
        "|---|---|---|",
        *(f"| {name} | {m['count']} | {_interval(m['mean'], m['half'])} |" for name, m in means.items()),
    ]
    found = facts["methods"]["differences"]
    if found:
        lines += [
            "",
            f"Less {found[0]['other']}; Welch's t over the runs, p after Holm's correction for {len(found)} "
            "comparisons:",
            "",
            "| method | difference | p | corrected | |",
            "|---|---|---|---|---|",
            *map(_difference, found),
        ]
    return lines


def _unscored(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which known cells have no score, by what became of them."""
    failed: dict[str, list[str]] = {}
    for row in rows:
        if row["score"] is None:
            failed.setdefault(row["status"], []).append(row["name"])
    return "".join(f" {status.capitalize()}: {', '.join(names)}." for status, names in failed.items())


def _difference(one: Mapping[str, Any], key: str = "method") -> str:
    p = "" if one["p"] is None else p_text(one["p"])
    corrected = "" if one["corrected"] is None else p_text(one["corrected"])
    said = "one run or seed: unknown" if one["p"] is None else "real" if one["real"] else "within chance"
    return f"| {one[key]} | {_interval(one['mean'], one['half'], '+')} | {p} | {corrected} | {said} |"


def _interval(mean: float, half: float | None, sign: str = "") -> str:
    return f"{mean:{sign}.4f}" + ("" if half is None else f" +- {half:.4f}")


def _number(value: float) -> str:
    return f"{value:,.0f}"
