"""What a server of predictors takes from a client: more is refused before any work is done for it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from nas.errors import ServingError


@dataclass(frozen=True)
class Limits:
    """Of one request: bytes of its body, cells, characters of a cell. Of one cell: processor seconds to encode it.

    `waiting` cells are held at most until an encoder is free; `kept` answers are remembered. The head of a request has
    to arrive within `head_seconds`, its body within `body_seconds`, and an answer is made within `answer_seconds`.
    Raises ServingError for what is not positive and finite.
    """

    body: int = 1 << 20
    cells: int = 100
    text: int = 20_000
    seconds: float = 10.0
    waiting: int = 1_000
    kept: int = 50_000
    head_seconds: float = 10.0
    body_seconds: float = 15.0
    answer_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 < value < math.inf:
                raise ServingError(
                    f"the limit {name!r} of a server is positive and finite; received {value!r}"
                )
