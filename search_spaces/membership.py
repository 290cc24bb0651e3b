"""Whether a cell is in a space: its text is matched against the rules and a derivation is found.

Names do not count, nor does the order of equations, of commutative operands and of the operands of `lin`; nor
whether a value that is used once has a name. A value with weights that is used twice must be a let, since each
occurrence of an operation has its own weights; one without weights may also be written out at each use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product

from grammar import OPS, Cell, Expr, State
from search_spaces.derivation import LEAF, OUT, Derivation, Equation, Tree, dead, state_lines
from search_spaces.rules import INPUT, Production, Rules, StateRule, count, operations
from search_spaces.sampling import let_name
from search_spaces.shapes import Shapes
from search_spaces.texts import Text, ordered, read_cell, size_of

_PLAIN, _INSIDE, _ROOT = range(
    3
)  # outside of a new let, inside of it, and at its root, which gets no second name
MAX_NAMINGS = 4_096  # ways to name the repeated values of a cell that are tried
MAX_INLINE = 10  # repeated values without weights for which both writings are tried


@dataclass(frozen=True, slots=True)
class _Named:
    """A part of an expression that has to be a let, in the place where it stands."""

    tree: _Found


@dataclass(frozen=True, slots=True)
class _Found:
    """A derivation in which new lets may be pending, and how many there are."""

    rule: str
    production: int
    parts: tuple[_Found | _Named | str, ...]
    lets: int


def derive(rules: Rules, cell: Cell) -> Derivation | str:
    """A derivation of `cell`, or the reason why there is none. States and lets keep their names."""
    text = read_cell(rules, cell)
    if isinstance(text, str):
        return text
    wrong = _too_large(rules, text) or _wrong_states(rules, text)
    if wrong:
        return wrong
    problem = ""
    for kept in islice(_namings(rules, text), MAX_NAMINGS):
        wrong = _wrong_size(rules, _size(text, kept))
        if wrong:  # before anything is written out: values used twice may double it again and again
            problem = wrong
            continue
        found = _Attempt(rules, text, kept).run(cell.name)
        if isinstance(found, Derivation):
            wrong = exceeded(rules, found) or dead(rules, found)
            if wrong is None:
                return found
            problem = wrong
        else:
            problem = problem or found
    return problem or f"at most {rules.let.most} values may be lets; more have to be"


def exceeded(rules: Rules, derivation: Derivation) -> str | None:
    """The limit that a derivation breaks, or None."""
    wrong = _wrong_size(rules, derivation.size(rules))
    if wrong:
        return wrong
    lets = len(derivation.lets())
    if lets > rules.let.most:
        return f"at most {rules.let.most} values may be lets; {lets} have to be"
    deepest = max(e.tree.depth(rules) for e in derivation.equations)
    if deepest > rules.limits.nesting:
        return f"operations are nested at most {rules.limits.nesting} deep; received {deepest}"
    return None


def _wrong_size(rules: Rules, size: int) -> str | None:
    least, most = rules.limits.least_size, rules.limits.size
    if least <= size <= most:
        return None
    return f"the size is from {least} to {most} operations; received {size}"


def _size(text: Text, kept: Mapping[str, str]) -> int:
    """The operations of all equations, with the lets written out that are not kept."""
    written: dict[str, int] = {}
    total = 0
    for name in ordered(text.lets):
        size = size_of(text.lets[name], written)
        if name in kept:
            total += size
        else:
            written[name] = size
    return total + sum(size_of(e, written) for e in (*text.new.values(), text.out, *text.leaf.values()))


def _too_large(rules: Rules, text: Text) -> str | None:
    """Whether the text alone is too much: a derivation has at least its operations."""
    size = sum(map(operations, (*text.lets.values(), *text.new.values(), text.out, *text.leaf.values())))
    if size > rules.limits.size:
        return f"the size is at most {rules.limits.size} operations; received {size}"
    return None


def _wrong_states(rules: Rules, text: Text) -> str | None:
    numbers = [0] * len(rules.states)
    for state in text.states:
        fitting = [i for i, r in enumerate(rules.states) if r.fits(state)]
        if not fitting:
            return f"the state {state.name!r} has a type or initial value that the space has not"
        numbers[fitting[0]] += 1
    for r, n in zip(rules.states, numbers, strict=True):
        if not r.least <= n <= r.most:
            return f"a cell has {count(r.least, r.most)} states of type {r.type}; received {n}"
    limits, received = rules.limits, len(text.states)
    if not limits.holds(received):
        few = received < limits.least_states
        bound = f"at least {limits.least_states}" if few else f"at most {limits.states}"
        return f"a cell has {bound} states; received {received}"
    return None


def _namings(rules: Rules, text: Text) -> Iterator[dict[str, str]]:
    """Which of the written lets stay lets, and derived from which nonterminal; the likeliest first.

    First each stays, as written; then those used once are free (the matching names
    again what must have a name), and those without weights may be written out.
    """
    order = ordered(text.lets)
    fitting = {n: tuple(r for r in rules.let.rules if text.lets[n].op in rules.heads[r]) for n in order}
    if len(order) <= rules.let.most:
        for chosen in product(*(fitting[n] for n in order)):
            yield dict(zip(order, chosen, strict=True))
    repeated = [n for n in order if text.uses[n] > 1]
    bare = {n for n in repeated if not _weighted(text, text.lets[n])}
    options: list[tuple[str | None, ...]] = [
        (*fitting[n], *((None,) if n in bare and len(bare) <= MAX_INLINE else ())) for n in repeated
    ]
    for choice in _at_most(rules.let.most, options):
        yield {n: c for n, c in zip(repeated, choice, strict=True) if c is not None}


def _at_most(most: int, options: Sequence[tuple[str | None, ...]]) -> Iterator[tuple[str | None, ...]]:
    """Each choice of an option for each, in order, of which at most so many are not None."""
    needed = sum(None not in given for given in options)
    if needed > most:
        return
    if not options:
        yield ()
        return
    for first in options[0]:
        for rest in _at_most(most - (first is not None), options[1:]):
            yield (first, *rest)


def _weighted(text: Text, expr: Expr) -> bool:
    for node in expr.walk():
        if node.op in OPS and OPS[node.op].weights is not None:
            return True
        name = str(node.attr("name"))
        if (
            node.op == "ref"
            and name in text.lets
            and text.uses[name] == 1
            and _weighted(text, text.lets[name])
        ):
            return True
    return False


class _Attempt:
    """Matches one cell against the rules, with certain lets kept and all others written out."""

    def __init__(self, rules: Rules, text: Text, kept: Mapping[str, str]) -> None:
        self.rules = rules
        self.text = text
        self.kept = kept
        self.known: dict[tuple[int, str, int, int], _Found | None] = {}
        self.scope: dict[str, tuple[str, ...]] = {}
        self.let_scope: dict[str, tuple[str, ...]] = {}
        self.equations: list[Equation] = []
        self.at_leaf = False
        self.shapes = Shapes(rules, self._deref)

    def run(self, name: str) -> Derivation | str:
        """The derivation, or the first equation for which there is none."""
        cls = state_lines(self.rules, self.text.states)
        form = self.text.form
        plain = {n: r.old(n, form) for n, r in cls.items()}
        self.scope = {} if form.children else {INPUT: (INPUT,)}
        for names in plain.values():
            self.scope |= names
        for let in (n for n in ordered(self.text.lets) if n in self.kept):
            self.let_scope = dict(self.scope)
            if not self._equation(let, self.text.lets[let], self.kept[let]):
                return f"`{let} = ...` does not derive from {' or '.join(self.rules.let.rules)}"
            self.scope[let] = (self.kept[let],)
        self.let_scope = dict(self.scope)
        done: list[State] = []
        for line in self.rules.states:
            waiting = [s for s in self.text.states if cls[s.name] is line]
            while waiting:
                state = next((s for s in waiting if self._ready(f"{s.name}'", done)), None)
                if state is None:
                    return f"`{waiting[0].name}'` uses a new value that comes after it"
                self.scope |= line.old(state.name, form, own=True)
                primed = f"{state.name}'"
                if not self._equation(primed, self.text.new[primed], line.rule):
                    return f"`{primed} = ...` does not derive from {line.rule}"
                self.scope |= plain[state.name]
                self.scope[primed] = line.renewed
                waiting.remove(state)
                done.append(state)
        if not self._equation(OUT, self.text.out, OUT):
            return "`out ...` does not derive from out"
        wrong = self._leaves(done, cls) if form.children else None
        return wrong or Derivation(name, tuple(done), tuple(self.equations), form)

    def _leaves(self, states: Sequence[State], cls: Mapping[str, StateRule]) -> str | None:
        """The equations at leaves, where no value gets a name."""
        self.scope, self.let_scope, self.at_leaf = {INPUT: (INPUT,)}, {}, True
        for state in states:
            line, primed = cls[state.name], f"{state.name}'"
            if not self._equation(LEAF + primed, self.text.leaf[primed], line.leaf):
                return f"`{primed} = ...` at a leaf does not derive from {line.leaf}"
            self.scope[LEAF + primed] = line.renewed
        return None

    def _ready(self, primed: str, done: Sequence[State]) -> bool:
        """Whether the new value of a state, and its value at a leaf, use only those of states that are done."""
        before = {f"{LEAF}{s.name}'" for s in done}
        at_leaf = self.text.leaf.get(primed, self.text.out)
        return self._visible_in(self.text.new[primed]) and not any(
            n.op == "ref" and str(n.attr("name")).startswith(LEAF) and n.attr("name") not in before
            for n in at_leaf.walk()
        )

    def _visible_in(self, expr: Expr) -> bool:
        """Whether all names in it are visible."""
        for node in expr.walk():
            name = str(node.attr("name"))
            if node.op != "ref" or name in self.scope:
                continue
            if name not in self.text.lets or not self._visible_in(self.text.lets[name]):
                return False
        return True

    def _equation(self, name: str, expr: Expr, rule: str) -> bool:
        self.known.clear()
        found = self.match(expr, rule, self.rules.limits.nesting, _PLAIN)
        if found is None:
            return False
        self.equations.append(Equation(name, self._settle(found)))
        return True

    def _settle(self, found: _Found) -> Tree:
        """The tree of a match; what had to be a let becomes one, before the equation that is being settled."""
        parts: list[Tree | str] = []
        for part in found.parts:
            if isinstance(part, _Named):
                tree = self._settle(part.tree)
                taken = [*self.scope, *self.text.lets, *(e.name for e in self.equations)]
                taken += [*self.rules.children, *(s.name for s in self.text.states)]
                name = let_name(tree.rule, taken)
                at = sum(e.kind == "let" for e in self.equations)
                self.equations.insert(at, Equation(name, tree))
                parts.append(name)
            else:
                parts.append(part if isinstance(part, str) else self._settle(part))
        return Tree(found.rule, found.production, tuple(parts))

    def _deref(self, expr: Expr) -> Expr:
        """What a name that is written out stands for."""
        while expr.op == "ref" and str(expr.attr("name")) in self.text.lets:
            if str(expr.attr("name")) in self.scope:
                break
            expr = self.text.lets[str(expr.attr("name"))]
        return expr

    def match(self, expr: Expr, rule: str, depth: int, mode: int) -> _Found | None:
        """The derivation of `expr` from `rule` that names the fewest parts anew, or None."""
        expr = self._deref(expr)
        key = (id(expr), rule, depth, mode)
        if key not in self.known:
            self.known[key] = self._match((expr,), rule, depth, mode)
        return self.known[key]

    def _match(self, exprs: tuple[Expr, ...], rule: str, depth: int, mode: int) -> _Found | None:
        best: _Found | None = None
        for number, p in enumerate(self.rules.rules[rule].productions):
            if p.depth > depth:
                continue
            for bound in self.shapes.bindings(p, exprs):
                parts = self._parts(p, bound, depth, mode)
                if parts is None:
                    continue
                lets = sum(_pending(part) for part in parts)
                if best is None or lets < best.lets:
                    best = _Found(rule, number, parts, lets)
                if best.lets == 0:
                    return best
        return best

    def _parts(
        self, p: Production, bound: Mapping[int, tuple[Expr, ...]], depth: int, mode: int
    ) -> tuple[_Found | _Named | str, ...] | None:
        if mode == _ROOT and p.ops:
            mode = _INSIDE
        parts: list[_Found | _Named | str] = []
        for i, h in enumerate(p.holes):
            part: _Found | _Named | str | None
            if h.rule is None:
                part = self._visible(bound[i][0], h.tag, mode)
            elif self.rules.rules[h.rule].type is None:
                part = self._match(bound[i], h.rule, depth - h.depth, mode)
            else:
                part = self.match(bound[i][0], h.rule, depth - h.depth, mode)
            if part is None:
                return None
            parts.append(part)
        return tuple(parts)

    def _visible(self, expr: Expr, tag: str, mode: int) -> str | _Named | None:
        """The name that `expr` is, or a new let for it, where a name of class `tag` has to stand."""
        expr = self._deref(expr)
        name = INPUT if expr.op == INPUT else str(expr.attr("name")) if expr.op == "ref" else ""
        if name:
            return name if tag in (self.scope if mode == _PLAIN else self.let_scope).get(name, ()) else None
        let = self.rules.let
        if self.at_leaf or mode == _ROOT or not let.most or tag not in let.rules or not operations(expr):
            return None
        found = self.match(expr, tag, self.rules.limits.nesting, _ROOT)
        return None if found is None else _Named(found)


def _pending(part: _Found | _Named | str) -> int:
    if isinstance(part, str):
        return 0
    return 1 + part.tree.lets if isinstance(part, _Named) else part.lets
