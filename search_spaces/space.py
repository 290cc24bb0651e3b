"""What a search space is: a set of cells, with ways to draw them, to change them and to tell what is in it."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable

import numpy as np

from grammar import Cell
from search_spaces.errors import NoCellError, NotAMemberError, SpaceError
from search_spaces.motifs import Motif
from search_spaces.rules import Limits
from search_spaces.varied import Operator, Variation
from search_spaces.walking import Choice, Chooser

WAYS = ("weights", "size")


class Space(ABC):
    """A set of cells; made by `load_space`.

    A cell's size is its number of operations: names, numbers and x are none.
    """

    # -- what it is -----------------------------------------------------------------------------

    @property
    @abstractmethod
    def name(self) -> str:
        """The name after the word `space`, or that of the sketch."""

    @property
    @abstractmethod
    def doc(self) -> str:
        """The comment at the head of the file: what the space holds."""

    @property
    @abstractmethod
    def limits(self) -> Limits:
        """The bounds of size and depth."""

    @property
    @abstractmethod
    def claims(self) -> tuple[str, ...]:
        """Names of zoo cells that the file says are members."""

    @property
    @abstractmethod
    def text(self) -> str:
        """The file."""

    @property
    @abstractmethod
    def operators(self) -> tuple[str, ...]:
        """The names of the mutation operators of `vary`."""

    @property
    def digest(self) -> str:
        """SHA-256 of the file, 64 hex digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    # -- drawing --------------------------------------------------------------------------------

    def sample(self, rng: np.random.Generator, size: int | None = None, by: str = "weights") -> Cell:
        """A member. The same generator state gives the same cell, in any process.

        by="weights": by the probabilities of the file. by="size": a size drawn uniformly, then one of its derivations
        drawn uniformly (they are counted exactly).

        `size` asks for cells of so many operations and leaves the way of drawing as it is: by weights, likely cells of
        that size come more often; `size=k, by="size"` gives each of its derivations equally often. Raises NoCellError
        where there is no such cell.
        """
        if by not in WAYS:
            raise SpaceError(f"cells are drawn by {' or '.join(map(repr, WAYS))}; received {by!r}")
        if size is not None and (isinstance(size, bool) or not isinstance(size, int | np.integer)):
            raise SpaceError(f"a size is a whole number of operations; received {size!r}")
        if size is not None and not self.limits.least_size <= size <= self.limits.size:
            raise NoCellError(
                f"a cell of space {self.name} has {self.limits.least_size} to {self.limits.size} operations; "
                f"received size={size}"
            )
        return self._draw(rng, size, by == "weights")

    @abstractmethod
    def _draw(self, rng: np.random.Generator, size: int | None, weighted: bool) -> Cell:
        """`sample`, its arguments being good."""

    @abstractmethod
    def count(self, alive: bool = False) -> tuple[int, ...]:
        """For each size from 0 up, the number of derivations within the limits; exact. A cell may have several.

        With `alive`, of those in which all that the space requires reaches the output.
        """

    # -- probability ----------------------------------------------------------------------------

    @abstractmethod
    def log_prob(self, cell: Cell) -> float:
        """The natural logarithm of the probability that `sample` by weights gives this cell; -inf for no member.

        The sum over all derivations of the cell as written: names, the order of statements and of commutative operands
        do not count. Raises SpaceError for a cell whose states and helper names can be written in more orders, or that
        fills a sketch in more ways, than can be summed over.
        """

    def fit(self, cells: Iterable[Cell], strength: float = 10.0) -> Space:
        """This space with weights from how often derivations of `cells` use each alternative.

        A cell with several derivations counts by their mean. `strength` > 0 is how many uses of each set of
        alternatives the weights until now are worth, so that nothing becomes impossible. Members and claims stay.
        Raises NotAMemberError.
        """
        if not (math.isfinite(strength) and strength > 0):
            raise SpaceError(f"strength is a number greater than 0; received {strength!r}")
        return self._fitted([*cells], strength)

    @abstractmethod
    def _fitted(self, cells: list[Cell], strength: float) -> Space:
        """`fit`, its arguments being good."""

    # -- choices --------------------------------------------------------------------------------

    @property
    @abstractmethod
    def sites(self) -> dict[str, int]:
        """Where choices are made when a cell is derived step by step, and how many options each has at most."""

    @abstractmethod
    def walk(self, choose: Chooser) -> Cell | None:
        """The cell of the choices that `choose(site, weights)` makes, one after the other.

        It is given the site and a weight for each option, and returns the number of one whose weight is not 0: in
        proportion to the weights it draws from the grammar, though not with the probabilities of `sample`, which
        draws a size first. None if no member comes of it: the choices ran into a limit, or the output does not depend
        on all that the space requires.
        """

    @abstractmethod
    def choices(self, cell: Cell) -> list[Choice]:
        """The choices by which `walk` gives a member, or one that differs in names. Raises NotAMemberError."""

    # -- membership -----------------------------------------------------------------------------

    @abstractmethod
    def why_not(self, cell: Cell) -> str | None:
        """The reason why a cell is no member, or None."""

    def __contains__(self, cell: object) -> bool:
        """Whether a cell, as written, is a member; names and the order of commutative operands do not count."""
        return isinstance(cell, Cell) and self.why_not(cell) is None

    @abstractmethod
    def size(self, cell: Cell) -> int:
        """The number of operations of a member. Raises NotAMemberError."""

    def _one(self, cell: object) -> Cell:
        """What is given, if it is a cell."""
        if isinstance(cell, Cell):
            return cell
        hint = ": grammar.parse makes one of a text" if isinstance(cell, str) else ""
        shown = repr(cell) if len(repr(cell)) <= 60 else f"{repr(cell)[:60]}..."
        raise SpaceError(f"a space is asked about a Cell{hint}; received {shown}")

    def _refuse(self, cell: Cell, why: str) -> NotAMemberError:
        return NotAMemberError(f"not a member of space {self.name}: {why}; received {cell.one_line}")

    # -- variation ------------------------------------------------------------------------------

    def vary(
        self, cell: Cell, rng: np.random.Generator, other: Cell | None = None, operator: Operator = None
    ) -> Variation:
        """A child of a member, and how it was made: by crossover with `other`, or by a mutation operator.

        `operator` is one of `operators`, or weights of some by which one is drawn at each try; None: all alike.
        Where an exchange gives no other cell, the child is a mutation of `cell`, and the variation says so.
        Children are members and differ from their parents in text; by digest too unless the variation says that it is
        neutral. Raises NotAMemberError, and NoCellError if none was found in a bounded number of tries.
        """
        named = () if operator is None else (operator,) if isinstance(operator, str) else (*operator,)
        for name in named:
            if name not in self.operators:
                raise SpaceError(f"the mutation operators are {', '.join(self.operators)}; received {name!r}")
        return self._crossed(cell, other, rng) if other is not None else self._mutated(cell, rng, operator)

    @abstractmethod
    def _mutated(self, cell: Cell, rng: np.random.Generator, operator: Operator) -> Variation:
        """A mutation by one operator, or by one drawn at each try."""

    @abstractmethod
    def _crossed(self, cell: Cell, other: Cell, rng: np.random.Generator) -> Variation:
        """A crossover, or where that gives no other cell a mutation."""

    def mutate(self, cell: Cell, rng: np.random.Generator) -> Cell:
        """A member that differs from the member `cell` in one place; see `vary`."""
        return self.vary(cell, rng).cell

    def crossover(self, a: Cell, b: Cell, rng: np.random.Generator) -> Cell:
        """The member `a` with a part of the same kind from the member `b`; see `vary`.

        Where that gives no other cell, a mutation of `a`.
        """
        return self.vary(a, rng, other=b).cell

    def motifs(self, cell: Cell) -> frozenset[Motif]:
        """The parts of a member that `graft` can put into another; none in a space of sketches. See motifs.py."""
        return frozenset()

    def graft(self, cell: Cell, motif: Motif, rng: np.random.Generator) -> Variation:
        """The member `cell` with a motif in one place, or in two under one name; a child as of `vary`.

        Raises NotAMemberError, and NoCellError if it fits nowhere.
        """
        raise NoCellError(f"space {self.name} has no motifs; received {motif}")

    # -- for readers ----------------------------------------------------------------------------

    @abstractmethod
    def describe(self) -> str:
        """What the space holds, its limits, and its alternatives with their probabilities in percent."""

    def __repr__(self) -> str:
        return f"<Space {self.name}>"
