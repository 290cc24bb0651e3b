"""A space given by rules: the cells that a weighted grammar derives within its limits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np

from grammar import Cell, Sketch
from search_spaces.check import parse_space
from search_spaces.counting import Counter
from search_spaces.derivation import Derivation, Tree
from search_spaces.errors import SpaceError
from search_spaces.fitting import fit
from search_spaces.likelihood import Likelihood
from search_spaces.membership import derive
from search_spaces.motifs import Motif, motifs
from search_spaces.neighbourhood import neighbourhood
from search_spaces.printer import declarations, heading, show_rules
from search_spaces.reaching import Reach
from search_spaces.rules import NEW, Limits, Rules
from search_spaces.sampling import Sampler
from search_spaces.space import Space
from search_spaces.variation import Varier
from search_spaces.varied import Operator, Variation
from search_spaces.walking import Choice, Chooser, Walker

REQUIRED = {
    "x": "the output depends on x",
    "states": "the output depends on the past of every state",
    NEW: "each new value is used in the same step",
}


class GrammarSpace(Space):
    """The cells that the rules of a space file derive within its limits.

    The output of every cell depends on what the file requires (`require x, states`), and on every let. In `sample` by
    weights, numbers of states and of lets are equally likely.
    """

    def __init__(self, text: str, source: str = "<text>") -> None:
        self.rules: Rules = parse_space(text, source)
        self._derived: WeakKeyDictionary[Cell, Derivation | str] = WeakKeyDictionary()
        self._motifs: WeakKeyDictionary[Cell, frozenset[Motif]] = WeakKeyDictionary()
        self._checked: set[object] = set()

    @property
    def name(self) -> str:
        """The name after the word `space`."""
        return self.rules.name

    @property
    def doc(self) -> str:
        """The comment at the head of the file: what the space holds."""
        return self.rules.doc

    @property
    def limits(self) -> Limits:
        """The bounds of size and depth."""
        return self.rules.limits

    @property
    def claims(self) -> tuple[str, ...]:
        """Names of zoo cells that the file says are members."""
        return self.rules.claims

    @property
    def text(self) -> str:
        """The file."""
        return self.rules.text

    @property
    def operators(self) -> tuple[str, ...]:
        """The names of the mutation operators of `vary`."""
        return tuple(self._varier.operators)

    @cached_property
    def _weighted(self) -> Sampler:
        return Sampler(Counter(self.rules, exact=self._counting.counter))

    @cached_property
    def _likelihood(self) -> Likelihood:
        return Likelihood(self._weighted)

    @cached_property
    def _counting(self) -> Sampler:
        return Sampler(Counter(self.rules))

    @cached_property
    def _varier(self) -> Varier:
        return Varier(self._weighted)

    # -- drawing --------------------------------------------------------------------------------

    def _draw(self, rng: np.random.Generator, size: int | None, weighted: bool) -> Cell:
        sampler = self._weighted if weighted else self._counting
        return self._cell(sampler.draw(rng, size))

    def _cell(self, made: Derivation) -> Cell:
        """The cell of a derivation, checked if it has a production or a set of states that no cell had before.

        Types, arities and options are matters of single productions, so what was checked in one cell holds in others;
        but weights that share a label are not, so cells of a space with labels are always checked.
        """
        parts: set[object] = {made.form, tuple(s.type for s in made.states)}
        stack: list[Tree | str] = [e.tree for e in made.equations]
        while stack:
            at = stack.pop()
            if isinstance(at, Tree):
                parts.add((at.rule, at.production))
                stack += at.parts
        sound = parts <= self._checked and not self._labels
        cell = made.cell(self.rules, sound)
        self._checked |= parts
        return cell

    @cached_property
    def _labels(self) -> bool:
        return any(
            node.attr("share")
            for rule in self.rules.rules.values()
            for p in rule.productions
            for item in p.items
            for node in item.walk()
        )

    def count(self, alive: bool = False) -> tuple[int, ...]:
        """For each size from 0 up, the number of derivations that use every let, within the limits; exact.

        With `alive`, of those in which all that the space requires, and every let, reaches the output. A cell may have
        several derivations. Raises SpaceError where the alive ones of a space with many lets take too long to count, or
        where it has `require new`.
        """
        sampler = self._counting
        if alive:
            total = sampler.counter.zeros()
            for plan in reversed(sampler.plans):  # those with the most lets first
                series = Reach(sampler).series(plan)
                if series is None:
                    why = " over trees" if self.rules.trees else f": up to {self.rules.let.most} lets"
                    why = " with `require new`" if NEW in self.rules.require else why
                    raise SpaceError(f"space {self.name}: its alive derivations cannot be counted{why}")
                total = total + series
            return tuple(int(n) for n in total)
        total = sum((sampler.series(plan) for plan in sampler.plans), sampler.counter.zeros())
        least = self.limits.least_size
        return tuple(int(n) if i >= least else 0 for i, n in enumerate(total))

    # -- probability ----------------------------------------------------------------------------

    def log_prob(self, cell: Cell) -> float:
        """The natural logarithm of the probability that `sample` by weights gives this cell; -inf for no member.

        The sum over all derivations of the cell as written: names, the order of statements and of commutative operands
        do not count, but a let is a let (where the text has lets that no derivation has, those of the derivation by
        which it is a member). Samples that miss what the space requires are drawn again, and the probability is
        conditioned on that: exactly where the derivations in which all is reached can be summed, otherwise (many lets)
        by an estimate that is the same constant for all cells.
        """
        found = self._derive(cell)
        return -math.inf if isinstance(found, str) else self._likelihood.log_prob(found)

    def _fitted(self, cells: list[Cell], strength: float) -> GrammarSpace:
        # Cells drawn under a limit of size favour small productions, which this does not undo.
        shares = [self._likelihood.share(self._member(c)) for c in cells]
        return GrammarSpace(show_rules(fit(self.rules, shares, strength)), f"{self.name} fitted")

    # -- choices --------------------------------------------------------------------------------

    @cached_property
    def _walker(self) -> Walker:
        return Walker(self._weighted)

    @property
    def sites(self) -> dict[str, int]:
        """`plan` (numbers of states and lets), `let`, each nonterminal, and `$class` for each class of names."""
        return self._walker.sites

    def walk(self, choose: Chooser) -> Cell | None:
        """The cell of the choices that `choose(site, weights)` makes, or None; see `Space.walk`."""
        made = self._walker.walk(choose)
        return None if made is None else self._cell(made)

    def choices(self, cell: Cell) -> list[Choice]:
        """The choices by which `walk` gives a member, or one that differs in names."""
        return self._walker.choices(self._member(cell))

    # -- membership -----------------------------------------------------------------------------

    def why_not(self, cell: Cell) -> str | None:
        """The reason why a cell is no member, or None."""
        found = self._derive(cell)
        return found if isinstance(found, str) else None

    def size(self, cell: Cell) -> int:
        """The number of operations of a member. Raises NotAMemberError."""
        return self._member(cell).size(self.rules)

    def _derive(self, cell: Cell) -> Derivation | str:
        found = self._derived.get(self._one(cell))
        if found is None:
            found = self._derived[cell] = derive(self.rules, cell)
        return found

    def _member(self, cell: Cell) -> Derivation:
        found = self._derive(cell)
        if isinstance(found, str):
            raise self._refuse(cell, found)
        return found

    # -- variation ------------------------------------------------------------------------------

    def _mutated(self, cell: Cell, rng: np.random.Generator, operator: Operator) -> Variation:
        return self._varier.mutate(cell, self._member(cell), rng, operator)

    def _crossed(self, cell: Cell, other: Cell, rng: np.random.Generator) -> Variation:
        return self._varier.crossover((cell, other), (self._member(cell), self._member(other)), rng)

    def motifs(self, cell: Cell) -> frozenset[Motif]:
        """The parts of a member that `graft` can put into another: of 2 to 8 operations, names left open."""
        found = self._motifs.get(cell)
        if found is None:
            found = self._motifs[cell] = motifs(self.rules, self._member(cell))
        return found

    def graft(self, cell: Cell, motif: Motif, rng: np.random.Generator) -> Variation:
        """The member `cell` with a motif in one place, or in two under one name; see `Space.graft`."""
        return self._varier.graft(cell, self._member(cell), motif, rng)

    def neighbourhood(
        self, cell: Cell, rng: np.random.Generator, changes: int = 12, share: float = 0.125
    ) -> Sketch:
        """The member `cell` and `changes` of its mutations as a sketch: holes at some of its places.

        An option that is a mutation has the weight `share` (at most a half), what stands there now the rest; a part
        that a mutation keeps has the same weights with and without it. Each mutation by itself gives a member, not
        always several together: `cell in space` says. Raises NotAMemberError, and SpaceError for a space over trees
        and a cell that has no mutation of one place.
        """
        if changes < 1 or not 0 < share <= 0.5:
            raise SpaceError(
                f"a neighbourhood has at least 1 change of a share in (0, 0.5]; received {changes} of {share:g}"
            )
        return neighbourhood(self._varier, self._member(cell), rng, changes, share)

    # -- for readers ----------------------------------------------------------------------------

    def describe(self) -> str:
        """What the space holds, its limits, and its productions with their probabilities in percent."""
        return "\n".join(self._described()) + "\n"

    def _described(self) -> Iterator[str]:
        rules, limits = self.rules, self.limits
        yield f"space {self.name}"
        yield from (f"  {line}" for line in self.doc.splitlines())
        least = f"{limits.least_size} to " if limits.least_size else "at most "
        yield f"  {least}{limits.size} operations, nested at most {limits.nesting} deep"
        if limits.least_states:
            yield f"  at least {limits.least_states} of the states below"
        if self.claims:
            yield f"  zoo cells it claims: {', '.join(self.claims)}"
        if rules.require:
            yield f"  always: {'; '.join(REQUIRED[r] for r in rules.require)}"
        yield from (f"  {line}" for line in declarations(rules))
        for rule in rules.rules.values():
            yield f"  {heading(rule)}"
            for p in sorted(rule.productions, key=lambda p: -p.weight):
                yield f"    {100 * p.weight / rule.total:5.1f} %  {p.text}"
