"""docs/searchers.md: its code runs, and it says what the code does."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from searcher_suite import Drive, ToySpace, made_up_score

from nas.campaign import SearchConfig
from nas.campaign.driver import REFUSALS
from nas.campaign.stores import KEPT
from nas.searchers import METRICS, OBJECTIVES, Searcher, make_searcher, searcher_names
from search_spaces import read_space

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "searchers.md").read_text(encoding="utf-8")


@pytest.fixture
def climber(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    code = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(code) == 1
    lines = [line for line in code[0].splitlines() if line.strip()]
    assert len(lines) <= 30
    (tmp_path / "climbing.py").write_text(code[0])
    monkeypatch.syspath_prepend(tmp_path)
    return "climbing:Climber"


def test_the_searcher_of_the_page_climbs_and_can_be_carried_on(climber: str) -> None:
    def make() -> Searcher:
        return make_searcher(climber, ToySpace(shifts=20), {"patience": 5})

    whole = Drive(make())
    whole.go_on(40)
    cut = Drive(make())
    cut.go_on(17)
    cut = cut.carried_on(make())
    cut.go_on(23)
    assert cut.proposals == whole.proposals
    assert len({p.cell.digest for p in whole.proposals}) == 40
    assert {p.operator for p in whole.proposals} == {"sample", "mutate"}
    scores = [made_up_score(p.cell) for p in whole.proposals]
    assert min(scores) < 0.1


def test_it_ends_on_an_exhausted_space(climber: str) -> None:
    space = ToySpace(shifts=1)
    log = Drive(make_searcher(climber, space))
    log.go_on(100)
    assert log.searcher.ask(np.random.default_rng(0)) is None


def test_it_ends_in_a_space_whose_cell_has_no_other_near_it(climber: str) -> None:
    one = "space one { limits size <= 4 require x, states state vec out -> $new vec -> tanh(lin(x, $vec)) }"
    log = Drive(make_searcher(climber, read_space(one)))
    assert not log.go_on(10)
    assert len(log.proposals) == 1


def test_every_method_and_its_options_are_on_the_page() -> None:
    for name in searcher_names():
        assert f"| `{name}` |" in TEXT, name
    for metric in (*METRICS, *OBJECTIVES):
        assert f"`{metric}`" in TEXT, metric


@pytest.mark.parametrize("name", ["random", "evolution", "nsga2", "halving"])
def test_defaults_are_those_of_the_page(name: str) -> None:
    cls: Any = type(make_searcher(name, ToySpace()))
    section = TEXT.split(f"\n## {name}")[1].split("\n## ")[0]
    for parameter in list(inspect.signature(cls).parameters.values())[1:]:
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            written = rf"`{parameter.name}`\s+\(?{re.escape(str(parameter.default))}\b"
            if name == "nsga2" and parameter.name in ("crossover", "tries"):  # said of evolution
                continue
            assert re.search(written, section), (name, parameter)


def test_numbers_are_those_of_the_code() -> None:
    assert f"after {REFUSALS} refusals in a row" in " ".join(TEXT.split())
    assert f"at most {KEPT} for each rung" in TEXT


def test_the_commands_of_the_page_make_sense() -> None:
    for constraint in re.findall(r'--constraint "([^"]+)"', TEXT):
        SearchConfig(constraints=(constraint,))
    for method, option in re.findall(r"--method (\w+)\S* -O (\w+=[^\s`]+)", TEXT):
        if method not in searcher_names() or method == "list":  # that of the page itself; that of a file
            continue
        name, _, value = option.partition("=")
        make_searcher(method, ToySpace(), {name: int(value) if value.isdigit() else value})
