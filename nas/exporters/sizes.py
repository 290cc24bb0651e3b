"""Sizes, initial values and initialisers of a cell's arrays as Python source."""

from __future__ import annotations

from fractions import Fraction

from grammar import Poly, State, Type, Value, Weight, WeightSpec, show_number
from nas.errors import ExportError

VARIABLES = ("D", "H", "N", "K")  # local names in `Layer.__init__`

_AXES = {
    "in": ("self.input_size",),
    "vec": ("self.hidden_size",),
    "cvec": ("self.hidden_size",),
    "scal": ("self.heads",),
    "key": ("self.heads", "self.key_size"),
    "mat": ("self.heads", "self.key_size", "self.hidden_size // self.heads"),
    "cmat": ("self.heads", "self.key_size", "self.hidden_size // self.heads"),
}


def size_text(poly: Poly) -> str:
    """A polynomial in D, H, N and K as a Python expression of whole numbers."""
    return " + ".join(_term(powers, coefficient) for powers, coefficient in poly.terms) or "0"


def _term(powers: tuple[int, ...], coefficient: Fraction) -> str:
    above = [str(coefficient.numerator)] if coefficient.numerator != 1 else []
    below = [str(coefficient.denominator)] if coefficient.denominator != 1 else []
    for name, power in zip(VARIABLES, powers, strict=True):
        (above if power > 0 else below).extend([name] * abs(power))
    text = " * ".join(above) or "1"
    return (
        text
        if not below
        else f"{text} // {below[0]}"
        if len(below) == 1
        else f"{text} // ({' * '.join(below)})"
    )


def axes(of: Type) -> tuple[str, ...]:
    """The sizes of one value of a type without the batch, as expressions that hold inside `Layer`."""
    return (str(of.size),) if of.kind == "mem" else _AXES[of.kind]


def init_source(spec: WeightSpec, weight: Weight) -> str:
    """An expression that makes an array of a weight inside `Layer.__init__`, initialised as the text says."""
    sizes = [size_text(extent) for extent in spec.shape] + (["2"] if spec.complex else [])
    fixed = ", requires_grad=False" if weight.fixed else ""
    # The option `init` is for the maps: beside them a bias begins at 0.
    init = 0 if weight.init is not None and spec.role.startswith("b") else weight.init
    if init is None and weight.op not in ("diag", "param"):
        made = f"uniform({', '.join(sizes)}, fan_in={size_text(spec.fan_in)})"
        return made if not weight.fixed else f"{made}.requires_grad_(False)"
    default: Value = ("uniform", -1, 1) if weight.op == "diag" else 0
    value = _initialised(", ".join(sizes), default if init is None else init, spec.complex)
    return f"nn.Parameter({value}{fixed})"


def _initialised(sizes: str, init: Value, is_complex: bool) -> str:
    kind, *numbers = init if isinstance(init, tuple) else (init,)
    given = [show_number(float(n)) for n in numbers]
    if isinstance(kind, str) and kind in ("legt_a", "legt_b"):
        return f'legt("{kind[-1].upper()}", {sizes}, theta={given[0]})'
    if kind == "fourier":
        return f"fourier({sizes}, sign={given[0]})"
    if kind == "permutation":
        return f"permutation({sizes}, pairs={is_complex})"
    if kind == "uniform":
        return f"torch.empty({sizes}).uniform_({', '.join(given)})"
    if kind == "normal":
        return f"torch.randn({sizes}) * {given[0]}"
    if kind == "orthogonal":
        return f"orthogonal({sizes}, gain={given[0] if given else 1}, pairs={is_complex})"
    if kind == "log_uniform":
        return f"torch.empty({sizes}).uniform_(math.log({given[0]}), math.log({given[1]})).exp()"
    number = {"zeros": 0, "ones": 1}.get(kind, kind) if isinstance(kind, str) else kind
    if isinstance(number, int | float):
        if number == 0:
            return f"torch.zeros({sizes})"
        if is_complex:
            return f"torch.tensor([{float(number)!r}, 0.0]).expand({sizes}).clone()"
        return f"torch.full(({sizes},), {float(number)!r})"
    raise ExportError(f"export does not know the initial value {init!r}")


def fill_text(state: State) -> str:
    """The number that a state begins with, as Python. A learned one is not a number."""
    if isinstance(state.init, str):
        raise ExportError(f"export does not know the initial value {state.init!r} of state {state.name}")
    return f'float("{state.init}")' if abs(state.init) == float("inf") else f"{float(state.init)!r}"
