from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
from searcher_suite import ToySpace, made_up_score

from grammar import Cell, parse
from nas.errors import SearchError
from nas.searchers import Observation, Proposal, Searcher, make_searcher
from nas.searchers.lab import (
    Answer,
    Comparison,
    Pool,
    PoolSpace,
    Surrogate,
    Trace,
    all_or_nothing,
    benchmark_pool,
    compare,
    interval,
    replay,
    table_answers,
    trials_pool,
)
from nas.searchers.random_search import RandomSearch
from search_spaces import NoCellError, load_space

TOY = ToySpace()


def toy_cells() -> list[Cell]:
    return [TOY.cell((g, a, s)) for g in range(3) for a in range(4) for s in range(4)]


def toy_pool() -> Pool:
    cells = toy_cells()
    return Pool.of("toy", cells, [made_up_score(cell) for cell in cells])


def trace(method: str, seed: int, *means: float | None) -> Trace:
    return Trace(method, seed, means, means)


# ---- pools ------------------------------------------------------------------------------------


def test_a_pool_has_one_cell_of_each_digest_with_the_mean_of_its_scores() -> None:
    a, b, c = toy_cells()[:3]
    twin = parse(str(a).replace("cell toy", "cell other"))
    pool = Pool.of("p", [b, a, c, twin, c], [2.0, 1.0, None, 3.0, math.nan])
    assert len(pool) == 3
    found = {cell.digest: score for cell, score in zip(pool.cells, pool.scores, strict=True)}
    assert (found[a.digest], found[b.digest]) == (2.0, 2.0)
    assert math.isnan(found[c.digest])
    assert [pool.index[cell.digest] for cell in pool.cells] == [0, 1, 2]


def test_the_order_of_the_table_means_nothing() -> None:
    cells = toy_cells()
    scores = [made_up_score(cell) for cell in cells]
    assert Pool.of("p", cells, scores).cells == Pool.of("p", cells[::-1], scores[::-1]).cells


def test_failed_cells_count_among_the_best_share_and_stand_last() -> None:
    cells = toy_cells()[:10]
    pool = Pool.of("p", cells, [None] * 5 + [5.0, 4.0, 3.0, 2.0, 1.0])
    assert (pool.best, pool.worst) == (1.0, 5.0)
    assert (pool.top(0.01), pool.top(0.2), pool.top(0.5)) == (1.0, 2.0, 5.0)
    assert pool.top(0.6) == math.inf


def test_a_pool_needs_a_score() -> None:
    with pytest.raises(SearchError, match="needs cells with scores; p has 1 cells and no score"):
        Pool.of("p", toy_cells()[:1], [None])


def write_trials(path: Path, rows: list[tuple[Cell, str, str, float | None]]) -> Path:
    """A table of trials: cell, size, status and score of each, all on the task t."""
    more = {"task": "t", "seed": 0, "params": 1, "width": 1, "steps": 1, "seconds": 1.0}
    with gzip.open(path, "wt") as file:
        for cell, size, status, score in rows:
            row = {
                "cell": cell.one_line,
                "digest": cell.digest,
                "size": size,
                "status": status,
                "score": score,
            }
            file.write(json.dumps(row | more) + "\n")
    return path


def test_a_task_of_a_table_of_trials_is_a_pool_without_what_machines_stopped(tmp_path: Path) -> None:
    a, b, c = toy_cells()[:3]
    rows = [(a, "s", "ok", 2.0), (a, "s", "ok", 3.0), (b, "s", "hopeless", None), (c, "s", "oom", None)]
    pool = trials_pool(write_trials(tmp_path / "mine.jsonl.gz", rows), "t")
    assert pool.name == "mine-t"
    scores = {cell.digest: score for cell, score in zip(pool.cells, pool.scores, strict=True)}
    assert scores == {a.digest: 2.5, b.digest: pytest.approx(math.nan, nan_ok=True)}


def test_trials_of_several_sizes_or_no_task_are_no_pool(tmp_path: Path) -> None:
    a, b = toy_cells()[:2]
    file = write_trials(tmp_path / "mine.jsonl.gz", [(a, "s", "ok", 2.0), (b, "m", "ok", 1.0)])
    with pytest.raises(SearchError, match="has t in the sizes m, s: their scores do not compare"):
        trials_pool(file, "t")
    with pytest.raises(SearchError, match="has no trials of task 'u'; its tasks are t"):
        trials_pool(file, "u")


def test_a_pool_is_a_space_of_its_cells() -> None:
    space, rng = PoolSpace(toy_pool(), near=5), np.random.default_rng(0)
    cell, other = space.sample(rng), space.sample(rng)
    for parents in ((cell, None), (cell, other), (cell, cell)):
        child = space.vary(parents[0], rng, parents[1])
        assert child.cell in space
        assert child.cell is not cell
    assert space.vary(cell, rng, other).parents == (cell, other)
    assert {space.vary(cell, rng).operator, space.vary(cell, rng, other).operator} == {"near", "between"}
    assert len({space.vary(cell, rng).cell for _ in range(100)}) == 5


def test_children_are_near_by_structure() -> None:
    pool = Pool.of("p", [TOY.cell((0, 0, 0)), TOY.cell((0, 1, 0)), TOY.cell((1, 2, 0))], [1.0, 2.0, 3.0])
    # The second differs in the activation alone, the third in what the gate sees, too.
    child = PoolSpace(pool, near=1).vary(TOY.cell((0, 0, 0)), np.random.default_rng(0))
    assert child.cell is TOY.cell((0, 1, 0))


def test_cells_of_no_pool_and_pools_of_one_cell_are_refused() -> None:
    lone = Pool.of("p", toy_cells()[:1], [1.0])
    with pytest.raises(SearchError, match="a pool of 1 cells is no search space"):
        PoolSpace(lone)
    pair = PoolSpace(Pool.of("p", toy_cells()[:2], [1.0, 2.0]))
    with pytest.raises(NoCellError, match="not a cell of the pool p"):
        pair.vary(toy_cells()[5], np.random.default_rng(0))
    with pytest.raises(SearchError, match="operators of a pool are near; received 'point'"):
        pair.vary(toy_cells()[0], np.random.default_rng(0), operator="point")


def test_the_benchmark_is_a_pool_of_the_published_classes(shared_data: Path) -> None:
    pool = benchmark_pool(shared_data, "wt2")
    assert len(pool) == 173
    assert pool.top(0.01) == pool.best
    with pytest.raises(SearchError, match="the tables are ptb, wt2; received 'enwik8'"):
        benchmark_pool(shared_data, "enwik8")


# ---- replay -----------------------------------------------------------------------------------


def test_a_replay_tries_different_cells_and_is_the_same_again() -> None:
    pool = toy_pool()
    space, answer = PoolSpace(pool), table_answers(pool)
    one, again = (replay("r", make_searcher("random", space), answer, 20, 4) for _ in range(2))
    assert one == again
    assert len(one.scores) == 20
    assert len(set(one.scores)) == 20  # scores are by digest
    assert one.best(9.0) == [min(one.means[: n + 1], key=float) for n in range(20)]  # type: ignore[arg-type]


def test_a_replay_ends_when_the_pool_is_exhausted() -> None:
    pool = toy_pool()
    found = replay("r", make_searcher("random", PoolSpace(pool)), table_answers(pool), 500, 0)
    assert sorted(s for s in found.scores if s is not None) == sorted(pool.scores)


class Stubborn(RandomSearch):
    """Asks for the same cell every other time."""

    name = "stubborn"

    def __init__(self, space: PoolSpace) -> None:
        super().__init__(space)
        self.seen: list[Observation] = []

    def ask(self, rng: np.random.Generator) -> Proposal | None:
        """The first cell again, or a new one."""
        return super().ask(rng) if len(self.seen) % 2 == 0 else Proposal(self.seen[0].cell, "again")

    def tell(self, observation: Observation) -> None:
        """Keep it."""
        super().tell(observation)
        self.seen.append(observation)


def test_what_is_asked_for_again_costs_nothing_and_is_told_as_a_duplicate() -> None:
    pool = toy_pool()
    searcher = Stubborn(PoolSpace(pool))
    found = replay("s", searcher, table_answers(pool), 6, 0)
    assert len(found.scores) == 6
    assert [seen.duplicate for seen in searcher.seen] == [False, True] * 5 + [False]
    assert {seen.score for seen in searcher.seen if seen.duplicate} == {found.scores[0]}


def test_a_table_knows_whole_trainings_alone() -> None:
    pool = toy_pool()
    searcher = make_searcher("halving", PoolSpace(pool))
    searcher.begin({"steps": 27})
    with pytest.raises(SearchError, match="halving trains cells in several steps"):
        replay("halving", searcher, table_answers(pool), 10, 0)


def test_a_table_knows_no_supernets() -> None:
    searcher = make_searcher("oneshot", load_space("darts_rnn"))
    with pytest.raises(SearchError, match="oneshot trains supernets"):
        replay("oneshot", searcher, table_answers(toy_pool()), 10, 0)


def test_a_table_knows_the_loss_alone() -> None:
    pool = toy_pool()
    searcher = make_searcher("nsga2", PoolSpace(pool))
    with pytest.raises(
        SearchError, match="nsga2 minimises loss, flops: tables and surrogates know the loss alone"
    ):
        replay("nsga2", searcher, table_answers(pool), 10, 0)


def test_failures_have_no_score() -> None:
    pool = Pool.of("p", toy_cells(), [None, 1.0] * 24)
    told: list[Observation] = []

    class Listening(RandomSearch):
        def tell(self, observation: Observation) -> None:
            super().tell(observation)
            told.append(observation)

    found = replay("r", Listening(PoolSpace(pool)), table_answers(pool), 30, 0)
    assert {(o.score, o.status) for o in told} == {(None, "diverged"), (1.0, "ok")}
    assert found.best(7.0)[0] in (7.0, 1.0)
    assert found.best(7.0)[-1] == 1.0


def test_the_best_is_chosen_by_what_was_seen_and_judged_by_its_mean() -> None:
    found = Trace("m", 0, (3.0, 1.0, 2.0), (2.9, 2.5, 1.9))
    assert found.best(9.0) == [2.9, 2.5, 2.5]
    assert (found.reached(2.0), found.reached(1.0)) == (3, None)
    exact = Trace("m", 0, (3.0,), (1.23456789,))  # rounded up, it would not reach the level of itself
    assert Trace.from_dict(json.loads(json.dumps(exact.to_dict()))) == exact


# ---- figures ----------------------------------------------------------------------------------


def test_intervals_are_those_of_student() -> None:
    found = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.mean == 3.0
    assert found.half == pytest.approx(2.776 * math.sqrt(2.5 / 5), rel=0.01)
    assert interval([1.0, 1.2]).half == pytest.approx(12.706 * 0.1, rel=0.001)
    assert interval([1.0]).half is None
    assert interval(list(np.random.default_rng(0).normal(size=50))).half == pytest.approx(
        2.0096 * np.random.default_rng(0).normal(size=50).std(ddof=1) / math.sqrt(50), rel=1e-3
    )


def example() -> Comparison:
    traces = [trace("a", seed, None, 3.0, 2.0 + seed / 10, 1.0) for seed in range(4)]
    traces += [trace("b", seed, 4.0, 3.0, 3.0 + seed / 10) for seed in range(4)]
    return compare(traces, 4, worst=9.0, level=1.5)


def test_a_comparison_has_curves_and_paired_differences() -> None:
    found = example()
    assert [point.mean for point in found.curve("a")] == [9.0, 3.0, pytest.approx(2.15), 1.0]
    assert found.curve("b")[3].mean == 3.0  # it ended early, and keeps what it had
    assert found.difference("a", "b").mean == -2.0
    assert found.difference("a", "b").real
    at = found.difference("a", "b", at=3)
    assert at.mean == pytest.approx(-0.85)
    assert (found.trials_to_top("a"), found.trials_to_top("b")) == (4, math.inf)
    assert (found.reached("a"), found.reached("b")) == (1.0, 0.0)


def test_a_difference_within_chance_is_not_called_real() -> None:
    traces = [trace("a", s, float(s)) for s in range(5)] + [trace("b", s, float(4 - s)) for s in range(5)]
    found = compare(traces, 1, 9.0).difference("a", "b")
    assert found.mean == 0
    assert not found.real


def test_a_comparison_is_json() -> None:
    facts = json.loads(json.dumps(example().to_dict(), allow_nan=False))
    assert facts["methods"]["b"]["trials_to_top"] is None
    assert facts["differences"] == [
        {"method": "b", "other": "a", "mean": 2.0, "half": 0.0, "count": 4, "real": True}
    ]
    assert facts["methods"]["a"]["failed"] == 0.25


# ---- the surrogate ----------------------------------------------------------------------------


def test_the_surrogate_answers_any_cell_with_the_noise_of_a_run() -> None:
    scores = [None if i % 8 == 7 else 5.0 + made_up_score(cell) for i, cell in enumerate(toy_cells())]
    pool = Pool.of("toy", toy_cells(), scores)
    quiet, noisy = Surrogate(pool, noise=False), Surrogate(pool)
    rng = np.random.default_rng(0)
    cell = next(cell for cell in toy_cells() if quiet(cell, rng).score is not None)
    means = {noisy(cell, rng).mean for _ in range(5)}
    drawn = {noisy(cell, rng).score for _ in range(5)}
    assert means == {quiet(cell, rng).score}
    assert len(drawn) == 5
    assert all(abs((score or 0.0) - means.copy().pop()) < 0.1 for score in drawn)  # type: ignore[operator]
    assert {type(noisy(cell, rng)) for cell in toy_cells()[:3]} == {Answer}
    assert set(quiet.quality(folds=3)) == {"kendall_tau", "auc_failing"}


def test_the_surrogate_says_nothing_below_the_best_of_its_pool() -> None:
    """Boosted trees go beyond the scores that they saw, and a search would end where they do."""
    cells = toy_cells()
    rng = np.random.default_rng(3)
    scores = [5.0 + made_up_score(cell) for cell in cells]
    pool = Pool.of("toy", cells, scores)
    surrogate = Surrogate(pool, noise=False)
    surrogate._model = lambda asked: np.full(len(asked), pool.best - 1.0)
    assert surrogate(cells[0], rng).score == pool.best
    surrogate._model = lambda asked: np.full(len(asked), pool.best + 1.0)
    assert surrogate(cells[0], rng).score == pool.best + 1.0


def test_a_surrogate_may_see_other_features_and_a_noise_of_its_own() -> None:
    cells = toy_cells()
    pool = Pool.of("toy", cells, [made_up_score(cell) for cell in cells])
    surrogate = Surrogate(pool, 0.25, ("flow", "statistics"))
    said = [surrogate(cells[0], np.random.default_rng(seed)) for seed in range(40)]
    assert len({one.mean for one in said}) == 1
    assert 0.15 < np.std([one.score for one in said if one.score is not None]) < 0.35
    with pytest.raises(SearchError, match="features are of statistics, flow, probes; received looks"):
        Surrogate(pool, features=("looks",))


def test_all_or_nothing_leaves_what_few_cells_reach_and_makes_the_rest_alike() -> None:
    means = {cell.digest: float(number) for number, cell in enumerate(toy_cells())}

    def graded(cell: Cell, rng: np.random.Generator) -> Answer:
        mean = means[cell.digest]
        return Answer(None, None) if mean > 45 else Answer(mean + float(rng.standard_normal()), mean)

    rare, level = all_or_nothing(graded, toy_cells(), 0.1, 99.0)
    assert level == 4.0
    for cell in toy_cells():
        told, said = graded(cell, np.random.default_rng(1)), rare(cell, np.random.default_rng(1))
        if told.score is None or told.mean is None or told.mean <= 4.0:
            assert said == told
        else:
            assert said.mean == 99.0
            assert said.score == pytest.approx(99.0 + told.score - told.mean)
    with pytest.raises(SearchError, match="all of 1 samples failed"):
        all_or_nothing(graded, toy_cells()[-1:], 0.1, 99.0)


def test_every_searcher_runs_in_the_laboratory() -> None:
    pool = toy_pool()
    space = PoolSpace(pool)
    searchers: dict[str, Searcher] = {
        "random": make_searcher("random", space),
        "evolution": make_searcher("evolution", space, {"samples": 4}),
        "guided": make_searcher("guided", space, {"candidates": 6, "every": 8}),
    }
    for name, searcher in searchers.items():
        assert len(replay(name, searcher, table_answers(pool), 20, 1).scores) == 20
