"""Hypothesis strategies that several tests share: untyped trees for the printer, and well-typed cells.

Cells are drawn from the table of operations itself, so a new row is exercised as soon as it stands there.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st

from grammar import (
    CMAT,
    CVEC,
    IN,
    KEY,
    MAT,
    NUM,
    OPS,
    SCAL,
    SEQ,
    VEC,
    Cell,
    Depth,
    Expr,
    GrammarError,
    Leaf,
    Let,
    Out,
    Repeat,
    State,
    Statement,
    Type,
    X,
    call,
    choice,
    init_weights,
    make_cell,
    num,
    ref,
)
from grammar.ops import Value

# Sizes at which every drawn cell can be built (blocks=2 divides all widths): D = H where x stands for a vec.
HIDDEN, HEADS, KEYS = 8, 2, 3
MEM = Type("mem", 4)

_TIME_TYPES = (IN, VEC, KEY, SCAL, MAT, CVEC, CMAT, MEM)
_STATE_TYPES = (VEC, VEC, VEC, KEY, SCAL, MAT, CVEC, CMAT, MEM)
_STATE_NAMES = ("h", "c", "S", "m")
# These need a kind of cell or options and are drawn apart, but for `top`, which jumps where rounding may differ.
_ELSEWHERE = ("attn", "posemb", "sum", "lin", "param", "top")


def input_size(cell: Cell) -> int:
    """An input size at which the cell can be built with `HIDDEN`."""
    return HIDDEN if cell.graph.equal_width else 6


def key_size(cell: Cell) -> int:
    """A key size at which the cell can be built with `HIDDEN` and `HEADS`: V where it sees a val as a key."""
    return HIDDEN // HEADS if cell.graph.k_is_v else KEYS


def example(
    cell: Cell, rng: np.random.Generator, sets: Sequence[int] = (), lead: Sequence[int] = (), steps: int = 5
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, Any]]:
    """x, weights and the other arguments of `evaluate` for a cell: two samples, in a tree four leaves."""
    width = input_size(cell)
    sizes = {"hidden_size": HIDDEN, "heads": HEADS, "key_size": key_size(cell)}
    drawn = init_weights(
        cell, rng, input_size=width, hidden_size=HIDDEN, heads=HEADS, key_size=key_size(cell), sets=sets
    )
    # What starts as 0 or 1 would hide differences.
    weights = {name: array + 0.1 * rng.standard_normal(array.shape) for name, array in drawn.items()}
    if cell.kind != "tree":
        return rng.standard_normal((*lead, 2, steps, width)), weights, sizes
    tree = np.array([[[0, 1], [2, 3], [4, 5]], [[1, 2], [4, 0], [3, 5]]])
    return rng.standard_normal((*lead, 2, 4, width)), weights, sizes | {"tree": tree}


# ---- expressions of any kind, for the printer --------------------------------------------------

_NAMES = st.sampled_from(("a", "b", "gate", "h", "c'", "h'", "_u1"))
# What the text can hold: the parser reads a positive number behind a minus as one number.
_NUMBERS = st.one_of(
    st.integers(-1000, 1000).map(float),
    st.floats(allow_nan=False, allow_infinity=False, width=64),
).map(lambda v: v + 0.0)


def exprs(holes: bool = True) -> st.SearchStrategy[Expr]:
    """Any tree that a text can describe, well-typed or not; with `holes` also `choice{...}`."""
    leaves = st.one_of(
        st.just(X),
        _NUMBERS.map(num),
        _NAMES.map(ref),
        st.just(Expr("child", (), (("child", "l"), ("state", "h")))),
    )
    return st.recursive(leaves, lambda inner: _compound(inner, holes), max_leaves=12)


def _compound(inner: st.SearchStrategy[Expr], holes: bool) -> st.SearchStrategy[Expr]:
    calls = st.sampled_from(sorted(OPS)).flatmap(lambda name: _any_call(name, inner))
    if not holes:
        return calls
    weighted = st.tuples(inner, st.sampled_from((1.0, 2.0, 0.25)))
    choices = st.lists(weighted, min_size=1, max_size=3).map(
        lambda given: choice([option for option, _ in given], [weight for _, weight in given])
    )
    return st.one_of(calls, calls, choices)


@st.composite
def _any_call(draw: st.DrawFn, name: str, inner: st.SearchStrategy[Expr]) -> Expr:
    op = OPS[name]
    least, most = op.arity
    args = tuple(draw(st.lists(inner, min_size=least, max_size=least + 2 if most is None else most)))
    if name == "neg" and args[0].op == "num":
        args = (ref("a"),)
    type_ = draw(st.sampled_from((None, VEC, KEY, SCAL, MAT, CVEC, SEQ, MEM))) if op.typed else None
    chosen = draw(st.lists(st.sampled_from(op.options), unique=True)) if op.options else []
    return call(name, args, type_, [(key, draw(_VALUES[key]), None) for key in chosen])


_POSITIVE = st.floats(0.0009765625, 1000.0, allow_nan=False).map(float)
_VALUES: dict[str, st.SearchStrategy[Value]] = {
    "bias": st.booleans(),
    "transpose": st.booleans(),
    "fixed": st.booleans(),
    "causal": st.booleans(),
    "blocks": st.one_of(st.integers(1, 64), st.just("heads")),
    "rank": st.integers(1, 64),
    "k": st.integers(1, 8),
    "ratio": st.integers(1, 8),
    "part": st.floats(0.0009765625, 1),
    "share": st.sampled_from(("w", "embedding", "u_1")),
    "init": st.one_of(
        st.sampled_from(("zeros", "ones")),
        st.integers(-3, 3),
        st.tuples(st.just("uniform"), _POSITIVE.map(lambda v: -v), _POSITIVE),
        st.tuples(st.just("normal"), _POSITIVE),
        st.tuples(st.just("orthogonal"), _POSITIVE),
        st.tuples(st.just("log_uniform"), _POSITIVE, _POSITIVE),
    ),
}


# ---- well-typed cells --------------------------------------------------------------------------


@dataclass(slots=True)
class _Env:
    """What an equation may use: values by type, x or not, and which operations."""

    kind: str
    types: tuple[Type, ...]
    values: dict[Type, list[Expr]] = field(default_factory=dict)
    has_x: bool = True
    smooth: bool = False
    weights: bool = True
    linear: bool = False
    k_is_v: bool = False  # operations that need K = V too; other cells are built with K and V that differ

    def add(self, type_: Type, expr: Expr) -> None:
        self.values.setdefault(type_, []).append(expr)

    def copy(self) -> _Env:
        return replace(self, values={t: list(v) for t, v in self.values.items()})


@cache
def _productions(kind: str) -> dict[Type, tuple[tuple[str, tuple[Type, ...]], ...]]:
    """result type -> (operation, types of its operands), read off the table's type rules."""
    types = (SEQ, SCAL, NUM) if kind == "depth" else (*_TIME_TYPES, NUM)
    found: dict[Type, list[tuple[str, tuple[Type, ...]]]] = {}
    for op in OPS.values():
        if op.name in _ELSEWHERE or (kind == "tree" and op.name in ("shift", "conv")):
            continue
        for arity in range(op.arity[0], (op.arity[1] or 2) + 1):
            for operands in itertools.product(types, repeat=arity):
                try:
                    result = op.rule(operands, {})
                except GrammarError:
                    continue
                if result != NUM:
                    found.setdefault(result, []).append((op.name, operands))
    return {t: tuple(p) for t, p in found.items()}


# Wild values (poles, overflow, branch cuts) make comparisons of numbers empty.
_WILD = ("div", "log", "sqrt", "exp", "square", "modrelu", "softmax", "reflect")


# What recurrences are made of; drawn more often than the rest.
_COMMON = ("add", "mul", "lerp", "sub", "outer", "read", "readt", "max", "dot")


def _leaf(draw: st.DrawFn, env: _Env, want: Type) -> Expr:
    options = list(env.values.get(want, ()))
    if want == NUM:
        return num(draw(st.sampled_from((-1.0, 0.5, 1.0, 2.0, 0.0))))
    if want == IN:
        return draw(st.sampled_from([X, *options]))
    if not options or draw(st.integers(0, 3)) == 3:
        if env.has_x and env.weights and draw(st.booleans()):
            return _typed("lin", (X,), want, env)
        options.append(_typed("param", (), want, env) if want != SEQ else _typed("lin", (X,), want, env))
    return draw(st.sampled_from(options))


def _typed(name: str, args: tuple[Expr, ...], want: Type, env: _Env, *options: tuple[str, Value]) -> Expr:
    implied = VEC if env.kind != "depth" or name == "param" else SEQ
    return call(name, args, None if want == implied else want, [(k, v, None) for k, v in options])


def _lin(draw: st.DrawFn, env: _Env, want: Type, fuel: int) -> Expr:
    real = [t for t in env.types if not t.is_complex and (t != IN or env.has_x)]
    allowed = [t for t in env.types if t != IN or env.has_x] if want.is_complex else real
    if env.kind == "depth":
        allowed = [SEQ, IN] if want in (SEQ, SCAL) else [IN]
    kinds = draw(st.lists(st.sampled_from(allowed), min_size=1, max_size=3))
    args = tuple(_expr(draw, env, t, (fuel - 1) // len(kinds)) for t in kinds)
    options: list[tuple[str, Value]] = []
    if draw(st.integers(0, 3)) == 3:
        options.append(("bias", False))
    form = draw(st.integers(0, 9))
    if form == 8:
        options.append(("rank", 2))
    elif form == 9 and IN not in kinds:
        blocks: Value = "heads" if draw(st.booleans()) else 2
        options.append(("blocks", blocks))
    if draw(st.integers(0, 9)) == 9:
        options.append(("init", ("normal", 0.5)))
    return _typed("lin", args, want, env, *options)


def _expr(draw: st.DrawFn, env: _Env, want: Type, fuel: int) -> Expr:
    """An expression of type `want` with about `fuel` operations."""
    if fuel <= 0 or want == NUM:
        return _leaf(draw, env, want)
    choices = [p for p in _productions(env.kind).get(want, ()) if _usable(p, env)]
    if want != IN and env.weights and (not choices or draw(st.integers(0, 3)) == 3):
        return _lin(draw, env, want, fuel)
    if not choices:
        return _leaf(draw, env, want)
    names = list(dict.fromkeys(op for op, _ in choices))
    common = [n for n in names if n in _COMMON]
    name = draw(st.sampled_from(common if env.linear and common else common * 3 + names))
    operands = draw(st.sampled_from([types for op, types in choices if op == name]))
    share = (fuel - 1) // max(1, len(operands))
    args = tuple(_expr(draw, env, t, share) for t in operands)
    if name == "neg" and args[0].op == "num":
        return args[0]
    if name == "conv":
        return call(name, args, None, [("k", draw(st.integers(1, 4)), None)])
    return call(name, args)


def _usable(production: tuple[str, tuple[Type, ...]], env: _Env) -> bool:
    name, operands = production
    if (env.smooth and name in _WILD) or (not env.weights and OPS[name].weights):
        return False
    if OPS[name].k_is_v and not env.k_is_v:
        return False
    return env.has_x or IN not in operands


@st.composite
def cells(
    draw: st.DrawFn,
    kinds: Sequence[str] = ("time",),
    fuel: int = 8,
    smooth: bool = False,
    weights: bool = True,
    states: Sequence[Type] = _STATE_TYPES,
    linear: bool = False,
) -> Cell:
    """A random well-typed cell of one of `kinds` ("time", "tree", "depth"), with dead code and repetition.

    `fuel` bounds the operations of one equation. `smooth` leaves out what overflows or has poles;
    without `weights` the only parameters are `param`. Of time and tree cells, `states` are the types
    that states may have; with `linear` most operations are those that recurrences are made of.
    """
    kind = draw(st.sampled_from(list(kinds)))
    drawn = {"time": _time_cell, "tree": _tree_cell, "depth": _depth_cell}[kind]
    k_is_v = draw(st.integers(0, 3)) == 3
    env = _Env(kind, _TIME_TYPES, smooth=smooth, weights=weights, linear=linear, k_is_v=k_is_v)
    return drawn(draw, env, fuel, states)


def _time_cell(draw: st.DrawFn, env: _Env, fuel: int, types: Sequence[Type]) -> Cell:
    states = _states(draw, types)
    for state in states:
        env.add(state.type, ref(state.name))
    repeated = draw(st.lists(st.sampled_from(states), unique=True)) if draw(st.integers(0, 4)) == 4 else []
    body = _lets(draw, env, "u", fuel)
    if repeated:
        inside = env.copy()
        inner = [*_lets(draw, inside, "r", fuel // 2), *_updates(draw, inside, repeated, fuel // 2)]
        times, fresh = draw(st.integers(1, 3)), draw(st.booleans())
        body.append(Repeat(times, fresh, tuple(draw(st.permutations(inner)))))
        for state in repeated:
            env.add(state.type, ref(f"{state.name}'"))
    body += _updates(draw, env, [s for s in states if s not in repeated], fuel)
    body += _lets(draw, env, "v", fuel)
    body.append(Out(_expr(draw, env, VEC, fuel)))
    return make_cell("random", states, draw(st.permutations(body)))


def _tree_cell(draw: st.DrawFn, env: _Env, fuel: int, types: Sequence[Type]) -> Cell:
    states = _states(draw, types, init=False)
    variadic = draw(st.booleans())
    children = ("k",) if variadic else ("l", "r")
    leaf = Leaf(tuple(draw(st.permutations(_updates(draw, env.copy(), states, fuel // 2)))))
    env = replace(env, has_x=False)
    inner = env.copy()
    for child, state in itertools.product(children, states):
        inner.add(state.type, Expr("child", (), (("child", child), ("state", state.name))))
    if variadic:
        for state in states:
            arg = _expr(draw, inner, state.type, fuel // 2)
            if any(e.op == "child" for e in arg.walk()):
                env.add(state.type, call("sum", (arg,)))
    else:
        env = inner
    repeated = draw(st.lists(st.sampled_from(states), unique=True)) if draw(st.integers(0, 3)) == 3 else []
    body = _lets(draw, env, "u", fuel)
    if repeated:
        body.append(_tree_block(draw, env.copy(), repeated, fuel // 2))
        for state in repeated:
            env.add(state.type, ref(f"{state.name}'"))
    body += _updates(draw, env, [s for s in states if s not in repeated], fuel)
    body.append(Out(_expr(draw, env, VEC, fuel)))
    return make_cell("random", states, [leaf, *draw(st.permutations(body))], children, variadic)


def _tree_block(draw: st.DrawFn, env: _Env, states: list[State], fuel: int) -> Repeat | Depth:
    """A block in which some states of a tree cell have a value from round to round."""
    for state in states:
        env.add(state.type, ref(state.name))
    times = draw(st.integers(1, 3))
    until = call("sigmoid", (_expr(draw, env, SCAL, 2),)) if draw(st.booleans()) else None
    inner = tuple(draw(st.permutations([*_lets(draw, env, "r", fuel), *_updates(draw, env, states, fuel)])))
    if until is not None or draw(st.booleans()):
        return Depth(times, until, inner)
    return Repeat(times, draw(st.booleans()), inner)


def _depth_cell(draw: st.DrawFn, env: _Env, fuel: int, types: Sequence[Type]) -> Cell:
    names = _STATE_NAMES[: draw(st.integers(1, 2))]
    begins: list[float | str] = ["x", 0.0, "learned"]
    states = [State(n, SEQ, draw(st.sampled_from(begins))) for n in names]
    env = replace(env, types=(SEQ, SCAL))
    for state in states:
        env.add(SEQ, ref(state.name))
    env.add(SEQ, call("posemb", ()))
    body = _lets(draw, env, "u", fuel)
    inside = env.copy()
    for ours in states:
        inside.add(SEQ, call("attn", (ref(ours.name),), None, [("causal", draw(st.booleans()), None)]))
    inner = _updates(draw, inside, states, fuel)
    until = call("sigmoid", (_expr(draw, inside, SCAL, 2),)) if draw(st.booleans()) else None
    body.append(Depth(draw(st.integers(1, 3)), until, tuple(inner)))
    for state in states:
        env.add(SEQ, ref(f"{state.name}'"))
    body.append(Out(_expr(draw, env, SEQ, fuel)))
    return make_cell("random", states, draw(st.permutations(body)))


def _states(draw: st.DrawFn, types: Sequence[Type], init: bool = True) -> list[State]:
    count = draw(st.integers(1, 3))
    inits: tuple[float | str, ...] = (0.0, 0.0, 1.0, "learned") if init else (0.0,)
    return [
        State(name, draw(st.sampled_from(types)), draw(st.sampled_from(inits)))
        for name in _STATE_NAMES[:count]
    ]


def _lets(draw: st.DrawFn, env: _Env, prefix: str, fuel: int) -> list[Statement]:
    made: list[Statement] = []
    for i in range(draw(st.integers(0, 2))):
        usable = [t for t in env.types if t != IN or env.has_x]
        type_ = draw(st.sampled_from(usable))
        name = f"{prefix}{i}"
        made.append(Let(name, _expr(draw, env, type_, draw(st.integers(1, max(1, fuel))))))
        env.add(type_, ref(name))
    return made


def _updates(draw: st.DrawFn, env: _Env, states: Sequence[State], fuel: int) -> list[Statement]:
    made: list[Statement] = []
    for state in draw(st.permutations(list(states))):
        expr = _expr(draw, env, state.type, draw(st.integers(1, max(1, fuel))))
        made.append(Let(f"{state.name}'", expr))
        env.add(state.type, ref(f"{state.name}'"))
    return made
