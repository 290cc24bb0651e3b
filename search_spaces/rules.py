"""What a space file says, as data: limits, states, lets, and nonterminals with weighted productions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from grammar import OPS, Expr, Span, State, Type, show_state

HOLE = "hole"  # the leaf of a production's expression where a name or a derivation goes
INPUT = "x"
NEW = "new"  # the requirement that an equation after it uses each new value


@dataclass(frozen=True, slots=True)
class Hole:
    """A place in a production: for a derivation from `rule`, or, where that is None, for a visible name of class `tag`.

    The tag `x` is the input. `depth` is how many operations stand above it.
    """

    rule: str | None
    tag: str
    depth: int


@dataclass(frozen=True, slots=True)
class Production:
    """One alternative: expressions (several for a list of operands) with holes, and a weight.

    `ops` counts its own operations, `depth` how deep they are nested, the contents of holes left out.
    """

    items: tuple[Expr, ...]
    holes: tuple[Hole, ...]
    weight: float
    ops: int
    depth: int
    text: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A nonterminal: a name, the type of what it derives (None: a list of operands), its productions."""

    name: str
    type: Type | None
    productions: tuple[Production, ...]
    span: Span | None = field(default=None, compare=False, repr=False)

    @property
    def total(self) -> float:
        """The sum of the weights."""
        return sum(p.weight for p in self.productions)


@dataclass(frozen=True, slots=True)
class Form:
    """The children of a cell over trees, by name, or a name for any number of them; none: a cell over time."""

    children: tuple[str, ...] = ()
    variadic: bool = False

    def __str__(self) -> str:
        return ("*" if self.variadic else "") + ", ".join(self.children)


TIME = Form()


@dataclass(frozen=True, slots=True)
class StateRule:
    """`state{least..most} cls: type = init -> rule`: states visible as `$cls`, whose new values `rule` derives.

    In a space over trees `leaf` derives their values at leaves.
    """

    least: int
    most: int
    cls: str
    type: Type
    init: float | str
    rule: str
    leaf: str = ""

    def old(self, state: str, form: Form, own: bool = False) -> dict[str, tuple[str, ...]]:
        """The names of the old values of a state, and their classes; `own`: in the equation of its new value.

        Over time that is the state's name; over trees a name for each child.
        """
        if not form.children:
            return {state: self.own if own else self.plain}
        found: dict[str, tuple[str, ...]] = {}
        for child in form.children:
            of_child = (child, f"{self.cls}_{child}", *((f"self_{child}",) if own else ()))
            every = () if form.variadic else self.own if own else self.plain
            found[f"{child}.{state}"] = (*every, *of_child)
        return found

    @property
    def plain(self) -> tuple[str, ...]:
        """The classes of a state's name: `$cls`, `$state`, and of this line alone `$cls_state`."""
        return self.cls, "state", f"{self.cls}_state"

    @property
    def own(self) -> tuple[str, ...]:
        """The same in the equation of its new value: also `$self` and `$cls_self`."""
        return *self.plain, "self", f"{self.cls}_self"

    @property
    def renewed(self) -> tuple[str, ...]:
        """The classes of the name of a new value: `$cls`, `$new` and `$cls_new`."""
        return self.cls, "new", f"{self.cls}_new"

    def fits(self, state: State) -> bool:
        """Whether a state of a cell is one of these."""
        return state.type == self.type and state.init == self.init

    def __str__(self) -> str:
        declared = f"state{count(self.least, self.most)} {show_state(State(self.cls, self.type, self.init))}"
        return f"{declared} -> {self.rule}" + (f" leaf {self.leaf}" if self.leaf else "")


@dataclass(frozen=True, slots=True)
class LetRule:
    """`let{least..most} -> rule [weight] | ...`: helper names; one that `rule` derives is visible as `$rule`."""

    least: int = 0
    most: int = 0
    rules: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()

    def __str__(self) -> str:
        given = " | ".join(f"{r}{show_weight(w)}" for r, w in zip(self.rules, self.weights, strict=True))
        return f"let{count(self.least, self.most)} -> {given}"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a member. `size` is its number of operations, `depth` how deep they are nested in one equation.

    Names, numbers and x are no operations, so giving a value a name changes no size.
    """

    size: int
    least_size: int = 0
    depth: int = 30
    states: int | None = None
    least_states: int = 0

    def holds(self, states: int) -> bool:
        """Whether a member may have so many states."""
        return self.least_states <= states and (self.states is None or states <= self.states)

    @property
    def nesting(self) -> int:
        """The most operations above a leaf: the limit of depth, or what the size allows."""
        return min(self.depth, self.size)


@dataclass(frozen=True)
class Rules:
    """A whole space file, checked (see check.py)."""

    name: str
    doc: str
    text: str
    limits: Limits
    claims: tuple[str, ...]
    require: tuple[str, ...]
    states: tuple[StateRule, ...]
    let: LetRule
    rules: dict[str, Rule]
    forms: tuple[Form, ...] = (TIME,)

    @cached_property
    def tags(self) -> frozenset[str]:
        """The classes of names that some production refers to."""
        return frozenset(
            h.tag for r in self.rules.values() for p in r.productions for h in p.holes if h.rule is None
        )

    @cached_property
    def children(self) -> frozenset[str]:
        """The names of children in any form: no state and no let is called so."""
        return frozenset(child for form in self.forms for child in form.children)

    @cached_property
    def groups(self) -> tuple[frozenset[str], ...]:
        """Names are told apart only by which classes they are in: every set of classes that a name may have."""
        found = [self.relevant((INPUT,))]
        for s in self.states:
            for form in self.forms:
                found += [self.relevant(t) for own in (False, True) for t in s.old("", form, own).values()]
            found.append(self.relevant(s.renewed))
        found += [self.relevant((r,)) for r in self.let.rules]
        return tuple(dict.fromkeys(found))

    @cached_property
    def heads(self) -> dict[str, frozenset[str]]:
        """For each nonterminal, the operations that can be outermost in what it derives."""
        found: dict[str, frozenset[str]] = {}

        def visit(name: str) -> frozenset[str]:
            if name not in found:
                ops: set[str] = set()
                for p in self.rules[name].productions:
                    ops |= {item.op for item in p.items if item.op != HOLE}
                    # A derivation of itself without an operation around is refused, so this ends.
                    for h in p.holes:
                        if h.rule is not None and h.depth == 0:
                            ops |= visit(h.rule)
                found[name] = frozenset(ops)
            return found[name]

        for name in self.rules:
            visit(name)
        return found

    def relevant(self, tags: Sequence[str]) -> frozenset[str]:
        """Those of `tags` that some production refers to."""
        return self.tags.intersection(tags)

    @property
    def trees(self) -> bool:
        """Whether the cells are over trees."""
        return bool(self.forms[0].children)

    def group(self, tags: Sequence[str]) -> int:
        """The index in `groups` of a name with these classes."""
        return self.groups.index(self.relevant(tags))


def count(least: int, most: int) -> str:
    """`{1..2}`, or `{2}`."""
    return f"{{{least}}}" if least == most else f"{{{least}..{most}}}"


def show_weight(weight: float) -> str:
    """` [4]`; nothing for 1."""
    return "" if weight == 1 else f" [{weight:g}]"


def hole(index: int) -> Expr:
    """The leaf that stands for hole `index` of a production."""
    return Expr(HOLE, (), (("index", index),))


def fill(template: Expr, values: Sequence[Expr | tuple[Expr, ...]]) -> Iterator[Expr]:
    """The expressions that a template becomes: one, but for a hole that holds a list of operands."""
    if template.op == HOLE:
        value = values[int(template.attr("index"))]  # type: ignore[arg-type]
        if isinstance(value, tuple):
            yield from value
        else:
            yield value
    elif template.args:
        yield Expr(template.op, tuple(a for t in template.args for a in fill(t, values)), template.attrs)
    else:
        yield template


def operations(expr: Expr) -> int:
    """The number of operations in an expression: its size."""
    return sum(node.op in OPS for node in expr.walk())


def nesting(expr: Expr) -> int:
    """How deep operations are nested in an expression; 0 for a leaf."""
    inner = max((nesting(a) for a in expr.args), default=0)
    return inner + (expr.op in OPS)
