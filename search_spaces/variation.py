"""Typed variation: a small change of a derivation that stays in its space.

Each operator takes a derivation and gives another, or None where it does not apply. What results is tidied (unused
lets go) and checked against the limits and the requirements; a failed try is made again with a new draw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from typing import TypeVar

import numpy as np

from grammar import Cell, State
from search_spaces.derivation import LEAF, OUT, Derivation, Equation, Tree, dead, state_lines, state_of
from search_spaces.edits import Place, places, production, put, renamed, uses, with_part
from search_spaces.errors import NoCellError
from search_spaces.membership import exceeded
from search_spaces.motifs import Motif, graft, reference
from search_spaces.rules import StateRule
from search_spaces.sampling import STATE_NAMES, Sampler, below, let_name, pick
from search_spaces.varied import ATTEMPTS, BY_NAME, OF_TWO, Operator, Variation, drawn, until_other

Scope = Mapping[str, tuple[str, ...]]
_T = TypeVar("_T")

GROWTH = 4  # operations by which a part may grow when it is drawn anew


class Varier:
    """The operators of one space. All randomness comes from the generator passed in."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.rules = sampler.rules
        self.operators: dict[str, Callable[[Derivation, np.random.Generator], Derivation | None]] = {
            "replace": self.replace,
            "point": self.point,
            "insert": self.insert,
            "delete": self.delete,
            "rewire": self.rewire,
            "share": self.share,
            "unshare": self.unshare,
            "add_let": self.add_let,
            "add_state": self.add_state,
            "drop_state": self.drop_state,
        }
        if len(self.rules.forms) > 1:
            self.operators["children"] = self.children

    # -- the whole ------------------------------------------------------------------------------

    def mutate(self, cell: Cell, made: Derivation, rng: np.random.Generator, operator: Operator) -> Variation:
        """A child of `cell`, whose derivation is `made`, by one operator, or by one drawn at each try."""

        def one() -> tuple[str, Derivation | None]:
            name = drawn(rng, self.operators, operator)
            return name, self.operators[name](made, rng)

        attempts = BY_NAME if isinstance(operator, str) else ATTEMPTS
        child = self._until(one, (cell,), attempts)
        if child is None:
            what = operator if isinstance(operator, str) else "mutation"
            raise NoCellError(
                f"space {self.rules.name}: {what} gave no other cell in {attempts} tries; "
                f"received {cell.one_line}"
            )
        return child

    def crossover(
        self, cells: tuple[Cell, Cell], made: tuple[Derivation, Derivation], rng: np.random.Generator
    ) -> Variation:
        """The first cell with a part derived from the same nonterminal as in the second.

        Where no exchange gives another cell (the second has nothing that the first lacks), a mutation of the first.
        """
        child = self._until(lambda: ("crossover", self.exchange(*made, rng)), cells, OF_TWO)
        if child is None or child.neutral:
            return self.mutate(cells[0], made[0], rng, None)
        return child

    def graft(self, cell: Cell, made: Derivation, motif: Motif, rng: np.random.Generator) -> Variation:
        """The cell with a motif in place of something that the same nonterminal derives."""

        def one() -> tuple[str, Derivation | None]:
            grown = graft(self.rules, made, motif, rng)
            return "motif", None if grown is None else self.mend(grown, rng)

        child = self._until(one, (cell,), BY_NAME)
        if child is None:
            raise NoCellError(
                f"space {self.rules.name}: the motif {motif} fits nowhere in {BY_NAME} tries; "
                f"received {cell.one_line}"
            )
        return child

    def _until(
        self,
        one: Callable[[], tuple[str, Derivation | None]],
        parents: tuple[Cell, ...],
        attempts: int = ATTEMPTS,
    ) -> Variation | None:
        def cell() -> tuple[str, Cell | None]:
            name, raw = one()
            child = None if raw is None else self.tidy(raw)
            return name, None if child is None else child.cell(self.rules)

        return until_other(cell, parents, attempts)

    def tidy(self, made: Derivation) -> Derivation | None:
        """Without lets that nothing uses or that only rename; None if a limit or requirement is broken."""
        equations = list(made.equations)
        while True:
            used = {n for e in equations for n in e.tree.names()}
            kept = [e for e in equations if e.kind != "let" or e.name in used]
            if len(kept) == len(equations):
                break
            equations = kept
        found = Derivation(self.rules.name, made.states, tuple(equations), made.form)
        if any(not e.tree.size(self.rules) for e in found.lets()) or len(found.lets()) < self.rules.let.least:
            return None
        if exceeded(self.rules, found) or dead(self.rules, found):
            return None
        return found

    # -- operators ------------------------------------------------------------------------------

    def replace(self, made: Derivation, rng: np.random.Generator) -> Derivation | None:
        """Draw one part anew."""
        at = _any(rng, places(self.rules, made))
        new = self.fresh(rng, made, at, GROWTH)
        return None if new is None else put(made, at, new)

    def point(self, made: Derivation, rng: np.random.Generator) -> Derivation | None:
        """Another production in one place, with the same parts where they fit."""
        at = _any(rng, places(self.rules, made))
        productions = self.rules.rules[at.tree.rule].productions
        wanted = sorted(t.rule for t in at.tree.parts if isinstance(t, Tree))
        alike = [
            p.weight * (i != at.tree.production and sorted(h.rule for h in p.holes if h.rule) == wanted)
            for i, p in enumerate(productions)
        ]
        if not any(alike):
            return None
        number = pick(rng, alike)
        new = self._dress(rng, made, at, number, list(at.tree.parts))
        return None if new is None else put(made, at, new)

    def insert(self, made: Derivation, rng: np.random.Generator) -> Derivation | None:
        """An operation around one part."""
        at = _any(rng, places(self.rules, made))
        productions = self.rules.rules[at.tree.rule].productions
        fits = [p.weight * bool(p.ops and any(h.rule == at.tree.rule for h in p.holes)) for p in productions]
        if not any(fits):
            return None
        new = self._dress(rng, made, at, pick(rng, fits), [at.tree])
        return None if new is None else put(made, at, new)

    def delete(self, made: Derivation, rng: np.random.Generator) -> Derivation | None:
        """One part in place of one that it is a part of."""
        at = _any(rng, places(self.rules, made))
        inner = [t for t in at.tree.walk() if t.rule == at.tree.rule and t is not at.tree]
        return put(made, at, _any(rng, inner)) if inner else None

    def rewire(self, made: Derivation, rng: np.random.Generator) -> Derivation | None:
        """Another name in place of one."""
        used = uses(self.rules, made)
        if not used:
            return None
        at, hole = _any(rng, used)
        tag = production(self.rules, at.tree).holes[hole].tag
        others = [n for n in self.visible(made, at.equation, tag) if n != at.tree.parts[hole]]
        return put(made, at, with_part(at.tree, hole, _any(rng, others))) if others else None

    def share(self, made: Derivation, rng: np.random.Generator) -> Derivation | None:
        """Name one part, and use it in a second place."""
        before = len(made.lets())
        blank = Equation("", Tree("", 0))
        early = replace(made, equations=(*made.lets(), blank)).scope(self.rules, before)
        body = [p for p in places(self.rules, made) if made.equations[p.equation].kind != "leaf"]
        parts = [
            p
            for p in body
            if p.tree.rule in self.rules.let.rules and p.path and production(self.rules, p.tree).ops
            and all(n in early for n in p.tree.names()) and reference(self.rules, p.tree.rule) is not None
        ]  # fmt: skip
        if not parts:
            return None
        at = _any(rng, parts)
        name = let_name(at.tree.rule, made.taken(self.rules))
        number = reference(self.rules, at.tree.rule)
        assert number is not None
        shared = put(made, at, Tree(at.tree.rule, number, (name,)))
        before = min(at.equation, len(made.lets()))
        equations = (*shared.equations[:before], Equation(name, at.tree), *shared.equations[before:])
        shared = replace(shared, equations=equations)
        seconds = [
            (p, i)
            for p, i in uses(self.rules, shared)
            if p.equation > before and p.tree.parts[i] != name
            and name in self.visible(shared, p.equation, production(self.rules, p.tree).holes[i].tag)
        ]  # fmt: skip
        wholes = [
            p for p in places(self.rules, shared)
            if p.equation > before and p.tree.rule == at.tree.rule and p.tree.parts != (name,)
            and shared.equations[p.equation].kind != "leaf"
        ]  # fmt: skip
        if not seconds and not wholes:
            return None
        k = below(rng, len(seconds) + len(wholes))
        if k < len(seconds):
            place, hole = seconds[k]
            return put(shared, place, with_part(place.tree, hole, name))
        return put(shared, wholes[k - len(seconds)], Tree(at.tree.rule, number, (name,)))

    def unshare(self, made: Derivation, rng: np.random.Generator) -> Derivation | None:
        """Write a let out at each use, each with its own weights; where only a name fits, another one."""
        if not made.lets():
            return None
        let = _any(rng, made.lets())
        number = reference(self.rules, let.tree.rule)

        def out(tree: Tree) -> Tree:
            if tree.rule == let.tree.rule and tree.production == number and tree.parts == (let.name,):
                return let.tree
            return replace(tree, parts=tuple(out(p) if isinstance(p, Tree) else p for p in tree.parts))

        kept = [Equation(e.name, out(e.tree)) for e in made.equations if e is not let]
        return self.mend(replace(made, equations=tuple(kept)), rng)

    def add_let(self, made: Derivation, rng: np.random.Generator) -> Derivation | None:
        """A new named value in place of one name."""
        let = self.rules.let
        among = uses(self.rules, made)
        if not let.most or not among:
            return None
        rule = let.rules[pick(rng, let.weights)]
        at, hole = _any(rng, among)
        if (
            production(self.rules, at.tree).holes[hole].tag != rule
            or made.equations[at.equation].kind == "leaf"
        ):
            return None
        name = let_name(rule, made.taken(self.rules))
        before = min(at.equation, len(made.lets()))
        blank = Equation(name, Tree(rule, 0))
        grown = replace(made, equations=(*made.equations[:before], blank, *made.equations[before:]))
        scope = grown.scope(self.rules, before)
        tree = self.draw(rng, rule, self.rules.limits.nesting, scope, self._left(made), least=1)
        if tree is None:
            return None
        grown = put(grown, Place(before, (), blank.tree, 0), tree)
        return put(grown, replace(at, equation=at.equation + 1), with_part(at.tree, hole, name))

    def add_state(self, made: Derivation, rng: np.random.Generator) -> Derivation | None:
        """One more state, read in one place."""
        lines = [r for r in self.rules.states if sum(map(r.fits, made.states)) < r.most]
        if not lines or not self.rules.limits.holds(len(made.states) + 1):
            return None
        line = _any(rng, lines)
        taken = made.taken(self.rules)
        name = next(n for n in chain(STATE_NAMES, (f"s{i}" for i in count())) if n not in taken)
        state = State(name, line.type, line.init)
        at = self._line_end(made, line) - below(rng, 1 + sum(map(line.fits, made.states)))
        states = self._ordered_states((*made.states, state), made, at, state)
        equations = [*made.equations[:at], Equation(f"{name}'", Tree(line.rule, 0)), *made.equations[at:]]
        new = [at]
        if made.form.children:
            new.append(next(i for i, e in enumerate(equations) if e.name == OUT) + 1 + states.index(state))
            equations.insert(new[1], Equation(f"{LEAF}{name}'", Tree(line.leaf, 0)))
        grown = Derivation(made.name, states, tuple(equations), made.form)
        for number in new:
            blank = grown.equations[number].tree
            scope, left = grown.scope(self.rules, number), self._left(made)
            tree = self.draw(rng, blank.rule, self.rules.limits.nesting, scope, left)
            if tree is None:
                return None
            grown = put(grown, Place(number, (), blank, 0), tree)
        names = (f"{name}'", *line.old(name, made.form))
        readers = [
            (p, i, n)
            for p, i in uses(self.rules, grown)
            if p.equation not in new
            for n in names
            if n in self.visible(grown, p.equation, production(self.rules, p.tree).holes[i].tag)
        ]
        if not readers:
            return None
        place, hole, read = _any(rng, readers)
        return put(grown, place, with_part(place.tree, hole, read))

    def drop_state(self, made: Derivation, rng: np.random.Generator) -> Derivation | None:
        """One state less; what read it reads something else."""
        lines = [r for r in self.rules.states if sum(map(r.fits, made.states)) > r.least]
        droppable = [s for s in made.states if any(r.fits(s) for r in lines)]
        if not droppable or len(made.states) == 1 or not self.rules.limits.holds(len(made.states) - 1):
            return None
        state = _any(rng, droppable)
        kept = tuple(e for e in made.equations if e.kind in ("let", OUT) or state_of(e.name) != state.name)
        states = tuple(s for s in made.states if s is not state)
        return self.mend(Derivation(made.name, states, kept, made.form), rng)

    def children(self, made: Derivation, rng: np.random.Generator) -> Derivation | None:
        """The same over other children; what read one reads another."""
        others = [f for f in self.rules.forms if f != made.form]
        return self.mend(replace(made, form=_any(rng, others)), rng)

    def exchange(self, a: Derivation, b: Derivation, rng: np.random.Generator) -> Derivation | None:
        """`a` with a part of `b` in place of one derived from the same nonterminal."""
        at = _any(rng, places(self.rules, a))
        donors = [p for p in places(self.rules, b) if p.tree.rule == at.tree.rule and p.tree != at.tree]
        if not donors:
            return None
        donor = _any(rng, donors).tree
        names = self._states_of(a, b)
        imported = self._lets_of(b, donor)
        equations = a.equations
        if imported and len(imported) + len(a.lets()) <= self.rules.let.most and rng.random() < 0.5:
            taken = a.taken(self.rules)
            for let in imported:
                names[let.name] = let_name(let.tree.rule, taken)
                taken.append(names[let.name])
            new = tuple(Equation(names[e.name], renamed(e.tree, names)) for e in imported)
            before = min(at.equation, len(a.lets()))
            equations = (*equations[:before], *new, *equations[before:])
            at = replace(at, equation=at.equation + len(new))
        names |= self._children_of(a, b, names)
        return self.mend(put(replace(a, equations=equations), at, renamed(donor, names)), rng)

    # -- parts ----------------------------------------------------------------------------------

    def visible(self, made: Derivation, equation: int, tag: str) -> list[str]:
        """The names of a class that an equation sees."""
        return [n for n, classes in made.scope(self.rules, equation).items() if tag in classes]

    def draw(
        self,
        rng: np.random.Generator,
        rule: str,
        depth: int,
        scope: Scope,
        most: int,
        least: int = 0,
    ) -> Tree | None:
        """A derivation from `rule` by the grammar's probabilities, of `least` to `most` operations, or None."""
        groups: list[list[str]] = [[] for _ in self.rules.groups]
        for name, classes in scope.items():
            groups[self.rules.group(classes)].append(name)
        may = tuple(map(tuple, groups))
        seen = tuple(map(len, may))
        if depth < 0 or most < 0:
            return None
        weights = self.sampler.counter.value(rule, depth, seen, seen)[least : most + 1]
        if not weights.any():
            return None
        nothing: tuple[tuple[str, ...], ...] = ((),) * len(may)
        return self.sampler.tree(rng, rule, depth, may, nothing, seen, least + pick(rng, weights.tolist()))

    def fresh(self, rng: np.random.Generator, made: Derivation, at: Place, growth: int) -> Tree | None:
        """Something else for one place, at most `growth` operations larger."""
        size = at.tree.size(self.rules)
        most = min(self._left(made) + size, size + growth)
        return self.draw(rng, at.tree.rule, at.depth, made.scope(self.rules, at.equation), most)

    def _left(self, made: Derivation) -> int:
        return self.rules.limits.size - made.size(self.rules)

    def _dress(
        self, rng: np.random.Generator, made: Derivation, at: Place, number: int, given: list[Tree | str]
    ) -> Tree | None:
        """A node of production `number` with the given parts where they fit, in any order, and new ones elsewhere."""
        scope = made.scope(self.rules, at.equation)
        parts: list[Tree | str | None] = []
        holes = self.rules.rules[at.tree.rule].productions[number].holes
        order = [*range(len(holes))]
        if len(given) == 1:  # of several holes that fit, any may take it
            start = below(rng, len(order)) if order else 0
            order = order[start:] + order[:start]
        parts = [None] * len(holes)
        for i in order:
            h = holes[i]
            fit = next((g for g in given if _fits(g, h.rule, h.tag, scope)), None)
            if fit is not None:
                given.remove(fit)
                parts[i] = fit
            elif h.rule is None:
                names = [n for n, classes in scope.items() if h.tag in classes]
                parts[i] = _any(rng, names) if names else None
            else:
                parts[i] = self.draw(rng, h.rule, at.depth - h.depth, scope, GROWTH)
        if any(p is None for p in parts):
            return None
        return Tree(at.tree.rule, number, tuple(p for p in parts if p is not None))

    def mend(self, made: Derivation, rng: np.random.Generator) -> Derivation | None:
        """With visible names in place of those that are not visible where they stand; None if there are none."""
        equations: list[Equation] = []
        for number, e in enumerate(made.equations):
            scope = made.scope(self.rules, number)
            tree = self._mended(e.tree, scope, self.rules.limits.nesting, rng)
            if tree is None:
                return None
            equations.append(Equation(e.name, tree))
        return replace(made, equations=tuple(equations))

    def _mended(self, tree: Tree, scope: Scope, depth: int, rng: np.random.Generator) -> Tree | None:
        parts: list[Tree | str] = []
        for part, h in zip(tree.parts, production(self.rules, tree).holes, strict=True):
            if isinstance(part, Tree):
                inner = self._mended(part, scope, depth - h.depth, rng)
            elif h.tag in scope.get(part, ()):
                parts.append(part)
                continue
            else:
                names = [n for n, classes in scope.items() if h.tag in classes]
                if names:
                    parts.append(_any(rng, names))
                    continue
                inner = None
            if inner is None:
                return self.draw(rng, tree.rule, depth, scope, tree.size(self.rules) + 1)
            parts.append(inner)
        return replace(tree, parts=tuple(parts))

    def _line_end(self, made: Derivation, line: StateRule) -> int:
        """After which equations the new values of a `state` line end."""
        lines, order = state_lines(self.rules, made.states), self.rules.states
        return sum(
            e.kind == "let" or (e.kind == "new" and order.index(lines[e.name[:-1]]) <= order.index(line))
            for e in made.equations
        )

    def _ordered_states(
        self, states: tuple[State, ...], made: Derivation, at: int, new: State
    ) -> tuple[State, ...]:
        """States in the order of their equations, `new` at equation `at`."""
        order = [e.name[:-1] for e in made.equations[:at] if e.kind == "new"]
        order += [new.name, *(e.name[:-1] for e in made.equations[at:] if e.kind == "new")]
        return tuple(sorted(states, key=lambda s: order.index(s.name)))

    def _states_of(self, a: Derivation, b: Derivation) -> dict[str, str]:
        """Names of `b`'s states, plain and primed, to those of `a` of the same line and place."""
        found: dict[str, str] = {}
        for line in self.rules.states:
            ours = [s.name for s in a.states if line.fits(s)]
            theirs = [s.name for s in b.states if line.fits(s)]
            for i, name in enumerate(theirs):
                if ours:
                    other = ours[min(i, len(ours) - 1)]
                    found |= {name: other, f"{name}'": f"{other}'"}
        return found

    def _children_of(self, a: Derivation, b: Derivation, names: Mapping[str, str]) -> dict[str, str]:
        """Names of `b`'s values at leaves and of children to those of `a`, where the children are the same."""
        found = {f"{LEAF}{old}": f"{LEAF}{new}" for old, new in names.items() if old.endswith("'")}
        if a.form == b.form:
            states = {s.name for s in b.states}
            found |= {
                f"{c}.{old}": f"{c}.{new}"
                for old, new in names.items()
                if old in states
                for c in a.form.children
            }
        return found

    def _lets_of(self, made: Derivation, tree: Tree) -> list[Equation]:
        """The lets that a part needs, in their order."""
        needed = set(tree.names())
        for e in reversed(made.lets()):
            if e.name in needed:
                needed |= set(e.tree.names())
        return [e for e in made.lets() if e.name in needed]


def _fits(part: Tree | str, rule: str | None, tag: str, scope: Scope) -> bool:
    if isinstance(part, Tree):
        return part.rule == rule
    return rule is None and tag in scope.get(part, ())


def _any(rng: np.random.Generator, among: Sequence[_T]) -> _T:
    return among[below(rng, len(among))]
