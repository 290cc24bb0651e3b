from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from searcher_suite import OPTIONS, ToySpace

from nas.errors import SearchError
from nas.searchers import Searcher, make_searcher, searcher_names, settled_options
from search_spaces import load_space

ROOT = Path(__file__).resolve().parents[1]


class Unfinished(Searcher):
    name = "unfinished"


def test_names() -> None:
    assert {"random", "evolution", "reinforce"} <= set(searcher_names())
    for name in searcher_names():
        assert make_searcher(name, ToySpace(), OPTIONS[name]).name == name


@pytest.mark.parametrize(
    ("name", "meant", "method"),
    [
        ("predictor", "guided", None),
        ("darts", "oneshot", "darts"),
        ("gdas", "oneshot", "gdas"),
        ("supernet", "oneshot", "uniform"),
    ],
)
def test_the_names_that_the_literature_has(name: str, meant: str, method: str | None) -> None:
    space = load_space("darts_rnn")
    made: Any = make_searcher(name, space)
    assert made.name == meant
    assert settled_options(name, space, {}).get("method") == method
    if method is not None:
        assert made.options.method == method
        assert make_searcher(name, space, {"method": method, "steps": 3}).name == meant
        with pytest.raises(
            SearchError, match=f"method {name} is oneshot with method={method}; received method=darts2"
        ):
            make_searcher(name, space, {"method": "darts2"})


def test_a_synonym_may_propose_for_another() -> None:
    made: Any = make_searcher("halving", load_space("darts_rnn"), {"proposer": "gdas"})
    assert made.proposer.options.method == "gdas"


def test_a_users_own_class_by_module_and_class() -> None:
    searcher = make_searcher("nas.searchers.random_search:RandomSearch", ToySpace(), {"tries": 3})
    assert searcher.name == "random"


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            "evolutoin",
            {},
            "unknown method 'evolutoin'; did you mean 'evolution'\\? \\(methods are random, evolution",
        ),
        (
            "gdass",
            {},
            "unknown method 'gdass'; did you mean 'gdas'.*\\? \\(methods are .*, list, predictor, supernet",
        ),
        ("evolution", {"poplation": 3}, "no option 'poplation'; did you mean 'population'\\? \\(options are"),
        ("evolution", {"population": 0}, "population must be a whole number of at least 2, got 0"),
        ("evolution", {"population": 4, "samples": 9}, "samples must be at most population, got 9 > 4"),
        ("evolution", {"crossover": 1.5}, "crossover must be a probability, got 1.5"),
        ("evolution", {"tournament": "many"}, "tournament must be a whole number of at least 1, got 'many'"),
        ("random", {"tries": 0}, "tries must be a whole number of at least 1, got 0"),
        ("random", {"tries": "x"}, "tries must be a whole number of at least 1, got 'x'"),
        ("random", {"by": "sise"}, "by must be one of weights, size; got 'sise'"),
        ("random", {"by": "size"}, "by=size needs a space that counts its cells"),
        ("evolution", {"operators": "q"}, "operators must be one of fixed, bandit, qlearning; got 'q'"),
        ("evolution", {"motifs": 0.1}, "the space has no motifs"),
        ("evolution", {"crossover": 0.6, "motifs": 0.5}, "crossover \\+ motifs must be at most 1"),
        ("evolution", {"seeds": "no/such/file"}, "cannot read no/such/file: No such file or directory"),
        ("reinforce", {"rate": 0.0}, "rate must be above 0"),
        ("reinforce", {"rate": "x"}, "rate must be a number of at least 0, got 'x'"),
        ("guided", {"kappa": "x"}, "kappa must be a number of at least 0, got 'x'"),
        ("guided", {"prior": -1}, "prior must be a number of at least 0, got -1"),
        ("guided", {"zoo": "perhaps"}, "zoo must be yes or no, got 'perhaps'"),
        ("guided", {"recipe": 3}, "features and recipe are names with commas between them, got 3"),
        ("guided", {"recipe": "lrr"}, "fields of a recipe to search are lr, .*; received 'lrr'"),
        ("halving", {"proposer": 3}, "a method is a name; received 3"),
        ("nsga2", {"objectives": [1, 2]}, "there is no objective '1'"),
        ("no_such_module:Thing", {}, "module no_such_module could not be imported"),
        ("nas.errors:NasError", {}, "is not a subclass of nas.searchers.Searcher"),
        ("test_nas_searchers_registry:Unfinished", {}, "does not define ask, tell"),
    ],
)
def test_what_cannot_be_made_is_said(name: str, options: Mapping[str, Any], said: str) -> None:
    with pytest.raises(SearchError, match=said):
        make_searcher(name, ToySpace(), options)


def test_searchers_need_neither_torch_nor_ray() -> None:
    script = "import sys, nas.searchers as s; s.make_searcher; s.Searcher; print({'torch', 'ray'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout.strip() == "set()"
