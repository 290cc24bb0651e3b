"""A cell as membership sees it: its equations by name, over trees with the names of children that the space has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from grammar import OPS, Cell, Expr, Leaf, Let, Out, State, Statement, ref
from search_spaces.derivation import LEAF
from search_spaces.rules import Form, Rules, operations

MAX_LETS = 200  # in a text; only renamings can be more than the limits of size allow


@dataclass(frozen=True, slots=True)
class Text:
    """The equations of a cell by name, and how often each let is used."""

    states: tuple[State, ...]
    lets: Mapping[str, Expr]
    new: Mapping[str, Expr]
    out: Expr
    uses: Mapping[str, int]
    form: Form
    leaf: Mapping[str, Expr]


def read_cell(rules: Rules, cell: Cell) -> Text | str:
    given = len(cell.tree.children), cell.tree.variadic
    form = next((f for f in rules.forms if (len(f.children), f.variadic) == given), None)
    if form is None:
        return _wrong_children(rules, cell)
    states, statements = _as_named(rules, cell, form) if rules.trees else (cell.states, cell.statements)
    lets: dict[str, Expr] = {}
    new: dict[str, Expr] = {}
    leaf: dict[str, Expr] | str = {}
    out = None
    for s in statements:
        if isinstance(s, Leaf):
            leaf = _leaf(rules, s)
        elif isinstance(s, Let):
            (new if s.primed else lets)[s.name] = s.expr
        elif isinstance(s, Out):
            out = s.expr
        else:
            return "it has a block"
    assert out is not None
    if isinstance(leaf, str):
        return leaf
    if len(lets) > MAX_LETS:
        return _too_many(lets)
    lets, new, out = _without_aliases(lets, new, out)
    uses = dict.fromkeys(lets, 0)
    for expr in (*lets.values(), *new.values(), out):
        for node in expr.walk():
            name = str(node.attr("name"))
            if node.op == "ref" and name in uses:
                uses[name] += 1
    for name, n in uses.items():
        if not n:
            return f"{name!r} is not used"
    return Text(states, lets, new, out, uses, form, leaf)


def _wrong_children(rules: Rules, cell: Cell) -> str:
    if not cell.tree.children:
        return "it is no cell over trees"
    if not rules.trees:
        return "it is a cell over trees"
    return f"its children are {' or '.join(map(str, rules.forms))}; received {', '.join(cell.tree.children)}"


def _too_many(lets: Mapping[str, Expr]) -> str:
    return f"a cell has at most {MAX_LETS} equations of helper names; received {len(lets)}"


def _as_named(rules: Rules, cell: Cell, form: Form) -> tuple[tuple[State, ...], tuple[Statement, ...]]:
    """The states and statements with the children of a form; what is called as some child gets an underscore."""
    children = dict(zip(cell.tree.children, form.children, strict=True))
    names = {s.name for s in cell.states} | {s.name for s in cell.statements if isinstance(s, Let)}
    own: dict[str, str] = {}
    for name in sorted(names & rules.children):
        own[name] = name + "_"
        while own[name] in names | rules.children:
            own[name] += "_"

    def called(name: str) -> str:
        base = name.rstrip("'")
        return own.get(base, base) + name[len(base) :]

    def within(expr: Expr) -> Expr:
        if expr.op == "child":
            return ref(f"{children[str(expr.attr('child'))]}.{called(str(expr.attr('state')))}")
        if expr.op == "ref":
            return ref(called(str(expr.attr("name"))))
        return replace(expr, args=tuple(map(within, expr.args))) if expr.args else expr

    def each(statements: Sequence[Statement]) -> Iterator[Statement]:
        for s in statements:
            if isinstance(s, Let):
                yield Let(called(s.name), within(s.expr))
            elif isinstance(s, Leaf):
                yield Leaf(tuple(each(s.body)))
            else:
                yield Out(within(s.expr)) if isinstance(s, Out) else s

    return tuple(replace(s, name=called(s.name)) for s in cell.states), tuple(each(cell.statements))


def _leaf(rules: Rules, block: Leaf) -> dict[str, Expr] | str:
    """The equations of a leaf, helper names written out, or why they cannot be."""
    given = {s.name: s.expr for s in block.body if isinstance(s, Let)}
    if len(given) < len(block.body):
        return "it has a block"
    lets = {n: e for n, e in given.items() if not n.endswith("'")}
    if len(lets) > MAX_LETS:
        return _too_many(lets)
    order = ordered(lets)
    written: dict[str, int] = {}
    for name in order:
        written[name] = size_of(lets[name], written)
    if any(size_of(e, written) > rules.limits.size for e in given.values()):
        return f"the size is at most {rules.limits.size} operations; at a leaf it is more"
    for name in order:
        for later in given:
            given[later] = _in_place(given[later], name, given[name])
    for name in order:
        uses = sum(_uses(e, name) for e in (s.expr for s in block.body if isinstance(s, Let)))
        if not uses:
            return f"{name!r} is not used"
        if uses > 1 and any(n.op in OPS and OPS[n.op].weights is not None for n in given[name].walk()):
            return f"a leaf has no shared values with weights; {name!r} is one"
    return {n: _of_leaf(e) for n, e in given.items() if n.endswith("'")}


def _uses(expr: Expr, name: str) -> int:
    return sum(n.op == "ref" and n.attr("name") == name for n in expr.walk())


def _in_place(expr: Expr, name: str, value: Expr) -> Expr:
    if expr.op == "ref" and expr.attr("name") == name:
        return value
    return replace(expr, args=tuple(_in_place(a, name, value) for a in expr.args)) if expr.args else expr


def _of_leaf(expr: Expr) -> Expr:
    if expr.op == "ref":
        return ref(f"{LEAF}{expr.attr('name')}")
    return replace(expr, args=tuple(map(_of_leaf, expr.args))) if expr.args else expr


def _without_aliases(
    lets: dict[str, Expr], new: dict[str, Expr], out: Expr
) -> tuple[dict[str, Expr], dict[str, Expr], Expr]:
    """The equations without lets that only rename something."""
    aliases = {name: expr for name, expr in lets.items() if expr.op not in OPS}

    def plain(expr: Expr) -> Expr:
        while expr.op == "ref" and str(expr.attr("name")) in aliases:
            expr = aliases[str(expr.attr("name"))]
        return replace(expr, args=tuple(map(plain, expr.args))) if expr.args else expr

    kept = {name: plain(expr) for name, expr in lets.items() if name not in aliases}
    return kept, {name: plain(expr) for name, expr in new.items()}, plain(out)


def ordered(lets: Mapping[str, Expr]) -> list[str]:
    """The lets in an order in which each comes after those it uses, otherwise as written."""
    done: dict[str, None] = {}

    def visit(name: str) -> None:
        if name not in done:
            for node in lets[name].walk():
                if node.op == "ref" and str(node.attr("name")) in lets:
                    visit(str(node.attr("name")))
            done[name] = None

    for name in lets:
        visit(name)
    return list(done)


def size_of(expr: Expr, written: Mapping[str, int]) -> int:
    """The operations of an expression in which these names stand for so many more."""
    names = (str(node.attr("name")) for node in expr.walk() if node.op == "ref")
    return operations(expr) + sum(written.get(name, 0) for name in names)
