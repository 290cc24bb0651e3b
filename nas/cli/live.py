"""What a search shows while it runs: a live table in a terminal, a line for each event elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from nas.campaign import Contender, Event, Run
from nas.cli.console import console, score_text, table
from nas.cli.look import failures_text
from nas.reports import recipe_text, seconds_text

_BEST, _LAST = 5, 4


class View(Protocol):
    """Somebody who watches a campaign."""

    def on_event(self, event: Event, run: Run) -> None:
        """Told of every event once it is in the journal, and of progress some times a second."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def make_view(quiet: bool) -> View:
    """The view that suits: none, a live table, or lines."""
    if quiet:
        return Silence()
    return LiveTable() if console().is_terminal else Lines()


class Silence:
    """Shows nothing."""

    def on_event(self, event: Event, run: Run) -> None:
        """Nothing to do."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class Lines(Silence):
    """A line for each event that a person would want to read later in a log."""

    def on_event(self, event: Event, run: Run) -> None:
        """Print the event, if it is worth a line."""
        line = event_line(event, run)
        if line is not None:
            when = f"[{seconds_text(event['active'])} of {seconds_text(run.config.budget)}]"
            print(when, line, file=sys.stdout, flush=True)


def event_line(event: Event, run: Run) -> str | None:
    """An event in words, None for one that is not worth a line."""
    kind, unit = event["event"], run.task.get("metric", "")
    if kind == "sitting":
        return f"{event['workers']} worker(s) on {event['device']}, budget {seconds_text(run.config.budget)}"
    if kind == "finish":
        trial = run.trials[event["trial"]]
        if trial.supernet is not None:
            found = f"a supernet of {trial.params:,} parameters gave {len(trial.found)} cells"
            passed = f", {trial.passed} of {trial.steps} paths passed over" if trial.passed else ""
            return f"#{trial.id} {found}{passed}, {trial.wall:.1f} s"
        best = run.best
        note = " (the best so far)" if best is trial else f" (best {score_text(best.score)})" if best else ""
        cost = f"{trial.params:,} parameters, {trial.wall:.1f} s"
        if trial.until is not None or trial.continues is not None:
            cost = f"{trial.steps} step{'s' * (trial.steps != 1)}, {cost}"
        if trial.recipe:
            cost += f", {recipe_text(trial.recipe)}"
        return f"#{trial.id} {score_text(trial.score)} {unit}{note}, {cost}: {trial.text}"
    if kind == "fail" and event["class"] == "constraint":
        return f"#{event['trial']} refused, not trained: {event['message']}"
    if kind == "fail":
        again = ", tried again" if event["retry"] else ""
        return f"#{event['trial']} failed: {event['class']}{again}: {event['message']}"
    if kind == "search_end":
        return f"search ended ({event['reason']}): {_counts(run)}"
    if kind == "finalists" and event["trials"]:
        chosen = ", ".join(f"#{n}" for n in event["trials"])
        return f"retraining {chosen} beside {', '.join(b.name for b in run.baselines)}, {run.config.seeds} seed(s) each"
    if kind == "retrain_finish":
        scores = f"validation {score_text(event['score'])}, test {score_text(event['test_score'])} {unit}"
        return f"retrained {event['key']}: {scores}"
    if kind == "retrain_fail":
        return f"retraining {event['key']} failed: {event['class']}: {event['message']}"
    if kind == "stop":
        return f"{'done' if event['finished'] else 'stopped'}: {event['reason']}"
    return None


def _counts(run: Run) -> str:
    done = sum(t.status == "ok" for t in run.trials)
    running = sum(t.status == "running" for t in run.trials)
    return f"{done} finished, {running} running, {failures_text(run.failures)}, {run.duplicates} duplicates"


class LiveTable(Silence):
    """Progress, the remaining budget, the best cells, what runs now and what just ended."""

    def __init__(self) -> None:
        self.console = console()
        starting = Spinner("dots", Text("starting workers"))
        # Transient until there is something to keep: a search that is refused leaves only its error.
        self.live = Live(starting, console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def on_event(self, event: Event, run: Run) -> None:
        self.live.transient = False
        self.live.update(picture(run, float(event["active"]), self.console.height))


def picture(run: Run, active: float, height: int = 40) -> Group:
    """The whole view at a moment; `active` are the seconds of the budget that are spent."""
    parts: list[Any] = [_head(run), _budget(run, active), Text()]
    if run.contenders and run.search_end is not None:
        parts += [_final(run), Text()]
    best = run.top(_BEST)
    if best:
        unit = run.task.get("metric", "score")
        rows = [
            (
                f"#{t.id}",
                Text(score_text(t.score), style="bold green" if t is best[0] else ""),
                f"{t.params:,}",
                t.text,
            )
            for t in best
        ]
        parts += [table(["best", unit, "params", "cell"], rows, ["best", unit, "params"], cut=True), Text()]
    running = _running(run)
    if running is not None:
        parts += [running, Text()]
    last = _last(run)
    if last is not None and height >= 30:
        parts.append(last)
    return Group(*parts)


def _head(run: Run) -> Text:
    config = run.config
    phase = "done" if run.finished else "search" if run.search_end is None else "final comparison"
    return Text.assemble(
        (f"{config.method} in {config.space} on {config.task}", "bold"), f"  {phase}  ", (_counts(run), "dim")
    )


def _budget(run: Run, active: float) -> Table:
    budget = run.config.budget
    row = Table.grid(padding=(0, 1))
    left = seconds_text(max(0.0, budget - active))
    row.add_row(
        ProgressBar(total=budget, completed=min(active, budget), width=40),
        Text(f"{seconds_text(active)} of {seconds_text(budget)}, {left} left"),
    )
    return row


def _running(run: Run) -> Table | None:
    rows = []
    for key, at in run.progress.items():
        done, loss = at
        steps = _steps(run, key)
        share = ProgressBar(total=max(1, steps), completed=min(done, max(1, steps)), width=24)
        rows.append(
            (_title(run, key), share, f"{done} of {steps}", "" if loss is None else f"loss {loss:.3f}")
        )
    if not rows:
        return None
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("running", "", "steps", ""):
        made.add_column(name)
    for row in rows:
        made.add_row(*row)
    return made


def _title(run: Run, key: str) -> str:
    trial = run.trial_at(key)
    return key if trial is None else f"#{trial.id} {trial.operator}"


def _steps(run: Run, key: str) -> int:
    """How many steps a job takes."""
    trial = run.trial_at(key)
    return run.full_steps if trial is None or trial.until is None else trial.until


def _last(run: Run) -> Table | None:
    ended = sorted((t for t in run.trials if t.ended is not None), key=lambda t: -(t.ended or 0.0))[:_LAST]
    if not ended:
        return None
    rows = [
        (
            f"#{t.id}",
            score_text(t.score) if t.status == "ok" else Text(t.status, style="yellow"),
            f"{t.wall:.1f} s",
            " ".join((t.text if t.status == "ok" else t.message).split()),
        )
        for t in ended
    ]
    return table(["last", "", "", ""], rows, ["last"], cut=True)


def _final(run: Run) -> Table:
    unit = run.task.get("metric", "score")
    rows = [
        (c.name, f"{len(c.done)} of {len(c.trainings)}", score_text(c.score), score_text(c.test_score))
        for c in _ordered(run)
    ]
    return table(
        ["retrained", "seeds", f"validation {unit}", "test"], rows, ["seeds", f"validation {unit}", "test"]
    )


def _ordered(run: Run) -> list[Contender]:
    return sorted(run.contenders, key=lambda c: c.score if c.score is not None else float("inf"))
