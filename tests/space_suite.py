"""What every search space keeps, small spaces whose derivations can all be written down, and rewritings of cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np

from grammar import OPS, Cell, Depth, Expr, Leaf, Let, Out, State, Statement, make_cell, parse, ref
from search_spaces import GrammarSpace, Space, load_space, space_names
from search_spaces.derivation import LEAF, OUT, Derivation, Equation, Tree, dead
from search_spaces.matching import unused_let
from search_spaces.places import Places
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
# No state of either line is a must, one of any is.
SOME = """space some {
  limits size <= 5, states >= 1, states <= 2
  require x
  state{0..1} slow: vec -> step
  state{0..2} fast: vec = 1 -> step
  out -> step
  step: vec -> tanh(step) | $slow | $fast [2] | lin(x)
}
"""
# Over trees: two children or any number, values at leaves that see those before them.
TREES = """space trees {
  limits size <= 6
  require x, states
  children -> l, r | *k
  state{1..2} vec -> up leaf start
  let{0..1} -> total
  out -> $new
  up: vec -> tanh(total) [2] | $self_l * total | sum($self_k) | $new
  total: vec -> $vec_l + $vec_r | sum($vec_k * $vec_k) | $total [2]
  start: vec -> lin(x) [2] | tanh($new)
}
"""


def grammar_space(space: str | Space) -> GrammarSpace:
    """A space of rules, by name."""
    found = load_space(space) if isinstance(space, str) else space
    assert isinstance(found, GrammarSpace)
    return found


# The shipped spaces that are given by rules.
RULED = [name for name in space_names() if isinstance(load_space(name), GrammarSpace)]


def check_member(space: Space, cell: Cell) -> None:
    """A cell of a space parses, types, prints back to itself, and is within the limits."""
    text = str(cell)
    assert parse(text) is cell
    assert parse(cell.one_line) is cell
    graph = cell.graph  # raises if the cell is not well formed
    assert cell in space, f"{space.why_not(cell)}\n{text}"
    exprs = [e.expr for e in Places(cell.statements).equations.values()]
    size = sum(map(operations, exprs))
    assert space.limits.least_size <= size <= space.limits.size
    assert max(map(nesting, exprs)) <= space.limits.depth
    assert unused_let(cell) is None
    assert cell.states, "a recurrent cell has a state"
    assert space.limits.holds(len(cell.states))
    nodes, states = graph.live()
    if isinstance(space, GrammarSpace) and "states" in space.rules.require:
        assert states == {s.name for s in cell.states}, f"a state does not reach the output\n{text}"
    if isinstance(space, GrammarSpace) and "x" in space.rules.require:
        assert any(graph.nodes[i].op == "x" for i in nodes), f"x does not reach the output\n{text}"


# -- every derivation of a small space, written down without the counting code ----------------------


@cache
def derivations(space: GrammarSpace) -> tuple[tuple[Derivation, float], ...]:
    """Each derivation that uses every let and is within the limits, and its weight given its plan."""
    return tuple(_derivations(space))


def _derivations(space: GrammarSpace) -> Iterator[tuple[Derivation, float]]:
    rules = space.rules
    counts = product(*(range(s.least, s.most + 1) for s in rules.states))
    for numbers, form in product(counts, rules.forms):
        most = rules.limits.states
        if sum(numbers) < rules.limits.least_states or (most is not None and sum(numbers) > most):
            continue
        lines = [line for line, n in zip(rules.states, numbers, strict=True) for _ in range(n)]
        names = state_names(len(lines), rules)
        states = tuple(State(n, line.type, line.init) for n, line in zip(names, lines, strict=True))
        for lets in range(rules.let.least, rules.let.most + 1):
            for choice in product(zip(rules.let.rules, rules.let.weights, strict=True), repeat=lets):
                heads = [(f"l{i}", rule) for i, (rule, _) in enumerate(choice)]
                heads += [(f"{s.name}'", line.rule) for s, line in zip(states, lines, strict=True)]
                heads.append((OUT, OUT))
                if form.children:
                    heads += [(f"{LEAF}{s.name}'", line.leaf) for s, line in zip(states, lines, strict=True)]
                weight = float(np.prod([w / sum(rules.let.weights) for _, w in choice]))
                blank = Derivation(space.name, states, (), form)
                for made, w in _equations(rules, blank, heads, rules.limits.size):
                    used = {n for e in made.equations for n in e.tree.names()}
                    if (
                        all(e.name in used for e in made.lets())
                        and ("new" not in rules.require or news_used(made))
                        and made.size(rules) >= rules.limits.least_size
                    ):
                        yield made, weight * w


def plan_of(made: Derivation) -> tuple[object, ...]:
    """What is drawn first: children, states, and how many lets."""
    return made.form, tuple((str(s.type), s.init) for s in made.states), len(made.lets())


def news_used(made: Derivation) -> bool:
    """Whether an equation after it uses each new value."""
    names = [e.name for e in made.equations]
    later = [{n for e in made.equations[i + 1 :] for n in e.tree.names()} for i in range(len(names))]
    return all(name in used for name, used in zip(names, later, strict=True) if name.endswith("'"))


def _equations(
    rules: Rules, done: Derivation, heads: Sequence[tuple[str, str]], left: int
) -> Iterator[tuple[Derivation, float]]:
    if not heads:
        yield done, 1.0
        return
    (name, rule), *rest = heads
    blank = replace(done, equations=(*done.equations, Equation(name, Tree(rule, 0))))
    scope = blank.scope(rules, len(done.equations))
    for tree, weight in _trees(rules, rule, rules.limits.nesting, scope, left):
        size = tree.size(rules)
        if blank.equations[-1].kind == "let" and size == 0:
            continue
        longer = replace(done, equations=(*done.equations, Equation(name, tree)))
        for made, w in _equations(rules, longer, rest, left - size):
            yield made, weight * w


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


def distribution(space: GrammarSpace, by: str, size: int) -> dict[str, float]:
    """The exact probability of each text among cells of one size."""
    plans: dict[object, dict[str, float]] = {}
    totals: dict[object, float] = {}
    for made, weight in derivations(space):
        plan = plan_of(made)
        totals[plan] = totals.get(plan, 0.0) + weight
        if made.size(space.rules) != size or dead(space.rules, made) is not None:
            continue
        texts = plans.setdefault(plan, {})
        text = unnamed(made.cell(space.rules))
        texts[text] = texts.get(text, 0.0) + (weight if by == "weights" else 1.0)
    found: dict[str, float] = {}
    for key, texts in plans.items():
        for text, weight in texts.items():
            found[text] = found.get(text, 0.0) + (weight / totals[key] if by == "weights" else weight)
    return {text: weight / sum(found.values()) for text, weight in found.items()}


def unnamed(cell: Cell) -> str:
    """The text with lets named in their order."""
    lets = [s.name for s in cell.statements if isinstance(s, Let) and not s.primed]
    return str(renamed(cell, {name: f"let{i}" for i, name in enumerate(lets)}))


# -- the same cell in other words -------------------------------------------------------------------


def rewritten(cell: Cell, rng: np.random.Generator) -> Cell:
    """Other names and orders of equations and operands; without blocks also lets written out and parts named."""
    body = {
        s.name if isinstance(s, Let) else OUT: s.expr for s in cell.statements if isinstance(s, Let | Out)
    }
    blocks = [s for s in cell.statements if not isinstance(s, Let | Out)]
    if all(isinstance(s, Leaf) for s in blocks):
        body = _written_otherwise(body, rng)
    shuffled = [n for n in body if rng.random() < 0.5]
    shuffled += [n for n in body if n not in shuffled]
    statements: list[Statement] = [Out(body[n]) if n == OUT else Let(n, body[n]) for n in shuffled]
    for block in blocks:
        statements.insert(int(rng.integers(len(statements) + 1)), block)
    statements = [_mapped(s, lambda e: _swapped(e, rng)) for s in statements]
    states = [cell.states[i] for i in rng.permutation(len(cell.states))]
    made = make_cell("other", states, statements, cell.tree.children, cell.tree.variadic)
    lets = [e.name for e in Places(statements).equations.values() if e.let]
    names = list(dict.fromkeys([*(s.name for s in made.states), *lets, *made.tree.children]))
    fresh = [f"q{i}" for i in rng.permutation(len(names))]
    return renamed(made, dict(zip(names, fresh, strict=True)))


def _written_otherwise(body: dict[str, Expr], rng: np.random.Generator) -> dict[str, Expr]:
    for name in [n for n in body if n != OUT and not n.endswith("'")]:
        uses = sum(e.op == "ref" and e.attr("name") == name for expr in body.values() for e in expr.walk())
        if uses == 1 and rng.random() < 0.5:
            value = body.pop(name)
            body = {n: _replaced(e, ref(name), value) for n, e in body.items()}
    for i in range(int(rng.integers(3))):
        at = list(body)[int(rng.integers(len(body)))]
        # What is inside of a sum is of each child, and no value of its own.
        parts = [e for e in _outside_sums(body[at]) if e.op in OPS]
        if parts:
            part = parts[int(rng.integers(len(parts)))]
            body[at] = _named(body[at], part, f"part{i}")
            body[f"part{i}"] = part
    return body


def _outside_sums(expr: Expr) -> Iterator[Expr]:
    yield expr
    if expr.op != "sum":
        for a in expr.args:
            yield from _outside_sums(a)


def _mapped(statement: Statement, change: Callable[[Expr], Expr]) -> Statement:
    """The statement with changed expressions."""
    if isinstance(statement, Let | Out):
        return replace(statement, expr=change(statement.expr))
    inner = tuple(_mapped(s, change) for s in statement.body)
    if isinstance(statement, Depth) and statement.until is not None:
        return replace(statement, body=inner, until=change(statement.until))
    return replace(statement, body=inner)


def renamed(cell: Cell, names: Mapping[str, str]) -> Cell:
    """The cell with other names of states, lets and children."""
    every = dict(names) | {f"{old}'": f"{new}'" for old, new in names.items()}

    def inside(expr: Expr) -> Expr:
        attrs = expr.attrs
        if expr.op in ("ref", "child"):
            attrs = tuple((k, every.get(str(v), v)) for k, v in attrs)
        return Expr(expr.op, tuple(map(inside, expr.args)), attrs)

    def named(statement: Statement) -> Statement:
        if isinstance(statement, Let):
            return replace(statement, name=every.get(statement.name, statement.name))
        return (
            statement
            if isinstance(statement, Out)
            else replace(statement, body=tuple(map(named, statement.body)))
        )

    states = [State(every.get(s.name, s.name), s.type, s.init) for s in cell.states]
    children = [every.get(c, c) for c in cell.tree.children]
    body = [named(_mapped(s, inside)) for s in cell.statements]
    return make_cell(cell.name, states, body, children, cell.tree.variadic)


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
