"""A derivation as a sequence of choices, made by whoever asks: the view that a controller or a policy has of a space.

`sample` draws all of a cell at once, its size first; here each choice is made in turn, knowing those before it. A
choice has a site (a nonterminal, `$class` for a name, `let`, `plan`) and a weight for each option; what cannot be
completed within the limits of size and depth has weight 0. Whether the output depends on all that the space requires
shows only at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from grammar import State
from search_spaces.counting import Counter
from search_spaces.derivation import LEAF, OUT, Derivation, Equation, Tree, dead, state_lines
from search_spaces.membership import exceeded
from search_spaces.sampling import Plan, Sampler, let_name, state_names
from search_spaces.templates import Template

PLAN, LET, SKETCH = "plan", "let", "sketch"

Chooser = Callable[[str, Sequence[float]], int]
"""From a site and the weights of its options to the number of one whose weight is not 0."""


_Chooser = Callable[[str, Sequence[float], int | None], int]  # and what it is in the derivation that is given


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen at a site, and what its options weighed."""

    site: str
    weights: tuple[float, ...]
    chosen: int


class DeadEnd(Exception):
    """No option is left: what was chosen before cannot be completed."""


class Walker:
    """The choices of a space of rules."""

    def __init__(self, sampler: Sampler) -> None:
        self.rules = sampler.rules
        self.counter: Counter = sampler.counter
        self.plans = sampler.plans
        self._needs: dict[tuple[str, int, tuple[int, ...]], int] = {}

    @property
    def sites(self) -> dict[str, int]:
        """Every site and how many options it has at most."""
        rules = self.rules
        states = sum(s.most for s in rules.states) if rules.limits.states is None else rules.limits.states
        children = max(len(f.children) for f in rules.forms)
        names = 1 + states * (2 + children) + rules.let.most
        found = {PLAN: len(self.plans), LET: len(rules.let.rules)}
        found |= {name: len(rule.productions) for name, rule in rules.rules.items()}
        return found | {f"${tag}": names for tag in sorted(rules.tags)}

    def walk(self, choose: Chooser) -> Derivation | None:
        """The derivation of these choices; None if it breaks a limit or lacks what the space requires."""

        def one(site: str, weights: Sequence[float], wanted: int | None) -> int:
            if not any(weights):
                raise DeadEnd(site)
            return choose(site, weights)

        try:
            made = self._derivation(one, None)
        except DeadEnd:
            return None
        return None if exceeded(self.rules, made) or dead(self.rules, made) else made

    def choices(self, made: Derivation) -> list[Choice]:
        """The choices that give this derivation."""
        found: list[Choice] = []

        def one(site: str, weights: Sequence[float], wanted: int | None) -> int:
            assert wanted is not None
            found.append(Choice(site, tuple(weights), wanted))
            return wanted

        self._derivation(one, made)
        return found

    def _derivation(self, choose: _Chooser, made: Derivation | None) -> Derivation:
        """The derivation as it is chosen, or the choices of one that is given."""
        wanted = None if made is None else self.plans.index(self._plan(made))
        plan = self.plans[choose(PLAN, [1.0] * len(self.plans), wanted)]
        grown = self._blank(plan, made)
        for number in range(plan.lets):
            let = self.rules.let
            index = None if made is None else let.rules.index(made.equations[number].tree.rule)
            rule = let.rules[choose(LET, let.weights, index)]
            name = let_name(rule, grown.taken(self.rules)) if made is None else made.equations[number].name
            grown = _with(grown, number, Equation(name, Tree(rule, 0)))
        for number, equation in enumerate(grown.equations):
            left = self.rules.limits.size - sum(e.tree.size(self.rules) for e in grown.equations[:number])
            left -= sum(self._least(grown, i) for i in range(number + 1, len(grown.equations)))
            scope, depth = grown.scope(self.rules, number), self.rules.limits.nesting
            given = None if made is None else made.equations[number].tree
            tree = self._tree(choose, equation.tree.rule, depth, scope, left, given)
            grown = _with(grown, number, Equation(equation.name, tree))
        return grown

    def _plan(self, made: Derivation) -> Plan:
        lines = [*state_lines(self.rules, made.states).values()]
        counts = tuple(lines.count(line) for line in self.rules.states)
        return Plan(counts, len(made.lets()), self.rules.forms.index(made.form))

    def _blank(self, plan: Plan, made: Derivation | None) -> Derivation:
        """The equations of a plan, of which only names and nonterminals are known."""
        rules = self.rules
        if made is not None:
            blank = [
                Equation(e.name if e.kind != "let" else f"#{i}", Tree(e.tree.rule, 0))
                for i, e in enumerate(made.equations)
            ]
            return replace(made, equations=tuple(blank))
        lines = [line for line, n in zip(rules.states, plan.states, strict=True) for _ in range(n)]
        names = state_names(len(lines), rules)
        states = tuple(State(n, line.type, line.init) for n, line in zip(names, lines, strict=True))
        equations = [Equation(f"#{i}", Tree(rules.let.rules[0], 0)) for i in range(plan.lets)]
        equations += [Equation(f"{n}'", Tree(line.rule, 0)) for n, line in zip(names, lines, strict=True)]
        equations.append(Equation(OUT, Tree(OUT, 0)))
        form = rules.forms[plan.form]
        if form.children:
            equations += [
                Equation(f"{LEAF}{n}'", Tree(line.leaf, 0)) for n, line in zip(names, lines, strict=True)
            ]
        return Derivation(rules.name, states, tuple(equations), form)

    def _least(self, made: Derivation, number: int) -> int:
        """A bound from below of the size of an equation that is not derived yet."""
        equation = made.equations[number]
        if equation.kind == "let":
            return 1
        seen = self._seen(made.scope(self.rules, number))
        return self._need(equation.tree.rule, self.rules.limits.nesting, seen)

    def _seen(self, scope: Mapping[str, tuple[str, ...]]) -> tuple[int, ...]:
        found = [0] * len(self.rules.groups)
        for classes in scope.values():
            found[self.rules.group(classes)] += 1
        return tuple(found)

    def _need(self, rule: str, depth: int, seen: tuple[int, ...]) -> int:
        """The least size of what a nonterminal derives; more than the limit if there is nothing."""
        key = (rule, depth, seen)
        if key not in self._needs:
            there = [*self.counter.value(rule, depth, seen, seen).nonzero()[0]] if depth >= 0 else []
            self._needs[key] = int(there[0]) if there else self.counter.length
        return self._needs[key]

    def _tree(
        self,
        choose: _Chooser,
        rule: str,
        depth: int,
        scope: Mapping[str, tuple[str, ...]],
        left: int,
        given: Tree | None,
    ) -> Tree:
        """A derivation from `rule` of at most `left` operations."""
        seen = self._seen(scope)
        productions = self.rules.rules[rule].productions
        needs = [
            [self._hole(h.rule, h.tag, depth - h.depth, scope, seen) for h in p.holes] for p in productions
        ]
        weights = [
            p.weight * (p.depth <= depth and p.ops + sum(need) <= left)
            for p, need in zip(productions, needs, strict=True)
        ]
        number = choose(rule, weights, None if given is None else given.production)
        p, need = productions[number], needs[number]
        left -= p.ops + sum(need)
        parts: list[Tree | str] = []
        for i, h in enumerate(p.holes):
            part = given.parts[i] if given else None
            if h.rule is None:
                names = [n for n, classes in scope.items() if h.tag in classes]
                wanted = names.index(part) if isinstance(part, str) else None
                parts.append(names[choose(f"${h.tag}", [1.0] * len(names), wanted)])
            else:
                tree = part if isinstance(part, Tree) else None
                inner = self._tree(choose, h.rule, depth - h.depth, scope, left + need[i], tree)
                left -= inner.size(self.rules) - need[i]
                parts.append(inner)
        return Tree(rule, number, tuple(parts))

    def _hole(
        self,
        rule: str | None,
        tag: str,
        depth: int,
        scope: Mapping[str, tuple[str, ...]],
        seen: tuple[int, ...],
    ) -> int:
        if rule is not None:
            return self._need(rule, depth, seen)
        return 0 if any(tag in classes for classes in scope.values()) else self.counter.length


def _with(made: Derivation, number: int, equation: Equation) -> Derivation:
    return replace(made, equations=(*made.equations[:number], equation, *made.equations[number + 1 :]))


class Holes(Mapping[int, int]):
    """The options of the holes of a sketch, chosen as they are reached."""

    def __init__(self, template: Template, number: int, choose: Chooser) -> None:
        self.template, self.number, self.choose = template, number, choose

    def __getitem__(self, hole: int) -> int:
        return self.choose(hole_site(self.number, hole), self.template.sites[hole].weights)

    def __contains__(self, hole: object) -> bool:
        return True

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.template.sites)))

    def __len__(self) -> int:
        return len(self.template.sites)


def hole_site(sketch: int, hole: int) -> str:
    """The site of a hole of a sketch, both by number."""
    return f"{sketch}.{hole}"
