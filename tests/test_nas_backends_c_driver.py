"""Sums over rows where something is unusual about their operands; test_conformance.py has the usual ones."""

from __future__ import annotations

import pytest
import torch
from conformance import cases, check, poisoned

from grammar import parse
from nas.backends.c.compiler import problem

pytestmark = pytest.mark.skipif(problem() is not None, reason=str(problem()))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            "h' = 0.5 * h + lin(lin(param:vec(init=normal(1)), blocks=2), x); out h'",
            id="blocks of a constant",
        ),
        pytest.param(
            "h' = 0.5 * h + lin(x); out h' + lin(outer(lin:key(x), h), blocks=heads)", id="blocks of a matrix"
        ),
        pytest.param(
            "h' = tanh(lin(x) + h); out read(outer(param:key(init=ones), param(init=normal(1))), param:key())",
            id="an output that is the same for all rows",
        ),
    ],
)
def test_gradients_of_blocks_and_constants(text: str) -> None:
    cell = parse(f"cell c {{ state h: vec; {text} }}")
    with poisoned():
        outcomes = [check(case, "c", torch.float32) for case in list(cases("c", cell, 1))[:2]]
    assert [outcome.status for outcome in outcomes] == ["ok", "ok"], outcomes
