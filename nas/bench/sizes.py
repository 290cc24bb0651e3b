"""The sizes that cells are timed at."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nas.errors import BenchError


@dataclass(frozen=True)
class BenchSize:
    """B sequences of T steps, H = D wide, N heads."""

    name: str
    batch: int
    steps: int
    width: int
    heads: int = 1

    def __str__(self) -> str:
        heads = f", {self.heads} heads" if self.heads > 1 else ""
        return f"{self.name} (B {self.batch}, T {self.steps}, H {self.width}{heads})"


SIZES = {
    size.name: size
    for size in (
        BenchSize("S", 8, 64, 64),
        BenchSize("M", 32, 128, 64),
        BenchSize("L", 16, 128, 128),
        BenchSize("G", 16, 1024, 768, 12),  # for a GPU
    )
}


def read_sizes(text: str, heads: int | None = None) -> tuple[BenchSize, ...]:
    """The sizes of a list such as `S,M,16x128x96` (B x T x H, or B x T x H x N); `heads` replaces theirs.

    Raises BenchError for what is none.
    """
    found = []
    for word in text.split(","):
        numbers = re.fullmatch(r"(\d+)x(\d+)x(\d+)(?:x(\d+))?", word.strip())
        if word.strip() in SIZES:
            size = SIZES[word.strip()]
        elif numbers:
            batch, steps, width, own = (int(n or 1) for n in numbers.groups())
            size = BenchSize(word.strip(), batch, steps, width, own)
        else:
            raise BenchError(
                f"a size is {', '.join(SIZES)}, or BxTxH such as 16x128x96, or BxTxHxN; received {word.strip()!r}"
            )
        size = BenchSize(size.name, size.batch, size.steps, size.width, heads or size.heads)
        if min(size.batch, size.steps, size.width, size.heads) < 1 or size.width % size.heads:
            raise BenchError(f"sizes are at least 1 and N divides H; received {size}")
        found.append(size)
    return tuple(found)
