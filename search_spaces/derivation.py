"""How a cell comes from the rules of a space: a tree of productions for each equation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from grammar import Cell, Expr, Leaf, Let, Out, State, Statement, X, make_cell, ref
from search_spaces.rules import INPUT, NEW, TIME, Form, Rules, StateRule, fill

OUT = "out"  # the name of the equation of what a cell emits
LEAF = "leaf "  # before the name of a state's new value: the name of its value at a leaf


@dataclass(frozen=True, slots=True)
class Tree:
    """A derivation from nonterminal `rule` by its production number `production`; a name fills a hole of names."""

    rule: str
    production: int
    parts: tuple[Tree | str, ...] = ()

    def walk(self) -> Iterator[Tree]:
        """This node and all below it, parents first."""
        yield self
        for part in self.parts:
            if isinstance(part, Tree):
                yield from part.walk()

    def names(self) -> Iterator[str]:
        """The names that occur in it, `x` included, once for each occurrence."""
        for part in self.parts:
            if isinstance(part, Tree):
                yield from part.names()
            else:
                yield part

    def size(self, rules: Rules) -> int:
        """The number of operations."""
        return sum(rules.rules[t.rule].productions[t.production].ops for t in self.walk())

    def depth(self, rules: Rules) -> int:
        """How deep operations are nested."""
        found = rules.rules[self.rule].productions[self.production]
        inner = (
            h.depth + part.depth(rules)
            for h, part in zip(found.holes, self.parts, strict=True)
            if isinstance(part, Tree)
        )
        return max((found.depth, *inner))

    def exprs(self, rules: Rules) -> tuple[Expr, ...]:
        """The expression, or the operands, that it derives. Names are as in `Derivation.scope`."""
        found = rules.rules[self.rule].productions[self.production]
        values: list[Expr | tuple[Expr, ...]] = []
        for part in self.parts:
            if isinstance(part, str):
                values.append(X if part == INPUT else ref(part))
            else:
                inner = part.exprs(rules)
                values.append(inner if rules.rules[part.rule].type is None else inner[0])
        return tuple(e for item in found.items for e in fill(item, values))


@dataclass(frozen=True, slots=True)
class Equation:
    """`name = ...`: a let, a new value (`h'`) or `out`, with its derivation."""

    name: str
    tree: Tree

    @property
    def kind(self) -> str:
        """`let`, `new`, `leaf` or `out`."""
        if self.name.endswith("'"):
            return "leaf" if self.name.startswith(LEAF) else "new"
        return OUT if self.name == OUT else "let"


@dataclass(frozen=True, slots=True)
class Derivation:
    """A cell as a space derives it: lets, then new values, then `out`; each sees what stands before it.

    Over trees the values at leaves follow; they see x and those before them.
    """

    name: str
    states: tuple[State, ...]
    equations: tuple[Equation, ...]
    form: Form = TIME

    def cell(self, rules: Rules, sound: bool = False) -> Cell:
        """The cell that it derives; see `make_cell` for `sound`."""
        body: list[Statement] = []
        leaf: list[Statement] = []
        for e in self.equations:
            (expr,) = e.tree.exprs(rules)
            if self.form.children:
                expr = written(expr)
            if e.kind == "leaf":
                leaf.append(Let(e.name.removeprefix(LEAF), expr))
            else:
                body.append(Out(expr) if e.name == OUT else Let(e.name, expr))
        if leaf:
            body.insert(0, Leaf(tuple(leaf)))
        return make_cell(self.name, self.states, body, self.form.children, self.form.variadic, sound)

    def size(self, rules: Rules) -> int:
        """The number of operations."""
        return sum(e.tree.size(rules) for e in self.equations)

    def lets(self) -> tuple[Equation, ...]:
        """The equations of helper names."""
        return tuple(e for e in self.equations if e.kind == "let")

    def taken(self, rules: Rules) -> list[str]:
        """The names that no further state or let can have."""
        return [INPUT, *rules.children, *(s.name for s in self.states), *(e.name for e in self.equations)]

    def reached(self) -> frozenset[str]:
        """What the output depends on, over any number of steps: names, primed names and `x`."""
        return reached({e.name: frozenset(e.tree.names()) for e in self.equations})

    def scope(self, rules: Rules, index: int) -> dict[str, tuple[str, ...]]:
        """The names that equation number `index` sees, each with its classes."""
        at = self.equations[index].name
        leaf = self.equations[index].kind == "leaf"
        found: dict[str, tuple[str, ...]] = {INPUT: (INPUT,)} if leaf or not self.form.children else {}
        lines = state_lines(rules, self.states)
        for name, line in lines.items():
            if not leaf:
                found |= line.old(name, self.form, own=at == f"{name}'")
        for e in self.equations[:index]:
            if leaf != (e.kind == "leaf"):
                continue
            if e.kind == "let":
                found[e.name] = (e.tree.rule,)
            elif e.kind != OUT:
                found[e.name] = lines[state_of(e.name)].renewed
        return found


def reached(uses: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """All that `out` depends on, given the names in each equation; a state depends on its new value before."""
    seen: set[str] = set()
    stack = list(uses[OUT])
    while stack:
        name = stack.pop()
        if name not in seen:
            seen.add(name)
            if name in uses:
                stack += uses[name]
                continue
            state = state_of(name)
            seen.add(state)
            for new in (f"{state}'", f"{LEAF}{state}'"):
                if new in uses and new not in seen:
                    seen.add(new)
                    stack += uses[new]
    return frozenset(seen)


def state_of(name: str) -> str:
    """The state that a name of a value of it is of: `h` of `h`, `h'`, `leaf h'` and `l.h`."""
    return name.removeprefix(LEAF).rpartition(".")[2].rstrip("'")


def written(expr: Expr) -> Expr:
    """An expression with names as in `Derivation.scope` as the language writes it over trees."""
    if expr.op == "ref":
        name = str(expr.attr("name"))
        child, dot, state = name.partition(".")
        if dot:
            return Expr("child", (), (("child", child), ("state", state)))
        return ref(name.removeprefix(LEAF))
    return Expr(expr.op, tuple(map(written, expr.args)), expr.attrs)


def state_lines(rules: Rules, states: tuple[State, ...]) -> dict[str, StateRule]:
    """For each state, by name, the line of the file that it is of."""
    return {s.name: next(r for r in rules.states if r.fits(s)) for s in states}


def dead(rules: Rules, derivation: Derivation) -> str | None:
    """What the space requires and this derivation lacks, or None."""
    seen = derivation.reached()
    for let in derivation.lets():
        if let.name not in seen:
            return f"the output does not depend on {let.name!r}"
    if NEW in rules.require:
        used: set[str] = set()
        for e in reversed(derivation.equations):
            if e.kind == "new" and e.name not in used:
                return f"no equation after it uses {e.name}"
            used.update(e.tree.names())
    if "x" in rules.require and INPUT not in seen:
        return "the output does not depend on x"
    if "states" in rules.require:
        for state in derivation.states:
            if state.name not in seen:
                return f"the output does not depend on the past of state {state.name!r}"
    return None
