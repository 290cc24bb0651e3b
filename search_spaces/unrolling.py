"""A space of rules as sketches: its derivations to a bounded depth, with one choice for each place and nonterminal.

A place is a path of holes from the root of an equation, whatever the productions on the way: what `tanh(vec)` and
`relu(vec)` apply to is one place, so the two share all that stands below, weights included, as the operations of a
node of DARTS do. Hence a sketch grows with the number of places, not with that of derivations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

from grammar import (
    Expr,
    GrammarError,
    Let,
    Out,
    Sketch,
    State,
    Statement,
    X,
    choice,
    parse_sketch,
    ref,
    show_state,
    show_statement,
)
from search_spaces.derivation import OUT
from search_spaces.errors import SpaceError
from search_spaces.grammar_space import GrammarSpace
from search_spaces.printer import rounded
from search_spaces.rules import INPUT, TIME, Hole, Production, Rule, Rules, StateRule, fill

MOST_OPTIONS = 6_000
"""Options that all choices of a sketch may have together."""
_Operands = tuple[Expr, ...]


def unroll(space: GrammarSpace, depth: int = 3) -> tuple[Sketch, ...]:
    """The sketches of a space of rules: one for each choice of numbers of states, those with the most states first.

    `depth` bounds how deep operations are nested in an equation: `lerp(sigmoid(lin(x)), h, tanh(lin(x)))` has 3. Helper
    names (`let`) are left out: what they name is derived without them too, but for what is used twice. Not every cell
    of a sketch is a member (a space may require that all states are used, or bound the size); `cell in space` says.

    Raises SpaceError for a space over trees, where `depth` is too small for any derivation, and where the choices
    would have more than 6,000 options: nothing has been built then.
    """
    rules = space.rules
    if depth < 1:
        raise SpaceError(f"the depth of an unrolled space is at least 1; received {depth}")
    if rules.forms != (TIME,):
        raise SpaceError(f"space {space.name} is over trees: only spaces over time are unrolled")
    counts = product(*(range(line.least, line.most + 1) for line in rules.states))
    wanted = [n for n in counts if sum(n) and rules.limits.holds(sum(n))]
    made = [
        _Unrolled(space.name, rules, n, depth).sketch() for n in sorted(wanted, key=lambda n: (-sum(n), n))
    ]
    found = tuple(sketch for sketch in made if sketch is not None)
    if not found:
        raise SpaceError(f"space {space.name} has no derivation of depth {depth} without helper names")
    return found


@dataclass
class _Unrolled:
    """The sketch with so many states of each line."""

    name: str
    rules: Rules
    counts: tuple[int, ...]
    depth: int
    lets: list[Let] = field(default_factory=list)
    known: dict[tuple[tuple[int, ...], str], Expr] = field(default_factory=dict)
    options: int = 0

    def __post_init__(self) -> None:
        self.states: list[tuple[State, StateRule]] = []
        for line, count in zip(self.rules.states, self.counts, strict=True):
            for _ in range(count):
                name = f"h{len(self.states) + 1}"
                self.states.append((State(name, line.type, line.init), line))
        self.scope: dict[str, tuple[str, ...]] = {}
        self.least: dict[str, float] = {}

    def sketch(self) -> Sketch | None:
        """The sketch, or None if some equation has no derivation."""
        body: list[Statement] = []
        roots = [(f"{s.name}'", line.rule) for s, line in self.states] + [(OUT, OUT)]
        for number, (name, rule) in enumerate(roots):
            self.scope = self._scope(number)
            self.least = self._least()
            if self.least[rule] > self.depth:
                return None
            expr = self._node((number,), rule, self.depth)
            body.append(Out(expr) if name == OUT else Let(name, expr))
        states = ", ".join(show_state(s) for s, _ in self.states)
        text = "; ".join(show_statement(s) for s in (*self.lets, *body))
        try:
            return parse_sketch(f"cell {self.name}_{len(self.states)} {{ state {states}; {text} }}")
        except GrammarError as error:
            raise SpaceError(f"space {self.name} cannot be unrolled: {error}") from None

    def _scope(self, equation: int) -> dict[str, tuple[str, ...]]:
        """The names that an equation sees, with their classes."""
        found: dict[str, tuple[str, ...]] = {INPUT: (INPUT,)}
        for number, (state, line) in enumerate(self.states):
            found |= line.old(state.name, TIME, own=number == equation)
            if number < equation:
                found[f"{state.name}'"] = line.renewed
        return found

    def _names(self, tag: str) -> list[Expr]:
        return [X if n == INPUT else ref(n) for n, classes in self.scope.items() if tag in classes]

    def _least(self) -> dict[str, float]:
        """For each nonterminal how deep operations are nested at least in what it derives here."""
        found = {name: float("inf") for name in self.rules.rules}
        changed = True
        while changed:
            changed = False
            for name, rule in self.rules.rules.items():
                least = min((self._need(p, found) for p in rule.productions), default=float("inf"))
                if least < found[name]:
                    found[name], changed = least, True
        return found

    def _need(self, production: Production, least: dict[str, float]) -> float:
        if any(h.rule is None and not self._names(h.tag) for h in production.holes):
            return float("inf")
        return max(
            [production.depth, *(h.depth + least[h.rule] for h in production.holes if h.rule is not None)]
        )

    # -- expressions ----------------------------------------------------------------------------

    def _node(self, place: tuple[int, ...], name: str, level: int) -> Expr:
        """What stands at a place for a nonterminal: the name of a let, made when it is first asked for."""
        key = (*place, level), name
        if key not in self.known:
            rule = self.rules.rules[name]
            options = list(self._productions(place, rule, level))
            self._count(len(options))
            exprs = [expr for (expr,), _ in options]
            weights = [weight for _, weight in options]
            value = exprs[0] if len(exprs) == 1 else choice(exprs, [rounded(w) for w in weights])
            self.known[key] = value if not value.args else self._named(name, value)
        return self.known[key]

    def _productions(
        self, place: tuple[int, ...], rule: Rule, level: int
    ) -> Iterator[tuple[_Operands, float]]:
        """What a nonterminal derives at a place, one production after the other, and how much each weighs."""
        for production in rule.productions:
            if self._need(production, self.least) > level:
                continue
            holes = [
                list(self._hole((*place, i), h, level - h.depth)) for i, h in enumerate(production.holes)
            ]
            for values in product(*holes):
                weight = production.weight
                for _, share in values:
                    weight *= share
                filled = [value if len(value) != 1 else value[0] for value, _ in values]
                yield tuple(e for item in production.items for e in fill(item, filled)), weight

    def _hole(self, place: tuple[int, ...], hole: Hole, level: int) -> Iterator[tuple[_Operands, float]]:
        """What fills a hole: one expression, or one of several lists of operands, with their probabilities."""
        if hole.rule is None:
            names = self._names(hole.tag)
            key = place, f"${hole.tag}"
            if len(names) > 1 and key not in self.known:
                self._count(len(names))
                self.known[key] = self._named("name", choice(names))
            yield (names[0] if len(names) == 1 else self.known[key],), 1.0
            return
        rule = self.rules.rules[hole.rule]
        if rule.type is not None:
            yield (self._node(place, hole.rule, level),), 1.0
            return
        lists = list(self._productions(place, rule, level))
        total = sum(weight for _, weight in lists)
        for operands, weight in lists:
            yield operands, weight / total

    def _named(self, stem: str, value: Expr) -> Expr:
        name = f"{stem}_{len(self.lets) + 1}"
        self.lets.append(Let(name, value))
        return ref(name)

    def _count(self, options: int) -> None:
        self.options += options
        if self.options > MOST_OPTIONS:
            raise SpaceError(
                f"space {self.name} unrolled to depth {self.depth} has more than {MOST_OPTIONS:,} options; "
                "use a smaller depth"
            )
