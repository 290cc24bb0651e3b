"""Generated C of three short cells, as text files: a reviewer sees what a change of the code generation does.

`pytest tests/test_nas_backends_c_golden.py --update-golden` writes them anew.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from grammar import Sizes, parse
from nas.backends.c.making import Making

GOLDEN = Path(__file__).parent / "golden"
CELLS = {
    "dense.c.txt": "cell dense { state h: vec; h' = tanh(lin(x, h)); out h' }",
    "elementwise.c.txt": "cell elementwise { state h: vec; h' = lerp(sigmoid(lin(x)), h, x); out h' }",
    "matrix.c.txt": "cell matrix { state S: mat; S' = 0.9 * S + outer(lin:key(x), lin(x)); out read(S', lin:key(x)) }",
}


@pytest.mark.parametrize("name", CELLS)
def test_golden_c(name: str, request: pytest.FixtureRequest) -> None:
    text = Making(parse(CELLS[name]), Sizes.of(8, 8, 1, None), lanes=8).text
    if request.config.getoption("--update-golden"):
        (GOLDEN / name).write_text(text, encoding="utf-8")
    assert text == (GOLDEN / name).read_text(encoding="utf-8")
