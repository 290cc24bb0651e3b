"""The cells that real searches found against the known ones, all trained anew from scratch with the same fresh seeds.

Who takes part is decided by validation scores alone: of each run its best cell, of the zoo the best few after one
training each with the task, recipe and size of the runs. Then each gets a training for every fresh seed, which is when
test data are read. Every training is a line of OUT/trainings.jsonl and is never made twice, also where later sittings
of the runs have found other cells: call the command again whenever they have.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from _output import whole_lines
from _real_runs import RealRun, differences

from grammar import Cell, parse, zoo, zoo_names
from nas.campaign import Run
from nas.errors import NasError
from nas.reports.judge import LEVEL, estimate
from nas.reports.significance import holm, paired_p
from nas.tasks import Recipe
from nas.training import TrialSpec, train

KEPT = ("status", "score", "test_score", "params", "width", "steps", "seconds", "message", "fallback")


@dataclass
class Contender:
    """A cell of the final comparison: one that a run found (`method`, `seed`), or a known one."""

    name: str
    cell: Cell
    chosen_by: float
    """The validation score for which it takes part."""
    method: str | None = None
    seed: int | None = None
    trial: int | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    results: list[Mapping[str, Any]] = field(default_factory=list)

    def scores(self, split: str) -> list[float]:
        """Of the trainings that ended with one, by seed; `split` is "score" (validation) or "test_score"."""
        return [r[split] for r in self.results if r["status"] == "ok" and r[split] is not None]


class Trainings:
    """Trainings under the conditions of a run, each made once and kept as a line of a file."""

    def __init__(self, path: Path, run: Run, data: str | None) -> None:
        self._path = path
        self._run = run
        self._data = data or (run.sittings[-1]["data"] if run.sittings else run.config.data)
        self._task = (run.sittings[-1].get("task") if run.sittings else None) or run.config.task
        self._known = dict(_lines(path))
        self.made = 0

    def spec(self, cell: Cell, seed: int, changes: Mapping[str, Any]) -> TrialSpec:
        """What the campaign would give a worker for this cell."""
        config, task = self._run.config, self._run.task
        return TrialSpec(
            cell.canonical().one_line,
            self._task,
            Recipe.from_dict({**task["recipe"], **changes}),
            data=self._data,
            data_digest=task["data_digest"],
            size=config.size,
            params=None if config.width is not None else task["params"],
            width=config.width,
            heads=config.heads,
            seed=seed,
        )

    def get(
        self, cell: Cell, seed: int, *, test: bool, changes: Mapping[str, Any], label: str, make: bool = True
    ) -> Mapping[str, Any] | None:
        """What came of this training, made now if it is not known; None if it is not to be. Test data: `test`."""
        spec = self.spec(cell, seed, changes)
        what = {**spec.to_dict(), "data": None, "task": self._run.task["name"], "test": test}
        key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
        if key not in self._known and make:
            result = train(spec, test=test).to_dict()
            line = {"key": key, "cell": spec.cell, "seed": seed, "test": test}
            line |= {name: result[name] for name in KEPT}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
            self._known[key] = line
            score = line["status"] if line["score"] is None else f"{line['score']:.4f}"
            print(f"{label}, seed {seed}: {score}", file=sys.stderr, flush=True)
        return self._known.get(key)


def _lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The trainings of a file; a line that was cut short is taken out of it."""
    for line in whole_lines(path):
        held = json.loads(line)
        yield held["key"], held


def final(
    runs: Sequence[RealRun],
    out: Path,
    *,
    best_known: int = 3,
    known: Sequence[str] = (),
    seeds: int = 5,
    first_seed: int = 1000,
    data: str | None = None,
    against: str | None = None,
) -> dict[str, Any]:
    """Train what is missing, and say what came of all. An interrupt ends the training, not the account of it.

    Seeds are `first_seed` and the next ones, none of them one of a search. `best_known` known cells take part for their
    validation score, those named in `known` in any case. Raises NasError where a seed is one of a search's.
    """
    torch.set_num_threads(1)
    fresh = range(first_seed, first_seed + seeds)
    taken = sorted({one.seed for one in runs} & set(fresh))
    if taken:
        raise NasError(
            f"seed {taken[0]} is one of a search's; fresh seeds are needed: choose another --first-seed"
        )
    for name in known:
        if name not in zoo_names():
            raise NasError(f"there is no known cell {name!r}; `recell zoo` lists them")
    out.mkdir(parents=True, exist_ok=True)
    run = runs[0].run
    trainings = Trainings(out / "trainings.jsonl", run, data)
    found = [_found(one) for one in runs if one.run.top(1)]
    screened = _screened(trainings, runs[0].seed)
    rivals = _known(screened, best_known, known)
    first = [*_best_of_methods(found), *rivals]
    order = [*first, *(one for one in found if not any(one is other for other in first))]
    stopped = False
    for group in (first, order[len(first) :]):
        for seed in fresh:  # seed by seed: what is cut short still compares
            for one in group:
                stopped = not _train(trainings, one, seed, make=not stopped) or stopped
    base = against or ("random" if any(one.method == "random" for one in found) else found[0].method)
    return {
        "setting": {
            "kind": "final",
            "task": run.task["name"],
            "metric": run.task["metric"],
            "size": run.task["size"],
            "space": run.config.space,
            "params": run.task["params"],
            "width": run.config.width,
            "recipe": dict(run.task["recipe"]),
            "seeds": list(fresh),
            "screened_with": runs[0].seed,
        },
        "planned": seeds * len(order),
        "done": sum(len(one.results) for one in order),
        "runs": [
            {"method": one.method, "seed": one.seed, "active": round(one.run.active, 1)} for one in runs
        ],
        "zoo": screened,
        "contenders": [_about(one, seeds) for one in order],
        **_judged(_best_of_methods(found), rivals, seeds),
        "methods": _methods(found, seeds, str(base)),
    }


def _train(trainings: Trainings, one: Contender, seed: int, make: bool) -> bool:
    """Whether it was not interrupted."""
    try:
        result = trainings.get(one.cell, seed, test=True, changes=one.recipe, label=one.name, make=make)
    except KeyboardInterrupt:
        print("stopped: call the command again to go on", file=sys.stderr)
        return False
    if result is not None:
        one.results.append(result)
    return True


def _found(one: RealRun) -> Contender:
    """The best cell of a run, by its validation score."""
    best = one.run.top(1)[0]
    assert best.score is not None
    name = f"{one.method} {one.seed}, #{best.id}"
    return Contender(name, parse(best.text), best.score, one.method, one.seed, best.id, best.recipe or {})


def _best_of_methods(found: Sequence[Contender]) -> list[Contender]:
    best: dict[str, Contender] = {}
    for one in found:
        assert one.method is not None
        if one.method not in best or one.chosen_by < best[one.method].chosen_by:
            best[one.method] = one
    return list(best.values())


def _screened(trainings: Trainings, seed: int) -> list[dict[str, Any]]:
    """Every known cell over time, trained once, the best first; those without a score last."""
    rows = []
    for name in zoo_names():
        cell = zoo(name)
        if cell.kind == "time":
            result = trainings.get(cell, seed, test=False, changes={}, label=f"known cell {name}")
            assert result is not None
            kept = {key: result[key] for key in ("status", "score", "params", "message")}
            rows.append({"name": name, "digest": cell.digest, **kept})
    return sorted(rows, key=lambda row: (row["score"] is None, row["score"] or 0.0, row["name"]))


def _known(screened: Sequence[Mapping[str, Any]], best: int, named: Sequence[str]) -> list[Contender]:
    """The best known cells by the score of their one training, and those that were named."""
    scores = {row["name"]: row["score"] for row in screened if row["score"] is not None}
    wrong = [name for name in named if name not in scores]
    if wrong:
        raise NasError(f"known cell {wrong[0]!r} has no score; with one there are {', '.join(scores)}")
    chosen = list(dict.fromkeys([*list(scores)[:best], *named]))
    return [Contender(name, zoo(name), scores[name]) for name in chosen]


def _about(one: Contender, seeds: int) -> dict[str, Any]:
    tests, valid = one.scores("test_score"), one.scores("score")
    same = next((n for n in zoo_names() if zoo(n).digest == one.cell.digest), None)
    seen = estimate(tests)
    return {
        "name": one.name,
        "method": one.method,
        "seed": one.seed,
        "trial": one.trial,
        "cell": one.cell.one_line,
        "same_as": same,
        "recipe": dict(one.recipe),
        "chosen_by": one.chosen_by,
        "params": max((int(r["params"]) for r in one.results), default=0),
        "valid": statistics.fmean(valid) if valid else None,
        "test": None if seen is None else asdict(seen),
        "tests": tests,
        "missing": seeds - len(one.results),
        "failed": len(one.results) - len(tests),
        "fallback": next((r["fallback"] for r in one.results if r["fallback"]), ""),
    }


def _judged(best: Sequence[Contender], rivals: Sequence[Contender], seeds: int) -> dict[str, Any]:
    """The best cell of each method against the best known one, seed by seed on test data.

    The best known one is that with the lowest mean test score, as in the report of a run: that is the harder rival, so
    what is said to be better is. A cell that lacks a seed, or failed with one, is not tested.
    """
    whole = [one for one in rivals if len(one.scores("test_score")) == seeds]
    if not whole:
        return {"rival": None, "tests": []}
    rival = min(whole, key=lambda one: statistics.fmean(one.scores("test_score")))
    ready = [one for one in best if len(one.scores("test_score")) == seeds]
    tests = []
    for one in ready:
        pairs = zip(one.scores("test_score"), rival.scores("test_score"), strict=True)
        values = [a - b for a, b in pairs]
        difference = estimate(values)
        assert difference is not None
        tests.append({"name": one.name, "method": one.method, **asdict(difference), "p": paired_p(values)})
    corrected = iter(holm([test["p"] for test in tests if test["p"] is not None]))
    for test in tests:
        test["corrected"] = None if test["p"] is None else next(corrected)
        test["real"] = test["corrected"] is not None and test["corrected"] <= LEVEL
    return {"rival": rival.name, "tests": tests, "untested": [one.name for one in best if one not in ready]}


def _methods(found: Sequence[Contender], seeds: int, base: str) -> dict[str, Any]:
    """Methods by what the best cell of each of their runs does when it is trained anew: one value for each run."""
    values: dict[str, list[float]] = {}
    for one in found:
        tests = one.scores("test_score")
        if len(tests) == seeds and one.method is not None:
            values.setdefault(one.method, []).append(statistics.fmean(tests))
    means = {}
    for name, each in values.items():
        seen = estimate(each)
        assert seen is not None
        means[name] = {**asdict(seen), "each": [round(value, 5) for value in each]}
    return {"means": means, "differences": differences(values, base) if base in values else []}
