"""Proposals that are not trained: the record knows their function, or they have warnings and lint is strict."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from campaign_fakes import SMALL, FakePool, begin, carry_on, first_event
from searcher_suite import ToySpace

from grammar import Cell, fingerprint, lint, parse
from nas.campaign import Run, SearchConfig, open_run
from nas.campaign.driver import REFUSALS, Campaign
from nas.campaign.journal import JOURNAL, Journal, encode, read
from nas.errors import RunError
from nas.searchers import Observation, Proposal, Searcher

HEAD = "cell a { state h: vec; "
PLAIN = parse(f"{HEAD}h' = tanh(lin(x, h)) + (h + lin(x)); out h' }}")
RENAMED = parse("cell b { state s: vec; out s'; s' = (s + lin(x)) + tanh(lin(s, x)) }")
BRACKETS = parse(f"{HEAD}h' = (tanh(lin(x, h)) + h) + lin(x); out h' }}")  # the same function by another sum
OTHER = parse(f"{HEAD}h' = tanh(lin(x, h)) + (h - lin(x)); out h' }}")
FORGETS = parse(f"{HEAD}h' = tanh(lin(x)); out h' }}")


class Reader(Searcher):
    """Proposes cells from a list, then nothing; keeps what it is told."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        super().__init__(ToySpace())
        self.cells = list(cells)
        self.told: list[Observation] = []

    def ask(self, rng: np.random.Generator) -> Proposal | None:
        """The first that it was not told of."""
        known = {o.digest for o in self.told}
        return next((Proposal(c, "sample") for c in self.cells if c.digest not in known), None)

    def tell(self, observation: Observation) -> None:
        """Keep it."""
        self.told.append(observation)


def propose(folder: Path, cells: Sequence[Cell], config: SearchConfig = SMALL) -> tuple[Reader, Run]:
    journal, event = Journal.create(folder, first_event(config.replace(finalists=0)))
    reader, pool = Reader(cells), FakePool()
    try:
        return reader, Campaign(journal, [event], reader, pool, clock=pool.clock).run()
    finally:
        journal.close()


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def test_the_cells_of_this_file() -> None:
    assert RENAMED.digest == PLAIN.digest
    assert BRACKETS.digest != PLAIN.digest
    assert fingerprint(BRACKETS) == fingerprint(PLAIN) != fingerprint(OTHER)
    assert not lint(PLAIN)
    assert lint(FORGETS)


def test_a_cell_that_computes_the_same_is_answered_from_the_record(tmp_path: Path) -> None:
    reader, run = propose(tmp_path / "run", [PLAIN, BRACKETS, OTHER])
    assert [(t.text, t.fingerprint) for t in run.trials] == [
        (c.one_line, fingerprint(c)) for c in (PLAIN, OTHER)
    ]
    first, twin, _ = reader.told
    assert (twin.cell, twin.digest, twin.duplicate) == (BRACKETS, BRACKETS.digest, True)
    assert (twin.score, twin.status, twin.trial) == (first.score, "ok", 0)
    assert (run.duplicates, run.alike, open_run(tmp_path / "run").status()["alike"]) == (1, 1, 1)
    (event,) = (e for e in read(tmp_path / "run").events if e["event"] == "duplicate")
    assert (event["digest"], event["of"], event["by"]) == (BRACKETS.digest, 0, "fingerprint")


def test_the_journal_says_by_which_key_and_a_twin_is_known_by_its_digest_from_then_on(tmp_path: Path) -> None:
    class Stubborn(Reader):
        def ask(self, rng: np.random.Generator) -> Proposal | None:
            return Proposal(self.cells.pop(0), "sample") if self.cells else None

    journal, event = Journal.create(tmp_path / "run", first_event(SMALL.replace(finalists=0)))
    pool, stubborn = FakePool(), Stubborn([PLAIN, RENAMED, BRACKETS, BRACKETS])
    run = Campaign(journal, [event], stubborn, pool, clock=pool.clock).run()
    journal.close()
    by = [e["by"] for e in read(tmp_path / "run").events if e["event"] == "duplicate"]
    assert by == ["digest", "fingerprint", "digest"]
    assert (len(run.trials), run.duplicates, run.alike) == (1, 3, 1)
    assert [o.digest for o in stubborn.told] == [c.digest for c in (PLAIN, PLAIN, BRACKETS, BRACKETS)]


def test_warnings_are_noted_and_nothing_is_refused_by_default(tmp_path: Path) -> None:
    _, run = propose(tmp_path / "run", [PLAIN, FORGETS])
    assert [trial.status for trial in run.trials] == ["ok", "ok"]
    assert run.trials[0].lints == ()
    assert run.trials[1].lints == tuple(dict.fromkeys(w.name for w in lint(FORGETS)))
    assert "no-memory" in run.trials[1].lints
    assert run.refused == 0


def test_strict_lint_refuses_cells_with_warnings_and_tells_the_searcher(tmp_path: Path) -> None:
    reader, run = propose(tmp_path / "run", [PLAIN, FORGETS, OTHER], SMALL.replace(lint="strict"))
    assert [trial.text for trial in run.trials] == [PLAIN.one_line, OTHER.one_line]
    assert [(o.status, o.score, o.trial, o.duplicate) for o in reader.told[1:2]] == [
        ("refused", None, None, False)
    ]
    assert run.failures == {}
    assert (run.refused, run.asks, run.search_end) == (1, 3, "exhausted")
    (event,) = (e for e in read(tmp_path / "run").events if e["event"] == "refuse")
    assert (event["digest"], event["text"]) == (FORGETS.digest, FORGETS.one_line)
    assert "no-memory" in event["lints"]


class Warned(ToySpace):
    """Of this space every other cell reads no state."""

    def cell(self, genes: Sequence[int]) -> Cell:
        """As in ToySpace, but odd shifts forget."""
        made = super().cell(genes)
        return FORGETS if genes[2] % 2 else made

    def genes(self, cell: Cell) -> list[int]:
        """As in ToySpace; those that forget are all one cell."""
        return [0, 0, 1] if cell is FORGETS else super().genes(cell)


@pytest.mark.parametrize("method", ["random", "evolution"])
def test_a_strict_search_trains_no_cell_with_warnings_and_resumes_the_same(
    tmp_path: Path, method: str
) -> None:
    config = SMALL.replace(method=method, lint="strict", max_trials=8, finalists=0)
    run = begin(tmp_path / "run", config, space=Warned())
    assert [trial.lints for trial in run.trials] == [()] * 8
    assert run.refused > 0
    again = carry_on(tmp_path / "run", space=Warned())
    assert (again.asks, again.refused, len(again.trials)) == (run.asks, run.refused, 8)


def test_a_search_among_nothing_but_warnings_ends(tmp_path: Path) -> None:
    class Forgetful(ToySpace):
        def cell(self, genes: Sequence[int]) -> Cell:
            return parse(f"{HEAD}h' = tanh(lin(x) + {1 + genes[2]}.5); out h' }}")

    run = begin(tmp_path / "run", SMALL.replace(lint="strict", max_trials=3), space=Forgetful())
    assert (run.trials, run.refused, run.search_end) == ([], REFUSALS, "refusals")


def test_lint_is_warn_or_strict() -> None:
    with pytest.raises(RunError, match="lint must be one of warn, strict; got 'error'"):
        SearchConfig(lint="error")


def test_a_journal_of_schema_1_is_read(tmp_path: Path) -> None:
    """It has no fingerprints, no warnings, and no word on how a duplicate was found."""
    folder = tmp_path / "run"
    propose(folder, [PLAIN, BRACKETS, OTHER])
    events = [dict(event) for event in read(folder).events]
    for event in events:
        del event["crc"]
        for name in ("fingerprint", "lints", "by"):
            event.pop(name, None)
    events[0]["schema"] = 1
    del events[0]["config"]["lint"]
    (folder / JOURNAL).write_bytes(b"".join(encode(event) for event in events))
    run = open_run(folder)
    assert (run.config.lint, run.duplicates, run.alike) == ("warn", 1, 0)
    assert [(t.fingerprint, t.lints) for t in run.trials] == [("", ()), ("", ())]
