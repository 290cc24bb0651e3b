"""From a space file as read to checked rules: names, types, termination."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import prod

from grammar import (
    IN,
    NAMED,
    OPS,
    Expr,
    GrammarError,
    Span,
    Type,
    one_newline,
    ref,
    show_expr,
    suggest,
    zoo_names,
)
from search_spaces import reader
from search_spaces.children import sums
from search_spaces.errors import SpaceFileError
from search_spaces.reader import OPERANDS, Alternative, Named, SpaceFile
from search_spaces.rules import (
    HOLE,
    INPUT,
    NEW,
    TIME,
    Form,
    Hole,
    LetRule,
    Limits,
    Production,
    Rule,
    Rules,
    StateRule,
    count,
    hole,
    nesting,
    operations,
)

MAX = {"size": 100, "least_size": 100, "depth": 60, "states": 16, "least_states": 16}  # of each limit
MAX_OPERANDS = 6  # in one production of a list
MAX_WAYS = 10_000  # to choose the types of operands


def parse_space(text: str, source: str) -> Rules:
    """The checked rules of a space file. Raises SpaceFileError with line, column and caret."""
    file = reader.read(text, source)
    try:
        return _Check(file, text).run()
    except SpaceFileError as error:
        error.locate(text, source)
        raise


def doc(text: str) -> str:
    """The comment at the head of a space file."""
    lines: list[str] = []
    for line in one_newline(text).split("\n"):
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("#").strip())
    return "\n".join(lines)


class _Check:
    def __init__(self, file: SpaceFile, text: str) -> None:
        self.file = file
        self.text = text
        self.types: dict[str, Type] = {}
        self.tags: dict[str, Type | None] = {INPUT: IN}  # None: names of several types

    def run(self) -> Rules:
        self._nonterminals()
        forms = self._forms()
        states = self._states()
        let = self._let()
        self._classes(states, let, forms)
        rules = {
            line.name.name: Rule(
                line.name.name,
                None if self.types[line.name.name] == OPERANDS else self.types[line.name.name],
                tuple(self._production(line.name.name, a) for a in line.alternatives),
                line.name.span,
            )
            for line in self.file.rules
        }
        _terminates(rules)
        for line in self.file.rules:
            for alternative, made in zip(line.alternatives, rules[line.name.name].productions, strict=True):
                self._typed(line.name.name, alternative, made, rules)
        made_rules = Rules(
            self.file.name.name,
            doc(self.text),
            self.text,
            self._limits(states),
            self._known(self.file.claims, zoo_names(), "cell of the zoo"),
            self._known(self.file.require, ("x", "states", NEW), "requirement"),
            states,
            let,
            rules,
            forms,
        )
        _derives(made_rules)
        sums(made_rules)
        return made_rules

    # -- lines ------------------------------------------------------------------------------

    def _nonterminals(self) -> None:
        for line in self.file.rules:
            name = line.name.name
            if name in self.types:
                raise SpaceFileError(
                    f"a nonterminal has one rule; {name!r} has two (alternatives are separated by '|')",
                    line.name.span,
                )
            if name in OPS:
                raise SpaceFileError(
                    f"{name!r} is an operation and cannot name a nonterminal", line.name.span
                )
            kind = line.type or NAMED.get(name)
            if kind is None:
                raise SpaceFileError(
                    f"the nonterminal {name!r} needs a type, as in `{name}: vec -> ...`", line.name.span
                )
            self.types[name] = kind
        if "out" not in self.types:
            raise SpaceFileError(
                "a space says what a cell emits: a rule `out -> ...` is missing", self.file.name.span
            )

    def _states(self) -> tuple[StateRule, ...]:
        made: list[StateRule] = []
        for line in self.file.states:
            rule = line.rule or line.cls
            self._nonterminal(rule)
            kind = line.type or self.types.get(line.cls.name) or self.types[rule.name]
            if self.types[rule.name] != kind:
                raise SpaceFileError(
                    f"a state of type {kind} needs new values of that type; "
                    f"{rule.name!r} is {self.types[rule.name]}",
                    rule.span,
                )
            leaf = self._leaf(line, kind)
            state = StateRule(line.least, line.most, line.cls.name, kind, line.init, rule.name, leaf)
            if any(s.type == state.type and s.init == state.init for s in made):
                raise SpaceFileError(
                    f"two `state` lines differ in type or initial value; received {kind} twice", line.span
                )
            made.append(state)
        if not made or sum(s.most for s in made) == 0:
            raise SpaceFileError(
                "a space has states: a line `state{1..2} vec` is missing", self.file.name.span
            )
        return tuple(made)

    def _leaf(self, line: reader.StateLine, kind: Type) -> str:
        """The rule of a state's values at leaves; none in a space over time."""
        if line.leaf is None:
            if self.file.children:
                raise SpaceFileError(
                    "over trees a state says what it is at a leaf, as in `state vec -> update leaf start`",
                    line.span,
                )
            return ""
        if not self.file.children:
            raise SpaceFileError("only a space with `children -> ...` has leaves", line.leaf.span)
        self._nonterminal(line.leaf)
        if self.types[line.leaf.name] != kind:
            raise SpaceFileError(
                f"a state of type {kind} needs values of that type at leaves; "
                f"{line.leaf.name!r} is {self.types[line.leaf.name]}",
                line.leaf.span,
            )
        return line.leaf.name

    def _forms(self) -> tuple[Form, ...]:
        """The children of cells over trees; those of a form are told apart by their names."""
        taken: set[str] = set(self.types)
        for form in self.file.children:
            for child in form.names:
                if child.name in taken or child.name in (INPUT, "out", "state", "new", "self"):
                    raise SpaceFileError(
                        f"the name of a child is of nothing else; received {child.name!r}", child.span
                    )
                taken.add(child.name)
        made = tuple(Form(tuple(n.name for n in f.names), f.variadic) for f in self.file.children)
        shapes = [(len(f.children), f.variadic) for f in made]
        for i, line in enumerate(self.file.children):
            if shapes[i] in shapes[:i]:
                raise SpaceFileError("two forms differ in the number of children", line.names[0].span)
        return made or (TIME,)

    def _let(self) -> LetRule:
        if not self.file.lets:
            return LetRule()
        line = self.file.lets[0]
        if len(self.file.lets) > 1:
            raise SpaceFileError(
                "a space has one line `let{0..4} -> ...`; received two", self.file.lets[1].span
            )
        for rule in line.rules:
            self._nonterminal(rule)
            if self.types[rule.name] == OPERANDS:
                raise SpaceFileError(f"a let has one value; {rule.name!r} derives operands", rule.span)
        names = tuple(r.name for r in line.rules)
        return LetRule(line.least, line.most, names, tuple(r.number for r in line.rules))

    def _classes(self, states: Sequence[StateRule], let: LetRule, forms: Sequence[Form]) -> None:
        """Which classes of names there are, and their types."""
        given: list[tuple[str, Type]] = [(r, self.types[r]) for r in let.rules]
        for s in states:
            old = [t for form in forms for tags in s.old("", form, own=True).values() for t in tags]
            given += [(t, s.type) for t in (*old, *s.renewed)]
        for tag, kind in given:
            if self.tags.setdefault(tag, kind) != kind:
                self.tags[tag] = None

    def _limits(self, states: Sequence[StateRule]) -> Limits:
        given: dict[str, int] = {}
        at = self.file.name.span
        for named, relation in self.file.limits:
            key = f"least_{named.name}" if relation == ">=" else named.name
            if key not in MAX:
                raise SpaceFileError(
                    "limits are size <= n, size >= n, depth <= n, states <= n and states >= n; "
                    f"received {named.name} {relation}"
                    f"{suggest(named.name, ('size', 'depth', 'states'))}",
                    named.span,
                )
            if not named.number.is_integer() or not 0 <= named.number <= MAX[key]:
                raise SpaceFileError(
                    f"a limit is a whole number from 0 to {MAX[key]} here; received {named.number:g}",
                    named.span,
                )
            if key in given:
                raise SpaceFileError(
                    f"a limit is given once; {named.name} {relation} is given twice", named.span
                )
            given[key] = int(named.number)
            if named.name == "states":
                at = named.span
        if "size" not in given:
            raise SpaceFileError(
                "a space bounds its cells: `limits size <= n` is missing", self.file.name.span
            )
        limits = Limits(**given)
        if limits.least_size > limits.size:
            raise SpaceFileError(
                f"a size is at least {limits.least_size} and at most {limits.size}: no cell has both", at
            )
        if not any(map(limits.holds, range(sum(s.least for s in states), sum(s.most for s in states) + 1))):
            bounds = [f"at least {limits.least_states}"] * ("least_states" in given)
            bounds += [f"at most {limits.states}"] * ("states" in given)
            lines = count(sum(s.least for s in states), sum(s.most for s in states))
            raise SpaceFileError(
                f"the `state` lines give {lines} states, the limits {' and '.join(bounds)}: no cell has both",
                at,
            )
        return limits

    def _known(self, names: Sequence[Named], known: Sequence[str], what: str) -> tuple[str, ...]:
        for n in names:
            if n.name not in known:
                raise SpaceFileError(f"unknown {what} {n.name!r}{suggest(n.name, known)}", n.span)
        return tuple(n.name for n in names)

    def _nonterminal(self, named: Named) -> None:
        if named.name not in self.types:
            raise SpaceFileError(
                f"unknown nonterminal {named.name!r}{suggest(named.name, self.types)}", named.span
            )

    # -- productions ------------------------------------------------------------------------

    def _production(self, rule: str, given: Alternative) -> Production:
        if len(given.items) > 1 and self.types[rule] != OPERANDS:
            raise SpaceFileError(
                f"only a nonterminal of type operands derives a list; {rule!r} is {self.types[rule]}",
                given.span,
            )
        if len(given.items) > MAX_OPERANDS:
            raise SpaceFileError(
                f"a list has at most {MAX_OPERANDS} operands; received {len(given.items)}", given.span
            )
        holes: list[Hole] = []
        labels: dict[tuple[str, str], int] = {}

        def resolve(expr: Expr, depth: int) -> Expr:
            if expr.op == reader.NONTERMINAL:
                holes.append(Hole(self._called(expr), "", depth))
            elif expr.op == reader.NAMES or expr.op == INPUT:
                tag = INPUT if expr.op == INPUT else self._class(expr)
                label = str(expr.attr("label"))
                if label and (tag, label) in labels:
                    return hole(labels[tag, label])
                labels[tag, label] = len(holes)
                holes.append(Hole(None, tag, depth))
            else:
                return Expr(expr.op, tuple(resolve(a, depth + 1) for a in expr.args), expr.attrs, expr.span)
            return hole(len(holes) - 1)

        items = tuple(resolve(e, 0) for e in given.items)
        ops = sum(map(operations, items))
        text = ", ".join(show_expr(_written(e)) for e in given.items)
        return Production(items, tuple(holes), given.weight, ops, max(map(nesting, items)), text)

    def _called(self, expr: Expr) -> str:
        name = str(expr.attr("name"))
        if name not in self.types:
            near = suggest(name, (*self.types, *(f"{op}(...)" for op in OPS)))
            raise SpaceFileError(
                f"unknown nonterminal {name!r}; visible names are written with $, as in $vec{near}", expr.span
            )
        return name

    def _class(self, expr: Expr) -> str:
        tag = str(expr.attr("tag"))
        if tag not in self.tags or tag == INPUT:
            known = sorted(set(self.tags) - {INPUT})
            raise SpaceFileError(
                f"unknown class of names ${tag}; the classes are {', '.join('$' + k for k in known)}"
                f"{suggest(tag, known)}",
                expr.span,
            )
        if self.tags[tag] is None:
            raise SpaceFileError(
                f"${tag} has names of several types; name one `state` line, "
                f"as in ${self.file.states[0].cls.name}_{tag}",
                expr.span,
            )
        return tag

    def _typed(self, rule: str, given: Alternative, made: Production, rules: dict[str, Rule]) -> None:
        """Check that every way to fill the lists of operands gives the type of the nonterminal."""
        for item, source in zip(made.items, given.items, strict=True):
            for found in self._types(item, source, made, rules):
                if self.types[rule] != OPERANDS and found != self.types[rule]:
                    raise SpaceFileError(
                        f"{rule!r} derives values of type {self.types[rule]}; this one is {found}",
                        source.span,
                    )

    def _types(self, item: Expr, source: Expr, made: Production, rules: dict[str, Rule]) -> Iterator[Type]:
        """The possible types of an expression of a production; `source` is it as written, with places."""
        if item.op == HOLE:
            found = made.holes[int(item.attr("index"))]  # type: ignore[arg-type]
            kind = self.tags[found.tag] if found.rule is None else self.types[found.rule]
            assert kind is not None
            yield kind
        elif item.op == "num":
            yield Type("num")
        else:
            yield from dict.fromkeys(self._applied(item, source, made, rules))

    def _applied(self, item: Expr, source: Expr, made: Production, rules: dict[str, Rule]) -> Iterator[Type]:
        op = OPS[item.op]
        options = []
        for arg, place in zip(item.args, source.args, strict=True):
            lists = self._lists(arg, made, rules)
            if lists and op.arity[1] is not None:
                raise SpaceFileError(f"`{op.name}` takes single operands, not a list of operands", place.span)
            options.append(lists or [(t,) for t in self._types(arg, place, made, rules)])
        for chosen in _ways(options, source.span):
            types = [t for part in chosen for t in part]
            try:
                yield op.rule(types, dict(item.attrs))
            except GrammarError as error:
                raise SpaceFileError(f"`{op.name}`: {error}", source.span) from None

    def _lists(self, arg: Expr, made: Production, rules: dict[str, Rule]) -> list[tuple[Type, ...]]:
        """The types of each list that a hole of type operands can hold; empty for any other expression."""
        if arg.op != HOLE:
            return []
        rule = made.holes[int(arg.attr("index"))].rule  # type: ignore[arg-type]
        if rule is None or self.types[rule] != OPERANDS:
            return []
        found: list[tuple[Type, ...]] = []
        for p in rules[rule].productions:
            parts = [self._lists(i, p, rules) or [(t,) for t in self._types(i, i, p, rules)] for i in p.items]
            found += [tuple(t for part in chosen for t in part) for chosen in _ways(parts, rules[rule].span)]
        return list(dict.fromkeys(found))


def _ways(
    options: Sequence[Sequence[tuple[Type, ...]]], place: Span | None
) -> Iterator[tuple[tuple[Type, ...], ...]]:
    """Each choice of the types of operands: lists of lists have as many as the product of theirs."""
    count = prod(map(len, options))
    if count > MAX_WAYS:
        raise SpaceFileError(
            f"operands may be of at most {MAX_WAYS:,} combinations of types; received {count:,}", place
        )
    return product(*options)


def _written(expr: Expr) -> Expr:
    """An expression as read, for printing: nonterminals and classes of names as they stand in a file."""
    if expr.op == reader.NONTERMINAL:
        return ref(str(expr.attr("name")))
    if expr.op == reader.NAMES:
        label = str(expr.attr("label"))
        return ref(f"${expr.attr('tag')}" + (f".{label}" if label else ""))
    return replace(expr, args=tuple(map(_written, expr.args)))


def _terminates(rules: dict[str, Rule]) -> None:
    """Refuse nonterminals that derive themselves without an operation around: sizes would not bound them."""
    below = {
        name: sorted({h.rule for p in rule.productions for h in p.holes if h.rule and h.depth == 0})
        for name, rule in rules.items()
    }
    for name in rules:
        seen: set[str] = set()
        stack = [*below[name]]
        while stack:
            at = stack.pop()
            if at == name:
                raise SpaceFileError(
                    f"{name!r} derives itself without an operation around it", rules[name].span
                )
            if at not in seen:
                seen.add(at)
                stack += below[at]


def _derives(rules: Rules) -> None:
    """Refuse nonterminals that can never be completed."""
    done: set[str] = set()
    while True:
        found = {
            name
            for name, rule in rules.rules.items()
            if any(all(h.rule is None or h.rule in done for h in p.holes) for p in rule.productions)
        }
        if found == done:
            break
        done = found
    for name, rule in rules.rules.items():
        if name not in done:
            raise SpaceFileError(
                f"{name!r} derives nothing: each of its alternatives needs {name!r} or a nonterminal like it",
                rule.span,
            )
