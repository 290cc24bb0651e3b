"""A space given by sketches: all ways to fill their holes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np

from grammar import Cell, Sketch, parse_sketch, show_expr, show_state, show_statement
from search_spaces import matching
from search_spaces.errors import NoCellError, SpaceError
from search_spaces.matching import Found, reading, readings
from search_spaces.places import Places
from search_spaces.printer import rounded
from search_spaces.rules import Limits, operations
from search_spaces.sampling import below, pick
from search_spaces.space import Space
from search_spaces.templates import Tables, Template
from search_spaces.varied import ATTEMPTS, OF_TWO, Operator, Variation, drawn, until_other
from search_spaces.walking import SKETCH, Choice, Chooser, Holes, hole_site

Reading = tuple[int, Found]  # the number of a sketch and the options of its holes
NOTHING = np.random.default_rng(0)  # where nothing is left to draw
SEVERAL = (2, 4)  # holes that `several` fills anew


class SketchSpace(Space):
    """The cells that sketches become when each hole is filled with one of its options.

    A let that the chosen options do not use is left out. In `sample` by weights each sketch is equally likely, and in
    each hole the options are as likely as they weigh.
    """

    def __init__(
        self,
        name: str,
        sketches: Sequence[Sketch],
        doc: str = "",
        claims: tuple[str, ...] = (),
        text: str | None = None,
    ) -> None:
        self.sketches = tuple(sketches)
        self._name, self._doc, self._claims = name, doc, claims
        self._text = self._shown(self.sketches) if text is None else text
        self.templates = [Template(s) for s in self.sketches]
        self._derived: WeakKeyDictionary[Cell, list[Reading] | str] = WeakKeyDictionary()

    @property
    def name(self) -> str:
        return self._name

    @property
    def doc(self) -> str:
        return self._doc

    @property
    def claims(self) -> tuple[str, ...]:
        return self._claims

    @property
    def text(self) -> str:
        return self._text

    @cached_property
    def limits(self) -> Limits:
        """The least and the greatest size, and how deep operations may be nested."""
        sizes = [n for n, ways in enumerate(self.count()) if ways]
        return Limits(sizes[-1], sizes[0], max(t.depth for t in self.templates))

    @property
    def operators(self) -> tuple[str, ...]:
        return ("point", "several", "sketch") if len(self.templates) > 1 else ("point", "several")

    # -- drawing --------------------------------------------------------------------------------

    def _draw(self, rng: np.random.Generator, size: int | None, weighted: bool) -> Cell:
        if size is None and weighted:
            template = self.templates[below(rng, len(self.templates))]
            return template.cell(template.complete({}, rng))
        if size is None:
            sizes = [n for n, ways in enumerate(self.count()) if ways]
            size = sizes[below(rng, len(sizes))]
        tables = self._likely if weighted else self._counted
        shares = [t.whole[size] if size < t.length else 0 for t in tables]
        if not any(shares):
            raise NoCellError(f"space {self.name} has no cell of size {size}")
        chosen = tables[pick(rng, shares)]
        return chosen.template.cell(chosen.draw(rng, size))

    @cached_property
    def _likely(self) -> list[Tables]:
        return [Tables(t, weighted=True) for t in self.templates]

    @cached_property
    def _counted(self) -> list[Tables]:
        return [Tables(t, weighted=False) for t in self.templates]

    def count(self, alive: bool = False) -> tuple[int, ...]:
        """For each size from 0 up, in how many ways the holes that are reached can be filled; exact.

        All that is filled is alive: what is not reached is left out.
        """
        return self._counts

    @cached_property
    def _counts(self) -> tuple[int, ...]:
        found = [0] * max(t.length for t in self._counted)
        for t in self._counted:
            for n, ways in enumerate(t.whole):
                found[n] += int(ways)
        while not found[-1]:
            found.pop()
        return tuple(found)

    # -- probability ----------------------------------------------------------------------------

    def log_prob(self, cell: Cell) -> float:
        found = self._all(self._one(cell))
        if not found:
            return -math.inf
        greatest, shares = self._shares(found)
        return greatest + math.log(sum(shares)) - math.log(len(self.templates))

    def _all(self, cell: Cell) -> list[Reading]:
        """Every reading of a cell; none of one that is no member."""
        found: list[Reading] = []
        for number, template in enumerate(self.templates):
            ways = readings(template, cell)
            if ways is None:
                raise SpaceError(
                    f"a probability is a sum over all ways to fill the holes; {cell.name} as the sketch "
                    f"{template.sketch.name} has more than are found in {matching.STEPS:,} comparisons"
                )
            found += [(number, picks) for picks in ways]
        return found

    def _shares(self, found: list[Reading]) -> tuple[float, list[float]]:
        """The logarithm of the greatest probability of these, and each as a share of it: none is below all floats."""
        logs = [
            sum(math.log(sites[i].weights[k] / sum(sites[i].weights)) for i, k in picks)
            for number, picks in found
            for sites in [self.templates[number].sites]
        ]
        greatest = max(logs)
        return greatest, [math.exp(log - greatest) for log in logs]

    def _fitted(self, cells: list[Cell], strength: float) -> SketchSpace:
        used: dict[tuple[int, int, int], float] = {}
        for cell in cells:
            self._member(cell)
            found = self._all(cell)
            _, shares = self._shares(found)
            for (number, picks), share in zip(found, shares, strict=True):
                for site in picks:
                    at = (number, *site)
                    used[at] = used.get(at, 0.0) + share / sum(shares)
        sketches = []
        for number, template in enumerate(self.templates):
            weights = {
                i: tuple(
                    rounded(used.get((number, i, k), 0.0) + strength * w / sum(site.weights))
                    for k, w in enumerate(site.weights)
                )
                for i, site in enumerate(template.sites)
            }
            tree = template.sketch.tree
            children = f"({'*' if tree.variadic else ''}{', '.join(tree.children)})" if tree.children else ""
            body = [f"state {', '.join(map(show_state, tree.states))}"] if tree.states else []
            body += [show_statement(s) for s in template.weighted(weights)]
            sketches.append(parse_sketch(f"cell {tree.name}{children} {{ {'; '.join(body)} }}"))
        return SketchSpace(self.name, sketches, self.doc, self.claims)

    def _shown(self, sketches: Sequence[Sketch]) -> str:
        """A file of these sketches."""
        doc = "".join(f"# {line}".rstrip() + "\n" for line in self.doc.splitlines())
        claims = f"  claims {', '.join(self.claims)}\n" if self.claims else ""
        return f"{doc}space {self.name} {{\n{claims}" + "".join(map(str, sketches)) + "}\n"

    # -- choices --------------------------------------------------------------------------------

    @property
    def sites(self) -> dict[str, int]:
        """`sketch`, and each hole as `number of sketch.number of hole`."""
        found = {SKETCH: len(self.templates)}
        for number, template in enumerate(self.templates):
            found |= {hole_site(number, i): len(site.options) for i, site in enumerate(template.sites)}
        return found

    def walk(self, choose: Chooser) -> Cell | None:
        """The cell of the choices that `choose(site, weights)` makes; never None."""
        number = choose(SKETCH, [1.0] * len(self.templates))
        template = self.templates[number]
        holes = Holes(template, number, choose)
        return template.cell(template.complete(holes, NOTHING))

    def choices(self, cell: Cell) -> list[Choice]:
        """The choices by which `walk` gives a member."""
        number, picks = self._member(cell)[0]
        found = [Choice(SKETCH, (1.0,) * len(self.templates), number)]

        def one(site: str, weights: Sequence[float]) -> int:
            found.append(Choice(site, tuple(weights), wanted[site]))
            return wanted[site]

        wanted = {hole_site(number, i): option for i, option in picks}
        self.templates[number].complete(Holes(self.templates[number], number, one), NOTHING)
        return found

    # -- membership -----------------------------------------------------------------------------

    def why_not(self, cell: Cell) -> str | None:
        found = self._readings(cell)
        return found if isinstance(found, str) else None

    def size(self, cell: Cell) -> int:
        number, picks = self._member(cell)[0]
        return _size(self.templates[number].cell(dict(picks)))

    def _readings(self, cell: Cell) -> list[Reading] | str:
        """One reading as each sketch that the cell can be, or why it is no member."""
        known = self._derived.get(self._one(cell))
        if known is None:
            found: list[Reading] = []
            why = ""
            for number, template in enumerate(self.templates):
                read = reading(template, cell)
                if isinstance(read, str):
                    why = why or f"as the sketch {template.sketch.name}: {read}"
                else:
                    found.append((number, read))
            known = self._derived[cell] = found or why
        return known

    def _member(self, cell: Cell) -> list[Reading]:
        found = self._readings(cell)
        if isinstance(found, str):
            raise self._refuse(cell, found)
        return found

    # -- variation ------------------------------------------------------------------------------

    def _mutated(self, cell: Cell, rng: np.random.Generator, operator: Operator) -> Variation:
        number, picks = self._member(cell)[0]

        def one() -> tuple[str, Cell | None]:
            name = drawn(rng, self.operators, operator)
            return name, self._changed(name, number, dict(picks), rng)

        child = until_other(one, (cell,))
        if child is None:
            what = operator if isinstance(operator, str) else "mutation"
            raise NoCellError(
                f"space {self.name}: {what} gave no other cell in {ATTEMPTS} tries; received {cell.one_line}"
            )
        return child

    def _changed(
        self, operator: str, number: int, picks: dict[int, int], rng: np.random.Generator
    ) -> Cell | None:
        """A cell with other options in some holes: in one, in a few, or of another sketch altogether."""
        if operator == "sketch":
            number = (number + 1 + below(rng, len(self.templates) - 1)) % len(self.templates)
            picks = {}
        template = self.templates[number]
        open_holes = [i for i in picks if len(template.sites[i].options) > 1]
        if operator != "sketch" and not open_holes:
            return None
        few = 1 if operator == "point" else SEVERAL[0] + below(rng, SEVERAL[1] - SEVERAL[0] + 1)
        for _ in range(min(few, len(open_holes))):
            hole = open_holes.pop(below(rng, len(open_holes)))
            weights = list(template.sites[hole].weights)
            weights[picks[hole]] = 0.0
            picks[hole] = pick(rng, weights)
        return template.cell(template.complete(picks, rng))

    def _crossed(self, cell: Cell, other: Cell, rng: np.random.Generator) -> Variation:
        """Each hole with the option of one parent or of the other; parents of two sketches give a mutation."""
        number, ours = self._member(cell)[0]
        theirs = next((dict(picks) for n, picks in self._member(other) if n == number), None)
        if theirs is None:
            return self._mutated(cell, rng, None)
        template = self.templates[number]

        def one() -> tuple[str, Cell | None]:
            mixed = theirs | {i: k for i, k in ours if i not in theirs or rng.random() < 0.5}
            return "crossover", template.cell(template.complete(mixed, rng))

        differ = dict(ours) != theirs
        child = until_other(one, (cell, other), OF_TWO) if differ else None
        return self._mutated(cell, rng, None) if child is None or child.neutral else child

    # -- for readers ----------------------------------------------------------------------------

    def describe(self) -> str:
        return "\n".join(self._described()) + "\n"

    def _described(self) -> Iterator[str]:
        yield f"space {self.name}"
        yield from (f"  {line}" for line in self.doc.splitlines())
        yield f"  {self.limits.least_size} to {self.limits.size} operations, nested at most {self.limits.depth} deep"
        yield f"  {sum(self.count()):,} ways to fill the holes"
        if self.claims:
            yield f"  zoo cells it claims: {', '.join(self.claims)}"
        for template in self.templates:
            yield from (f"  {line}" for line in str(template.sketch).splitlines())
            for site in template.sites:
                yield f"  {template.sketch.name}: {site.name}"
                options = zip(site.options, site.weights, strict=True)
                for option, weight in sorted(options, key=lambda o: -o[1]):
                    yield f"    {100 * weight / sum(site.weights):5.1f} %  {show_expr(option)}"


def _size(cell: Cell) -> int:
    return sum(operations(e.expr) for e in Places(cell.statements).equations.values())
