"""Compare searchers: on a table of trained cells, on a surrogate of one, or by what real runs recorded.

    scripts/compare_searchers pool --data ../shared/data --table ptb
    scripts/compare_searchers pool --trials predictors/tables/own.jsonl.gz --task text
    scripts/compare_searchers pool --runs runs/a runs/b --methods random evolution
    scripts/compare_searchers surrogate --data ../shared/data --budget 200
    scripts/compare_searchers runs runs/random-0 runs/random-1 runs/evolution-0 mine=runs/other --out real/runs
    scripts/compare_searchers final runs/random-0 runs/random-1 runs/evolution-0 --zoo 3 --seeds 5 --out real/final
    scripts/compare_searchers page lab/ptb lab/surrogate --out docs/benchmarks
    scripts/compare_searchers page real/runs real/final --name real --out docs/benchmarks

A method is a name of `recell search --method` with options: `ei=guided:acquisition=ei,kappa=1`. Every search is a
line of OUT/traces.jsonl; run the command again to go on, with more seeds or methods too. It prints a table and writes
OUT/result.json, OUT/result.md and OUT/curves.svg. On the surrogate `guided` sees the statistics and the flow of cells,
the surrogate their untrained probes; what comes of it is about searchers, never about cells. `runs` and `final` take
runs as they are, finished or not, and can be called again when they have gone on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from _output import whole_lines
from _real_final import final
from _real_runs import compare_runs, read_runs
from _real_tables import final_page, runs_charts, runs_page
from _searcher_tables import curves_svg
from _searcher_tables import page as lab_page

from grammar import parse
from nas.campaign import open_run
from nas.errors import NasError
from nas.searchers import make_searcher
from nas.searchers.encodings import GROUPS, encodings
from nas.searchers.lab import (
    FEATURES,
    Answerer,
    Pool,
    PoolSpace,
    Surrogate,
    Trace,
    all_or_nothing,
    benchmark_pool,
    compare,
    replay,
    table_answers,
    trials_pool,
)
from predictors import PredictorError
from search_spaces import SpaceError, load_space

TOP = 0.01
SPACE = "nasbench_nlp"
FRESH = 1000
"""The first seed of trainings anew: far from those of searches."""
METHODS = ("random", "evolution", "guided")
# What a searcher that learns from cells may see where the surrogate sees probes, and how many cells an ask makes.
FAIR: Mapping[str, Mapping[str, Any]] = {
    "guided": {
        "features": ["statistics", "flow"],
        "candidates": 12,
        "rounds": 1,
        "fresh": 0.1,
        "elite": 15,
        "kappa": 2,
    }
}
MOST_CANDIDATES = 50
RARE_SAMPLES = 500
"""Of the space, to find out which score few cells reach."""
ENCODES = ("guided", "predictor")
"""Methods that see the features of every cell of a pool: only for these are they all computed beforehand."""

INTRODUCTIONS = {
    "searchers": """# Searchers compared

Searches without training; what each setting is, and is not, is in [the laboratory](../lab.md). The options of `guided`
were chosen on seeds from 1000 on, which no table here has.

Written by `python scripts/compare_searchers page`; do not edit.
""",
    "real": """# Real searches compared

Searches with real training. How runs and cells are compared is in [the laboratory](../lab.md#real-runs). Seconds are of
the workers' wall clock: a trial on a busy machine costs more of them. A supernet counts as one trial.

Written by `python scripts/compare_searchers page`; do not edit.
""",
}


@dataclass(frozen=True)
class Setting:
    """What searches are made on; searches of different settings are not compared."""

    kind: str
    data: str | None
    table: str
    trials: str | None
    task: str | None
    runs: tuple[str, ...]
    space: str
    budget: int
    cache: str | None
    features: tuple[str, ...] = FEATURES
    noise: float | None = None
    rare: float | None = None
    trivial: float | None = None

    def key(self) -> dict[str, Any]:
        """What a kept search must agree in."""
        return {
            "kind": self.kind,
            "pool": self.pool().name,
            "cells": len(self.pool()),
            "budget": self.budget,
            **({} if self.trivial is None else {"trivial": self.trivial}),
        } | (self._surrogate_key() if self.kind == "surrogate" else {})

    def _surrogate_key(self) -> dict[str, Any]:
        given: dict[str, Any] = {"noise": self.noise, "rare": self.rare}
        if self.features != FEATURES:
            given["sees"] = list(self.features)
        made = {name: value for name, value in given.items() if value is not None}
        return {"space": self.space, "surrogate": Surrogate.version, **made}

    def pool(self) -> Pool:
        """The trained cells."""
        return _pool(self)

    def rows(self, groups: Sequence[str]) -> None:
        """Encode the cells of the pool, once and for all where there is a cache."""
        held = encodings(tuple(groups))
        path = Path(self.cache) / f"{self.pool().name}-{'-'.join(groups)}.npz" if self.cache else None
        if path is None or not held.load(path):
            held(self.pool().cells)
            if path is not None:
                held.save(path)


@dataclass(frozen=True)
class Method:
    """A searcher with options, and the name it has in tables."""

    label: str
    name: str
    options: Mapping[str, Any]

    @classmethod
    def read(cls, text: str) -> Method:
        """`label=name:option=value,option=value`; values are JSON, or else words (joined by + for several).

        A searcher of a user's own is `module:Class`: what comes after the first colon and has no `=` is a class.
        """
        head, _, tail = text.partition(":")
        own, _, rest = tail.partition(":")
        if own and "=" not in own:
            head, tail = f"{head}:{own}", rest
        label, equals, name = head.partition("=")
        options: dict[str, Any] = {}
        for part in filter(None, tail.split(",")):
            key, _, value = part.partition("=")
            try:
                options[key] = json.loads(value)
            except json.JSONDecodeError:
                options[key] = value.split("+") if "+" in value else value
        return cls(label if equals else text, name if equals else head, options)


def main(arguments: Sequence[str] | None = None) -> None:
    """Search, compare, write."""
    given = _arguments(arguments)
    if given.kind == "page":
        _write_page(given)
        return
    try:
        facts = {"runs": _of_runs, "final": _final}.get(given.kind, _searched)(given)
    except (NasError, PredictorError, SpaceError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit("stopped: call the command again to go on") from None
    facts["command"] = _command(given)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "result.json").write_text(
        json.dumps(facts, indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    text, charts = _section(facts)
    (given.out / "result.md").write_text(text, encoding="utf-8")
    for name, chart in charts.items():
        file = "curves.svg" if len(charts) == 1 else f"curves-{name}.svg"
        (given.out / file).write_text(chart, encoding="utf-8")
    print(text)


def _section(facts: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Of a comparison of any kind: its Markdown, and its charts by name."""
    kind = facts["setting"]["kind"]
    if kind == "real":
        return runs_page(facts), runs_charts(facts)
    if kind == "final":
        return final_page(facts), {}
    return lab_page(facts), {"trials": curves_svg(facts)}


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind, budget in (("pool", 100), ("surrogate", 200)):
        sub = kinds.add_parser(kind)
        source = sub.add_mutually_exclusive_group(required=True)
        source.add_argument("--data", type=Path, help="folder with the tables of NAS-Bench-NLP")
        source.add_argument("--trials", type=Path, help="a table of trials (.jsonl.gz), with --task")
        source.add_argument(
            "--runs", type=Path, nargs="+", default=[], help="run folders: their trials are the table"
        )
        sub.add_argument("--table", choices=("ptb", "wt2"), default="ptb")
        sub.add_argument("--task", help="whose trials of --trials are the table")
        sub.add_argument("--space", default=SPACE, help="what the surrogate is searched over")
        sub.add_argument("--methods", nargs="+", default=list(METHODS))
        sub.add_argument("--seeds", type=int, default=50)
        sub.add_argument("--first-seed", type=int, default=0)
        sub.add_argument("--budget", type=int, default=budget, help="cells that a search may train")
        sub.add_argument("--jobs", type=int, default=1, help="processes")
        sub.add_argument("--cache", type=Path, help="folder that keeps the encoded cells of the table")
        sub.add_argument("--out", type=Path, required=True)
        sub.set_defaults(sees=FEATURES, noise=None, rare=None)  # which only the surrogate has
        sub.add_argument("--trivial", type=float, help="the task's trivial score, which searchers are told")
    sub.add_argument("--sees", nargs="+", choices=GROUPS, help="features of the surrogate")
    sub.add_argument("--noise", type=float, help="standard deviation of a run (that on Penn Treebank)")
    sub.add_argument(
        "--rare", type=float, metavar="SHARE", help="cells worse than this share of samples learn nothing"
    )
    pages = kinds.add_parser("page")
    pages.add_argument("folders", nargs="+", type=Path, help="the --out of comparisons")
    pages.add_argument("--out", type=Path, required=True)
    pages.add_argument("--name", choices=tuple(INTRODUCTIONS), default="searchers", help="of the page")
    for kind in ("runs", "final"):
        sub = kinds.add_parser(kind)
        sub.add_argument("named", nargs="+", metavar="[METHOD=]FOLDER")
        sub.add_argument(
            "--reach",
            type=float,
            metavar="SECONDS",
            help="leave out runs that have used less of their budget",
        )
        sub.add_argument("--against", metavar="METHOD", help="what others are compared with (random)")
        if kind == "runs":
            sub.add_argument("--about", metavar="TEXT", help="what the heading says of the runs")
        sub.add_argument("--out", type=Path, required=True)
    sub.add_argument("--zoo", type=int, default=3, help="so many of the best known cells take part")
    sub.add_argument("--known", nargs="*", default=["lstm", "gru"], help="known cells that take part anyway")
    sub.add_argument("--seeds", type=int, default=5, help="trainings of each cell")
    sub.add_argument("--first-seed", type=int, default=FRESH)
    sub.add_argument("--data", help="where the data of the runs are now, if they moved")
    return parser.parse_args(arguments)


def _command(given: argparse.Namespace) -> str:
    """The command with what decides the result, and no folder of this machine."""
    if given.kind in ("runs", "final"):
        more = f" --reach {given.reach:g}" if given.reach is not None else ""
        more += f" --against {given.against}" if given.against else ""
        more += f' --about "{given.about}"' if given.kind == "runs" and given.about else ""
        if given.kind == "final":
            more += f" --zoo {given.zoo} --known {' '.join(given.known)} --seeds {given.seeds}"
            more += f" --first-seed {given.first_seed}" if given.first_seed != FRESH else ""
        return f"scripts/compare_searchers {given.kind} RUN...{more} --out OUT"
    source = f"--data DATA --table {given.table}" if given.data else "--runs RUN..."
    source = f"--trials {given.trials.name} --task {given.task}" if given.trials else source
    more = f" --first-seed {given.first_seed}" if given.first_seed else ""
    more += f" --trivial {given.trivial:g}" if given.trivial is not None else ""
    if given.kind == "surrogate":
        more += f" --space {given.space}" if given.space != SPACE else ""
        more += f" --sees {' '.join(given.sees)}" if tuple(given.sees) != FEATURES else ""
        more += f" --noise {given.noise:g}" if given.noise is not None else ""
        more += f" --rare {given.rare:g}" if given.rare is not None else ""
    return (
        f"scripts/compare_searchers {given.kind} {source} --budget {given.budget} "
        f"--methods {' '.join(given.methods)} --seeds {given.seeds}{more} --out OUT"
    )


def _write_page(given: argparse.Namespace) -> None:
    """One page about several comparisons, with their figures and charts beside it."""
    found = [json.loads((folder / "result.json").read_text(encoding="utf-8")) for folder in given.folders]
    given.out.mkdir(parents=True, exist_ok=True)
    parts = [INTRODUCTIONS[given.name]]
    for number, facts in enumerate(found, start=1):
        text, charts = _section(facts)
        parts.append(text)
        for name, chart in charts.items():
            file = f"{given.name}-{number}.svg" if len(charts) == 1 else f"{given.name}-{number}-{name}.svg"
            (given.out / file).write_text(chart, encoding="utf-8")
            parts.append(f"![the best by {name}]({file})\n")
    (given.out / f"{given.name}.json").write_text(json.dumps(found, allow_nan=False) + "\n", encoding="utf-8")
    (given.out / f"{given.name}.md").write_text("\n".join(parts), encoding="utf-8")


# ---- searches ---------------------------------------------------------------------------------


def _searched(given: argparse.Namespace) -> dict[str, Any]:
    if (given.trials is None) != (given.task is None):
        raise NasError("--trials wants --task, the one whose trials are meant, and --task wants --trials")
    setting = Setting(
        given.kind,
        str(given.data) if given.data else None,
        given.table,
        str(given.trials) if given.trials else None,
        given.task,
        tuple(map(str, given.runs)),
        given.space,
        given.budget,
        str(given.cache) if given.cache else None,
        tuple(given.sees),
        given.noise,
        given.rare,
        given.trivial,
    )
    methods = [Method.read(text) for text in given.methods]
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    kept = _kept(given.out / "traces.jsonl", setting, methods)
    tasks = [(m, seed) for seed in seeds for m in methods if (m.label, seed) not in kept]
    given.out.mkdir(parents=True, exist_ok=True)
    with (given.out / "traces.jsonl").open("a", encoding="utf-8") as file:
        for method, trace in _done(setting, tasks, given.jobs):
            made_by = {"searcher": method.name, "options": dict(method.options)}
            line = {"setting": setting.key(), **made_by, **trace.to_dict()}
            file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()
            kept[trace.method, trace.seed] = trace
            print(f"{trace.method}, seed {trace.seed}: {len(kept)} searches", file=sys.stderr, flush=True)
    pool = setting.pool()
    traces = [kept[m.label, seed] for m in methods for seed in seeds]
    level = pool.top(TOP) if given.kind == "pool" else _answers(setting)[1]
    facts = compare(traces, given.budget, pool.worst, level).to_dict()
    about = {
        **setting.key(),
        "best": float(pool.best),
        "options": {m.label: dict(m.options) for m in methods},
    }
    if given.kind == "surrogate":
        about |= {
            "surrogate": _quality(setting, given.out / "surrogate.json"),
        }
        if setting.features == FEATURES:
            about["guides_see"] = FAIR["guided"]["features"]
    return {"setting": about, **facts}


def _kept(path: Path, setting: Setting, methods: Sequence[Method]) -> dict[tuple[str, int], Trace]:
    """The searches that an earlier sitting finished; a line that was cut short is left out."""
    found: dict[tuple[str, int], Trace] = {}
    for line in whole_lines(path):
        held = json.loads(line)
        if held["setting"] != setting.key():
            raise NasError(
                f"{path} has searches of {held['setting']}, this is {setting.key()}: choose another --out"
            )
        trace = Trace.from_dict(held)
        for method in methods:
            made_by = held.get("searcher", method.name), held["options"]  # lines of before do not say it
            if method.label == trace.method and (method.name, dict(method.options)) != made_by:
                raise NasError(
                    f"{path} has {method.label} as {made_by[0]} with options {made_by[1]}: give this one a new label"
                )
        found[trace.method, trace.seed] = trace
    return found


def _done(setting: Setting, tasks: Sequence[tuple[Method, int]], jobs: int) -> Iterator[tuple[Method, Trace]]:
    work = partial(_search, setting)
    if jobs == 1 or not tasks:
        yield from map(work, tasks)
        return
    if setting.kind == "surrogate":  # one process fills the cache
        setting.rows(setting.features)
    elif any(method.name in ENCODES for method, _ in tasks):
        setting.rows(GROUPS)
    with multiprocessing.get_context("spawn").Pool(jobs) as workers:
        yield from workers.imap_unordered(work, tasks)


def _search(setting: Setting, task: tuple[Method, int]) -> tuple[Method, Trace]:
    method, seed = task
    pool = setting.pool()
    if setting.kind == "pool":
        if method.name in ENCODES:
            setting.rows(GROUPS)
        searcher = make_searcher(method.name, _space(setting), method.options)
        searcher.trivial_score = setting.trivial
        return method, replay(method.label, searcher, table_answers(pool), setting.budget, seed)
    if method.name in ENCODES and setting.features != FEATURES:
        raise NasError(f"{method.label} sees features, too: with it the surrogate sees {', '.join(FEATURES)}")
    options = {**FAIR.get(method.name, {}), **method.options}
    if "probes" in options.get("features", ()) or options.get("candidates", 1) > MOST_CANDIDATES:
        raise NasError(
            f"{method.label}: on the surrogate a guide sees no probes and makes at most {MOST_CANDIDATES} cells an ask"
        )
    searcher = make_searcher(method.name, load_space(setting.space), options)
    searcher.trivial_score = setting.trivial if setting.rare is None else pool.worst
    return method, replay(method.label, searcher, _answers(setting)[0], setting.budget, seed)


@cache
def _pool(setting: Setting) -> Pool:
    if setting.data is not None:
        return benchmark_pool(Path(setting.data), setting.table)
    if setting.trials is not None and setting.task is not None:
        return trials_pool(Path(setting.trials), setting.task)
    trials = [
        trial
        for folder in setting.runs
        for trial in open_run(folder).trials
        if trial.status in ENDED and trial.until is None and trial.supernet is None
    ]  # what was trained for fewer steps, or with shared weights, has no score that compares
    return Pool.of("runs", [parse(trial.canonical) for trial in trials], [trial.score for trial in trials])


@cache
def _space(setting: Setting) -> PoolSpace:
    return PoolSpace(setting.pool())


@cache
def _surrogate(setting: Setting) -> Surrogate:
    setting.rows(setting.features)
    return Surrogate(setting.pool(), True if setting.noise is None else setting.noise, setting.features)


@cache
def _answers(setting: Setting) -> tuple[Answerer, float | None]:
    """What answers, and the score of a top cell where few cells learn anything."""
    surrogate = _surrogate(setting)
    if setting.rare is None:
        return surrogate, None
    space, rng = load_space(setting.space), np.random.default_rng(0)
    samples = {cell.digest: cell for cell in (space.sample(rng) for _ in range(RARE_SAMPLES))}
    return all_or_nothing(surrogate, list(samples.values()), setting.rare, setting.pool().worst)


def _quality(setting: Setting, path: Path) -> dict[str, float]:
    """How good the surrogate is on held-out cells, found out once."""
    if not path.is_file():
        path.write_text(json.dumps(_surrogate(setting).quality()) + "\n", encoding="utf-8")
    found: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return found


# ---- real runs --------------------------------------------------------------------------------

ENDED = ("ok", "diverged", "hopeless", "invalid")


def _of_runs(given: argparse.Namespace) -> dict[str, Any]:
    runs, skipped = read_runs(given.named, given.reach)
    facts = compare_runs(runs, skipped, given.against)
    return {**facts, "setting": {**facts["setting"], "about": given.about}}


def _final(given: argparse.Namespace) -> dict[str, Any]:
    runs, _ = read_runs(given.named, given.reach)
    return final(
        runs,
        given.out,
        best_known=given.zoo,
        known=given.known,
        seeds=given.seeds,
        first_seed=given.first_seed,
        data=given.data,
        against=given.against,
    )
