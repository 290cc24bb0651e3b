"""The options of operations: their defaults, and what each may be."""

from __future__ import annotations

import math
from collections.abc import Sequence

from grammar.ops import Attrs, Value

# Options whose value equals the default are not part of the tree.
DEFAULTS: Attrs = {
    "bias": True,
    "blocks": 1,
    "transpose": False,
    "fixed": False,
    "causal": False,
    "ratio": 4,
    "part": 0.5,
    "k": 4,
}
_INITS = {
    "zeros": 0, "ones": 0, "uniform": 2, "normal": 1, "orthogonal": 1, "log_uniform": 2,
    "permutation": 0, "fourier": 1, "legt_a": 1, "legt_b": 1,
}  # fmt: skip


def option_problem(key: str, value: Value) -> str | None:
    """The rule that an option breaks, or None."""
    if key in ("bias", "transpose", "fixed", "causal"):
        return None if isinstance(value, bool) else f"`{key}` is yes or no"
    if key == "blocks":
        whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 4096
        return None if whole or value == "heads" else "`blocks` is a whole number from 1 to 4096, or heads"
    if key in ("rank", "k", "ratio"):
        whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 4096
        return None if whole else f"`{key}` is a whole number from 1 to 4096"
    if key == "part":
        number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1
        return None if number else "`part` is a number above 0, at most 1"
    if key == "share":
        return None if isinstance(value, str) else "`share` is a name"
    if key == "init":
        if isinstance(value, int | float) and not isinstance(value, bool):
            return None
        name, *numbers = value if isinstance(value, tuple) else (value,)
        if name in _INITS and len(numbers) == _INITS[str(name)]:
            return _draw_problem(str(name), numbers)
        return (
            "`init` is a number, zeros, ones, uniform(a, b), normal(sd), orthogonal(gain), log_uniform(a, b), "
            "permutation, fourier(1), fourier(-1), legt_a(theta) or legt_b(theta)"
        )
    return None


def _draw_problem(name: str, numbers: Sequence[Value]) -> str | None:
    """The rule that the numbers of an initial value break, or None."""
    values = [float(n) for n in numbers if isinstance(n, int | float)]
    match name:
        case "uniform" if values[0] > values[1]:
            return "uniform(a, b) has a <= b"
        case "uniform" if not math.isfinite(values[1] - values[0]):
            return "uniform(a, b) has a finite b - a"
        case "log_uniform" if not 0 < values[0] <= values[1]:
            return "log_uniform(a, b) has 0 < a <= b"
        case "normal" if values[0] < 0:
            return "normal(sd) has sd >= 0"
    return None
