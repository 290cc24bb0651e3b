"""A search space: a set of cells, with ways to draw them, to change them and to tell what is in it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np

from grammar import Cell
from search_spaces.check import parse_space
from search_spaces.counting import Counter
from search_spaces.derivation import Derivation
from search_spaces.errors import NoCellError, NotAMemberError, SpaceError
from search_spaces.fitting import fit
from search_spaces.likelihood import Likelihood
from search_spaces.membership import derive
from search_spaces.printer import show_rules
from search_spaces.reaching import Reach
from search_spaces.rules import NEW, Limits, Rules
from search_spaces.sampling import Sampler
from search_spaces.variation import Variation, Varier

WAYS = ("weights", "size")
REQUIRED = {
    "x": "the output depends on x",
    "states": "the output depends on the past of every state",
    NEW: "each new value is used in the same step",
}


class Space:
    """The cells that a space file derives within its limits; made by `load_space`.

    A cell's size is its number of operations: names, numbers and x are none. The output of every cell depends on what
    the file requires (`require x, states`), and on every let.
    """

    def __init__(self, text: str, source: str = "<text>") -> None:
        self.rules: Rules = parse_space(text, source)
        self._derived: WeakKeyDictionary[Cell, Derivation | str] = WeakKeyDictionary()

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
    def digest(self) -> str:
        """SHA-256 of the file, 64 hex digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()

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

    def sample(self, rng: np.random.Generator, size: int | None = None, by: str = "weights") -> Cell:
        """A member. The same generator state gives the same cell, in any process.

        by="weights": by the grammar's probabilities, given that the cell is a member; numbers of states and lets are
        equally likely. by="size": a size drawn uniformly, then one of its derivations drawn uniformly (they are
        counted exactly). `size` asks for that many operations. Raises NoCellError where there is no such cell.
        """
        if by not in WAYS:
            raise SpaceError(f"cells are drawn by {' or '.join(map(repr, WAYS))}; received {by!r}")
        sampler = self._weighted if by == "weights" else self._counting
        if size is not None and not self.limits.least_size <= size <= self.limits.size:
            raise NoCellError(
                f"a cell of space {self.name} has {self.limits.least_size} to {self.limits.size} operations; "
                f"received size={size}"
            )
        return sampler.draw(rng, size).cell(self.rules)

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
                    why = (
                        " with `require new`"
                        if NEW in self.rules.require
                        else f": up to {self.rules.let.most} lets"
                    )
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

    def fit(self, cells: Iterable[Cell], strength: float = 10.0) -> Space:
        """This space with weights from how often derivations of `cells` use each production.

        A cell with several derivations counts by their mean. `strength` > 0 is how many uses of each nonterminal the
        weights until now are worth, so that nothing becomes impossible. Members, limits and claims stay. Cells drawn
        under a limit of size favour small productions, which `fit` does not undo. Raises NotAMemberError.
        """
        if not (math.isfinite(strength) and strength > 0):
            raise SpaceError(f"strength is a number greater than 0; received {strength!r}")
        shares = [self._likelihood.share(self._member(c)) for c in cells]
        return Space(show_rules(fit(self.rules, shares, strength)), f"{self.name} fitted")

    # -- membership -----------------------------------------------------------------------------

    def __contains__(self, cell: object) -> bool:
        """Whether a cell, as written, is a member; names and the order of commutative operands do not count."""
        return isinstance(cell, Cell) and not isinstance(self._derive(cell), str)

    def why_not(self, cell: Cell) -> str | None:
        """The reason why a cell is no member, or None."""
        found = self._derive(cell)
        return found if isinstance(found, str) else None

    def size(self, cell: Cell) -> int:
        """The number of operations of a member. Raises NotAMemberError."""
        return self._member(cell).size(self.rules)

    def _derive(self, cell: Cell) -> Derivation | str:
        found = self._derived.get(cell)
        if found is None:
            found = self._derived[cell] = derive(self.rules, cell)
        return found

    def _member(self, cell: Cell) -> Derivation:
        found = self._derive(cell)
        if isinstance(found, str):
            raise NotAMemberError(f"not a member of space {self.name}: {found}; received {cell.one_line}")
        return found

    # -- variation ------------------------------------------------------------------------------

    def vary(
        self, cell: Cell, rng: np.random.Generator, other: Cell | None = None, operator: str | None = None
    ) -> Variation:
        """A child of a member, and how it was made: by crossover with `other`, or by a mutation operator.

        Where an exchange gives no other cell, the child is a mutation of `cell`, and the variation says so.
        Children are members and differ from their parents in text; by digest too unless the variation says that it is
        neutral. Raises NotAMemberError, and NoCellError if none was found in a bounded number of tries.
        """
        if other is not None:
            return self._varier.crossover((cell, other), (self._member(cell), self._member(other)), rng)
        if operator is not None and operator not in self.operators:
            raise SpaceError(f"the mutation operators are {', '.join(self.operators)}; received {operator!r}")
        return self._varier.mutate(cell, self._member(cell), rng, operator)

    def mutate(self, cell: Cell, rng: np.random.Generator) -> Cell:
        """A member that differs from the member `cell` in one place; see `vary`."""
        return self.vary(cell, rng).cell

    def crossover(self, a: Cell, b: Cell, rng: np.random.Generator) -> Cell:
        """The member `a` with a part of the same kind from the member `b`; see `vary`.

        Where that gives no other cell, a mutation of `a`.
        """
        return self.vary(a, rng, other=b).cell

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
        if self.claims:
            yield f"  zoo cells in it: {', '.join(self.claims)}"
        if rules.require:
            yield f"  always: {'; '.join(REQUIRED[r] for r in rules.require)}"
        yield from (f"  {s}" for s in rules.states)
        if rules.let.most:
            yield f"  {rules.let}"
        for rule in rules.rules.values():
            kind = "operands" if rule.type is None else str(rule.type)
            yield f"  {rule.name}: {kind}"
            for p in sorted(rule.productions, key=lambda p: -p.weight):
                yield f"    {100 * p.weight / rule.total:5.1f} %  {p.text}"

    def __repr__(self) -> str:
        return f"<Space {self.name}>"
