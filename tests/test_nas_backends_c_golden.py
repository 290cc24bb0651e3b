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


@pytest.mark.parametrize(
    ("text", "packed"),
    [
        pytest.param(
            "h' = tanh(lin(h, share=a) + lin(tanh(lin(h, share=a)), share=a) + lin(x))", 1, id="shared"
        ),
        pytest.param("h' = tanh(lin(h) + lin(tanh(lin(h))) + lin(x))", 3, id="own"),
        pytest.param(
            "h' = tanh(lin(h, share=a, bias=no) + lin(tanh(h), share=a, transpose=yes, bias=no) + lin(x))",
            2,
            id="shared both ways round",
        ),
    ],
)
def test_shared_weights_are_packed_once_for_each_way_they_are_used(text: str, packed: int) -> None:
    made = Making(parse(f"cell c {{ state h: vec; {text}; out h' }}"), Sizes.of(8, 8, 1, None), lanes=8).text
    forward = made[: made.index("recell_f(")]
    assert forward.count("kit->pack(") == packed
