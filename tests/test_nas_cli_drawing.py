from __future__ import annotations

import pytest
from rich.console import Console

from grammar import parse, zoo, zoo_names
from nas.cli.drawing import draw


def drawn(text: str) -> list[str]:
    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        for tree in draw(parse(text) if "{" in text else zoo(text)):
            console.print(tree)
    return capture.get().rstrip("\n").split("\n")


def test_the_lstm() -> None:
    assert drawn("lstm") == [
        "h' = ×",  # noqa: RUF001
        "├── o = σ lin(x, h)",  # noqa: RUF001
        "└── tanh",
        "    └── c' = +",
        "        ├── ×",  # noqa: RUF001
        "        │   ├── f = σ lin(x, h)",  # noqa: RUF001
        "        │   └── c",
        "        └── ×",  # noqa: RUF001
        "            ├── i = σ lin(x, h)",  # noqa: RUF001
        "            └── g = tanh lin(x, h)",
        "out = h'",
    ]


def test_numbers_types_and_options_are_shown_and_shared_values_drawn_once() -> None:
    lines = drawn(
        "cell a { state S: mat; k = lin:key(x, bias=no); S' = 0.5 * S + outer(1 - k, lin(x)); out read(S', k) }"
    )
    assert lines == [
        "S' = +",
        "├── (0.5 × ·)(S)",  # noqa: RUF001
        "└── outer",
        "    ├── (1 - ·)",
        "    │   └── k = lin:key[bias=no](x)",
        "    └── lin(x)",
        "out = read(S', k)",
    ]


@pytest.mark.parametrize("name", zoo_names())
def test_every_known_cell_can_be_drawn(name: str) -> None:
    lines = drawn(name)
    assert lines[-1].strip()
    plain = [str(tree.label) for tree in draw(zoo(name), symbols=False)]
    assert all(label.isascii() for label in plain)
