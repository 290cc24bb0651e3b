"""A search space: a set of cells, with ways to draw them, to change them and to tell what is in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np

from grammar import Cell
from search_spaces.check import parse_space
from search_spaces.counting import Counter
from search_spaces.derivation import Derivation
from search_spaces.errors import NoCellError, NotAMemberError, SpaceError
from search_spaces.membership import derive
from search_spaces.rules import Limits, Rules
from search_spaces.sampling import Sampler
from search_spaces.variation import Variation, Varier

WAYS = ("weights", "size")


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

    def count(self) -> tuple[int, ...]:
        """For each size from 0 up, the number of derivations that use every let, within the limits.

        A cell may have several derivations; those in which the output depends on x and on every state are fewer.
        """
        sampler = self._counting
        total = sum((sampler.series(plan) for plan in sampler.plans), sampler.counter.zeros())
        least = self.limits.least_size
        return tuple(int(n) if i >= least else 0 for i, n in enumerate(total))

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
            yield f"  the output always depends on {' and '.join(rules.require)}"
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
