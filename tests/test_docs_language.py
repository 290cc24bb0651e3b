"""docs/language.md names every operation, type and option of the language, and its cells parse."""

from __future__ import annotations

import re
from pathlib import Path

from grammar import KEYWORDS, NAMED, OPS, parse, zoo

TEXT = (Path(__file__).parents[1] / "docs" / "language.md").read_text(encoding="utf-8")


def test_every_operation_type_option_and_keyword_is_there() -> None:
    words = set(re.findall(r"[A-Za-z_][A-Za-z0-9_]*", TEXT))
    options = {option for op in OPS.values() for option in op.options}
    missing = (OPS.keys() | NAMED.keys() | options | set(KEYWORDS)) - words
    assert not missing


def test_the_first_cell_is_the_gru_of_the_zoo() -> None:
    block = re.search(r"^    cell gru \{.*?^    \}", TEXT, re.M | re.S)
    assert block
    assert parse(block.group()).digest == zoo("gru").digest
