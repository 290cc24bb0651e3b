"""A search with several objectives that are costs of cells: what it calls the Pareto front is one."""

from __future__ import annotations

import pytest
from campaign_fakes import SMALL, FakePool, first_event

from grammar import parse
from nas.campaign import Run, open_run
from nas.campaign.driver import Campaign
from nas.campaign.journal import Journal
from nas.nn import build
from nas.reports import objective_text
from nas.reports.front import front_table
from nas.searchers import make_searcher
from nas.searchers.pareto import dominates
from nas.tasks import load_task
from nas.training import static_metrics
from search_spaces import load_space

NAMES = ("loss", "state_bytes", "gemm_depth")
WIDTH = 16


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A search over a real space by the real costs of its cells; only the losses are made up."""
    folder = tmp_path_factory.mktemp("objectives") / "run"
    options = {"objectives": ",".join(NAMES), "population": 8}
    config = SMALL.replace(method="nsga2", options=options, max_trials=40, seed=1)
    journal, event = Journal.create(folder, first_event(config))
    task, pool = load_task("modular_arithmetic", size="smoke"), FakePool()
    searcher = make_searcher("nsga2", load_space("mixed"), options)
    try:
        return Campaign(
            journal,
            [event],
            searcher,
            pool,
            clock=pool.clock,
            costs=lambda cell, recipe: static_metrics(cell, task, recipe, width=WIDTH),
        ).run()
    finally:
        journal.close()


def points(run: Run) -> dict[int, tuple[float, ...]]:
    """The three objectives of each trial."""
    return {
        t.id: (t.score, *(t.metrics[name] for name in NAMES[1:])) for t in run.trials if t.score is not None
    }


def test_costs_are_those_of_the_cells(run: Run) -> None:
    assert len(run.trials) == 40
    for trial in run.trials:
        cell, layers = parse(trial.canonical), run.task["recipe"]["num_layers"]
        state = build(cell, WIDTH, WIDTH, num_layers=layers, backend="reference").init_state(1)
        parts = state if isinstance(state, tuple) else (state,)
        assert trial.metrics["state_bytes"] == sum(part.nbytes for part in parts)
    for which in (1, 2):  # they differ, or a front says nothing
        assert len({point[which] for point in points(run).values()}) > 2


def test_the_front_is_what_no_other_trial_beats(run: Run) -> None:
    found = points(run)
    left = {n for n, p in found.items() if not any(dominates(q, p) for q in found.values())}
    assert 1 < len(left) < len(found)
    for read in (run, open_run(run.path)):
        assert read.objectives == NAMES
        assert {trial.id for trial in read.front()} == left
        assert [t.score for t in read.front()] == sorted(found[n][0] for n in left)
    table = front_table(run)
    assert table is not None
    rows = [
        [objective_text(name, v) for name, v in zip(NAMES, found[t.id], strict=True)] for t in run.front()
    ]
    assert [row["values"] for row in table["rows"]] == rows
    assert [c.trial for c in run.finalists] == [t.id for t in run.front()][: run.config.finalists]
