"""What every search space keeps, small spaces whose derivations can all be written down, and rewritings of cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import product

import numpy as np

from grammar import OPS, Cell, Expr, Let, Out, State, make_cell, parse, ref
from search_spaces import Space
from search_spaces.derivation import OUT, Derivation, Equation, Tree, dead
from search_spaces.rules import Rules, nesting, operations
from search_spaces.sampling import state_names

# Lets of two kinds, two states, a list of operands.
TINY = """# A small space.
space tiny {
  limits size <= 3, depth <= 3
  require x, states
  state{1..2} vec
  let{0..2} -> vec [1] | gate [2]
  out -> $new
  vec -> tanh(vec) [2] | gate * vec | lin(OPS) [3] | $vec [2]
  gate: vec -> sigmoid(vec) [3] | $gate
  OPS: operands -> x, $vec [2] | x
}
"""
# The same, every new value being used.
NEW = TINY.replace("space tiny", "space news").replace("require x, states", "require x, states, new")
# References to the state itself, to new values, and to one name twice; states of two types; a least size.
SELF = """space self {
  limits size <= 7, size >= 2, states <= 2
  require x, states
  state{1..2} cell: vec -> step
  state{0..1} key: key = -inf -> slow
  let{0..1} -> gate
  out -> $cell
  step: vec -> lerp(gate, inp, $cell_self) | $gate.a * $cell_self + (1 - $gate.a) * inp
  slow: key -> max($key_self, lin:key(x)) | $key
  inp: vec -> lin(x) [2] | tanh(inp) | $cell
  gate: vec -> sigmoid(lin(x)) | $gate | 0.5 * gate
}
"""


def check_member(space: Space, cell: Cell) -> None:
    """A cell of a space parses, types, prints back to itself, and is within the limits."""
    text = str(cell)
    assert parse(text) is cell
    assert parse(cell.one_line) is cell
    assert cell in space, f"{space.why_not(cell)}\n{text}"
    exprs = [s.expr for s in cell.statements if isinstance(s, Let | Out)]
    size = sum(map(operations, exprs))
    assert space.limits.least_size <= size <= space.limits.size
    assert max(map(nesting, exprs)) <= space.limits.depth
    assert {s.name for s in cell.statements if isinstance(s, Let) and s.primed} == {
        f"{s.name}'" for s in cell.states
    }
    graph = cell.graph
    nodes, states = graph.live()
    if "states" in space.rules.require:
        assert states == {s.name for s in cell.states}, f"a state does not reach the output\n{text}"
    assert any(graph.nodes[i].op == "x" for i in nodes), f"x does not reach the output\n{text}"


# -- every derivation of a small space, written down without the counting code ----------------------


@cache
def derivations(space: Space) -> tuple[tuple[Derivation, float], ...]:
    """Each derivation that uses every let and is within the limits, and its weight given its plan."""
    return tuple(_derivations(space))


def _derivations(space: Space) -> Iterator[tuple[Derivation, float]]:
    rules = space.rules
    counts = product(*(range(s.least, s.most + 1) for s in rules.states))
    for numbers in counts:
        if rules.limits.states is not None and sum(numbers) > rules.limits.states:
            continue
        lines = [line for line, n in zip(rules.states, numbers, strict=True) for _ in range(n)]
        names = state_names(len(lines))
        states = tuple(State(n, line.type, line.init) for n, line in zip(names, lines, strict=True))
        for lets in range(rules.let.least, rules.let.most + 1):
            for choice in product(zip(rules.let.rules, rules.let.weights, strict=True), repeat=lets):
                heads = [(f"l{i}", rule) for i, (rule, _) in enumerate(choice)]
                heads += [(f"{s.name}'", line.rule) for s, line in zip(states, lines, strict=True)]
                weight = float(np.prod([w / sum(rules.let.weights) for _, w in choice]))
                for equations, w in _equations(rules, states, [*heads, (OUT, OUT)], (), rules.limits.size):
                    made = Derivation(space.name, states, equations)
                    used = {n for e in equations for n in e.tree.names()}
                    if (
                        all(e.name in used for e in made.lets())
                        and ("new" not in rules.require or news_used(made))
                        and made.size(rules) >= rules.limits.least_size
                    ):
                        yield made, weight * w


def news_used(made: Derivation) -> bool:
    """Whether an equation after it uses each new value."""
    names = [e.name for e in made.equations]
    later = [{n for e in made.equations[i + 1 :] for n in e.tree.names()} for i in range(len(names))]
    return all(name in used for name, used in zip(names, later, strict=True) if name.endswith("'"))


def _equations(
    rules: Rules,
    states: tuple[State, ...],
    heads: Sequence[tuple[str, str]],
    done: tuple[Equation, ...],
    left: int,
) -> Iterator[tuple[tuple[Equation, ...], float]]:
    if not heads:
        yield done, 1.0
        return
    (name, rule), *rest = heads
    blank = Derivation("", states, (*done, Equation(name, Tree(rule, 0))))
    scope = blank.scope(rules, len(done))
    for tree, weight in _trees(rules, rule, rules.limits.nesting, scope, left):
        size = tree.size(rules)
        if blank.equations[-1].kind == "let" and size == 0:
            continue
        for equations, w in _equations(rules, states, rest, (*done, Equation(name, tree)), left - size):
            yield equations, weight * w


def _trees(
    rules: Rules, rule: str, depth: int, scope: Mapping[str, tuple[str, ...]], left: int
) -> list[tuple[Tree, float]]:
    visible = {tag: tuple(n for n, classes in scope.items() if tag in classes) for tag in rules.tags}

    @cache
    def trees(rule: str, depth: int, left: int) -> list[tuple[Tree, float]]:
        found: list[tuple[Tree, float]] = []
        total = rules.rules[rule].total
        for number, p in enumerate(rules.rules[rule].productions):
            if p.depth > depth or p.ops > left:
                continue
            partial: list[tuple[tuple[Tree | str, ...], float, int]] = [((), p.weight / total, left - p.ops)]
            for h in p.holes:
                longer: list[tuple[tuple[Tree | str, ...], float, int]] = []
                for parts, w, n in partial:
                    if h.rule is None:
                        names = visible[h.tag]
                        longer += [((*parts, name), w / len(names), n) for name in names]
                    else:
                        for t, v in trees(h.rule, depth - h.depth, n):
                            longer.append(((*parts, t), w * v, n - t.size(rules)))
                partial = longer
            found += [(Tree(rule, number, parts), w) for parts, w, _ in partial]
        return found

    return trees(rule, depth, left)


def distribution(space: Space, by: str, size: int) -> dict[str, float]:
    """The exact probability of each text among cells of one size."""
    plans: dict[tuple[tuple[str, ...], int], dict[str, float]] = {}
    totals: dict[tuple[tuple[str, ...], int], float] = {}
    for made, weight in derivations(space):
        plan = (tuple(str(s.type) for s in made.states), len(made.lets()))
        totals[plan] = totals.get(plan, 0.0) + weight
        if made.size(space.rules) != size or dead(space.rules, made) is not None:
            continue
        texts = plans.setdefault(plan, {})
        text = unnamed(made.cell(space.rules))
        texts[text] = texts.get(text, 0.0) + (weight if by == "weights" else 1.0)
    found: dict[str, float] = {}
    for plan, texts in plans.items():
        for text, weight in texts.items():
            found[text] = found.get(text, 0.0) + (weight / totals[plan] if by == "weights" else weight)
    return {text: weight / sum(found.values()) for text, weight in found.items()}


def unnamed(cell: Cell) -> str:
    """The text with lets named in their order."""
    lets = [s.name for s in cell.statements if isinstance(s, Let) and not s.primed]
    return str(renamed(cell, {name: f"let{i}" for i, name in enumerate(lets)}))


# -- the same cell in other words -------------------------------------------------------------------


def rewritten(cell: Cell, rng: np.random.Generator) -> Cell:
    """Other names, another order of equations and operands, single-use lets written out, parts named."""
    body = {
        s.name if isinstance(s, Let) else OUT: s.expr for s in cell.statements if isinstance(s, Let | Out)
    }
    lets = [n for n in body if n != OUT and not n.endswith("'")]
    for name in lets:
        uses = sum(e.op == "ref" and e.attr("name") == name for expr in body.values() for e in expr.walk())
        if uses == 1 and rng.random() < 0.5:
            value = body.pop(name)
            body = {n: _replaced(e, ref(name), value) for n, e in body.items()}
    for i in range(int(rng.integers(3))):
        at = list(body)[int(rng.integers(len(body)))]
        parts = [e for e in body[at].walk() if e.op in OPS]
        if parts:
            part = parts[int(rng.integers(len(parts)))]
            body[at] = _named(body[at], part, f"part{i}")
            body[f"part{i}"] = part
    shuffled = [n for n in body if rng.random() < 0.5]
    shuffled += [n for n in body if n not in shuffled]
    exprs = {n: _swapped(body[n], rng) for n in shuffled}
    statements = [Out(e) if n == OUT else Let(n, e) for n, e in exprs.items()]
    states = [cell.states[i] for i in rng.permutation(len(cell.states))]
    made = make_cell("other", states, statements)
    names = [s.name for s in made.states] + [n for n in body if n != OUT and not n.endswith("'")]
    fresh = [f"q{i}" for i in rng.permutation(len(names))]
    return renamed(made, dict(zip(names, fresh, strict=True)))


def renamed(cell: Cell, names: Mapping[str, str]) -> Cell:
    """The cell with other names of states and lets."""
    every = dict(names) | {f"{old}'": f"{new}'" for old, new in names.items()}

    def inside(expr: Expr) -> Expr:
        if expr.op == "ref":
            return ref(every.get(str(expr.attr("name")), str(expr.attr("name"))))
        return Expr(expr.op, tuple(map(inside, expr.args)), expr.attrs)

    body: list[Let | Out] = []
    for s in cell.statements:
        if isinstance(s, Let):
            body.append(Let(every.get(s.name, s.name), inside(s.expr)))
        elif isinstance(s, Out):
            body.append(Out(inside(s.expr)))
    return make_cell(cell.name, [State(every.get(s.name, s.name), s.type, s.init) for s in cell.states], body)


def _replaced(expr: Expr, old: Expr, new: Expr) -> Expr:
    if expr == old:
        return new
    return Expr(expr.op, tuple(_replaced(a, old, new) for a in expr.args), expr.attrs)


def _named(expr: Expr, part: Expr, name: str) -> Expr:
    """The expression with a name in place of the part, the very object: an equal one has its own weights."""
    if expr is part:
        return ref(name)
    return Expr(expr.op, tuple(_named(a, part, name) for a in expr.args), expr.attrs)


def _swapped(expr: Expr, rng: np.random.Generator) -> Expr:
    args = [_swapped(a, rng) for a in expr.args]
    if expr.op == "lin" or (expr.op in OPS and OPS[expr.op].commutative):
        args = [args[i] for i in rng.permutation(len(args))]
    return Expr(expr.op, tuple(args), expr.attrs)
