"""Whether a cell is in a space: its text is matched against the rules and a derivation is found.

Names do not count, nor does the order of equations, of commutative operands and of the operands of `lin`; nor
whether a value that is used once has a name. A value with weights that is used twice must be a let, since each
occurrence of an operation has its own weights; one without weights may also be written out at each use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product

from grammar import OPS, Cell, Expr, Leaf, Let, Out, State, ref
from search_spaces.derivation import LEAF, OUT, Derivation, Equation, Tree, dead, state_lines
from search_spaces.rules import INPUT, Form, Production, Rules, StateRule, count, operations
from search_spaces.sampling import let_name
from search_spaces.shapes import Shapes

_PLAIN, _INSIDE, _ROOT = range(
    3
)  # outside of a new let, inside of it, and at its root, which gets no second name
MAX_NAMINGS = 4_096  # ways to name the repeated values of a cell that are tried
MAX_LETS = 200  # in a text; only renamings can be more than the limits of size allow
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


@dataclass(frozen=True, slots=True)
class _Text:
    """The equations of a cell by name, and how often each let is used."""

    states: tuple[State, ...]
    lets: Mapping[str, Expr]
    new: Mapping[str, Expr]
    out: Expr
    uses: Mapping[str, int]
    form: Form
    leaf: Mapping[str, Expr]


def derive(rules: Rules, cell: Cell) -> Derivation | str:
    """A derivation of `cell`, or the reason why there is none. States and lets keep their names."""
    text = _read(rules, cell)
    if isinstance(text, str):
        return text
    wrong = _too_large(rules, text) or _wrong_states(rules, text)
    if wrong:
        return wrong
    problem = "no derivation"
    for kept in islice(_namings(rules, text), MAX_NAMINGS):
        found = _Attempt(rules, text, kept).run(cell.name)
        if isinstance(found, Derivation):
            wrong = exceeded(rules, found) or dead(rules, found)
            if wrong is None:
                return found
            problem = wrong
        elif problem == "no derivation":
            problem = found
    return problem


def exceeded(rules: Rules, derivation: Derivation) -> str | None:
    """The limit that a derivation breaks, or None."""
    limits, size = rules.limits, derivation.size(rules)
    if not limits.least_size <= size <= limits.size:
        return f"the size is from {limits.least_size} to {limits.size} operations; received {size}"
    lets = len(derivation.lets())
    if lets > rules.let.most:
        return f"at most {rules.let.most} values may be lets; {lets} have to be"
    deepest = max(e.tree.depth(rules) for e in derivation.equations)
    if deepest > limits.nesting:
        return f"operations are nested at most {limits.nesting} deep; received {deepest}"
    return None


def _read(rules: Rules, cell: Cell) -> _Text | str:
    given = len(cell.tree.children), cell.tree.variadic
    form = next((f for f in rules.forms if (len(f.children), f.variadic) == given), None)
    if form is None:
        return _wrong_children(rules, cell)
    lets: dict[str, Expr] = {}
    new: dict[str, Expr] = {}
    leaf: dict[str, Expr] | str = {}
    out = None
    for s in cell.statements:
        if isinstance(s, Leaf):
            leaf = _leaf(s)
        elif isinstance(s, Let):
            (new if s.primed else lets)[s.name] = s.expr
        elif isinstance(s, Out):
            out = s.expr
        else:
            return "it has a block"
    assert out is not None
    if isinstance(leaf, str):
        return leaf
    if form.children:
        names = dict(zip(cell.tree.children, form.children, strict=True))
        lets, new = ({n: _children(e, names) for n, e in some.items()} for some in (lets, new))
        out = _children(out, names)
    if len(lets) > MAX_LETS:
        return f"a cell has at most {MAX_LETS} equations of helper names; received {len(lets)}"
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
    return _Text(cell.states, lets, new, out, uses, form, leaf)


def _wrong_children(rules: Rules, cell: Cell) -> str:
    if not cell.tree.children:
        return "it is no cell over trees"
    if not rules.trees:
        return "it is a cell over trees"
    return f"its children are {' or '.join(map(str, rules.forms))}; received {', '.join(cell.tree.children)}"


def _children(expr: Expr, names: Mapping[str, str]) -> Expr:
    """The expression with values of children as names, as in `Derivation.scope`."""
    if expr.op == "child":
        return ref(f"{names[str(expr.attr('child'))]}.{expr.attr('state')}")
    return replace(expr, args=tuple(_children(a, names) for a in expr.args)) if expr.args else expr


def _leaf(block: Leaf) -> dict[str, Expr] | str:
    """The equations of a leaf, helper names written out, or why they cannot be."""
    given = {s.name: s.expr for s in block.body if isinstance(s, Let)}
    if len(given) < len(block.body):
        return "it has a block"
    lets = {n: e for n, e in given.items() if not n.endswith("'")}
    order = _ordered(lets)
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


def _too_large(rules: Rules, text: _Text) -> str | None:
    """Whether the text alone is too much: a derivation has at least its operations."""
    size = sum(map(operations, (*text.lets.values(), *text.new.values(), text.out, *text.leaf.values())))
    if size > rules.limits.size:
        return f"the size is at most {rules.limits.size} operations; received {size}"
    return None


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


def _wrong_states(rules: Rules, text: _Text) -> str | None:
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


def _namings(rules: Rules, text: _Text) -> Iterator[dict[str, str]]:
    """Which of the written lets stay lets, and derived from which nonterminal; the likeliest first.

    First each stays, as written; then those used once are free (the matching names
    again what must have a name), and those without weights may be written out.
    """
    order = _ordered(text.lets)
    fitting = {n: tuple(r for r in rules.let.rules if text.lets[n].op in rules.heads[r]) for n in order}
    if len(order) <= rules.let.most:
        for chosen in product(*(fitting[n] for n in order)):
            yield dict(zip(order, chosen, strict=True))
    repeated = [n for n in order if text.uses[n] > 1]
    bare = {n for n in repeated if not _weighted(text, text.lets[n])}
    options: list[tuple[str | None, ...]] = [
        (*fitting[n], *((None,) if n in bare and len(bare) <= MAX_INLINE else ())) for n in repeated
    ]
    for choice in product(*options):
        yield {n: c for n, c in zip(repeated, choice, strict=True) if c is not None}


def _ordered(lets: Mapping[str, Expr]) -> list[str]:
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


def _weighted(text: _Text, expr: Expr) -> bool:
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

    def __init__(self, rules: Rules, text: _Text, kept: Mapping[str, str]) -> None:
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
        for let in (n for n in _ordered(self.text.lets) if n in self.kept):
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
                taken = [*self.scope, *self.text.lets, *self.text.new, *(e.name for e in self.equations)]
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
