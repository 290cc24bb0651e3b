"""The equations of a text by their places: which name means which equation, through blocks and leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from grammar import Depth, Expr, Leaf, Let, Out, Repeat, Statement

Path = tuple[int, ...]  # of a statement in the text: its number, in blocks those of the blocks before it
UNTIL = -1  # in place of a number: the gate of a `depth` block


@dataclass(frozen=True, slots=True)
class Equation:
    """`name = expr`, `out expr` or `until(expr)`: its place, and its name if it has one."""

    path: Path
    name: str
    expr: Expr

    @property
    def scope(self) -> Path:
        """The place of the block around it."""
        return self.path[:-1]

    @property
    def let(self) -> bool:
        """Whether it is needed only where its name is used."""
        return bool(self.name) and not self.name.endswith("'")


class Places:
    """Every equation of a text, and what a name means where it is used."""

    def __init__(self, statements: Sequence[Statement]) -> None:
        self.equations: dict[Path, Equation] = {}
        self._lets: dict[Path, dict[str, Path]] = {}
        self._leaves: set[Path] = set()
        self._add((), statements)

    def _add(self, scope: Path, statements: Sequence[Statement]) -> None:
        names = self._lets.setdefault(scope, {})
        for number, s in enumerate(statements):
            path = (*scope, number)
            if isinstance(s, Let):
                self.equations[path] = Equation(path, s.name, s.expr)
                if not s.primed:
                    names[s.name] = path
            elif isinstance(s, Out):
                self.equations[path] = Equation(path, "", s.expr)
            else:
                if isinstance(s, Leaf):
                    self._leaves.add(path)
                if isinstance(s, Depth) and s.until is not None:
                    until = (*path, UNTIL)
                    self.equations[until] = Equation(until, "", s.until)
                self._add(path, s.body)

    def let(self, expr: Expr, scope: Path) -> Path | None:
        """The place of the let that an expression in a block names, or None if it names none."""
        if expr.op != "ref":
            return None
        name = str(expr.attr("name"))
        while True:
            found = self._lets[scope].get(name)
            if found is not None or not scope or scope in self._leaves:
                return found
            scope = scope[:-1]

    def roots(self) -> list[Equation]:
        """What is computed for its own sake: new values, `out`, gates."""
        return [e for e in self.equations.values() if not e.let]

    def users_first(self) -> list[Equation]:
        """The roots, then the lets in an order in which each comes after all that may use it."""
        uses = {
            e.path: [p for n in e.expr.walk() if (p := self.let(n, e.scope)) is not None]
            for e in self.equations.values()
            if e.let
        }
        done: dict[Path, None] = {}
        for path in uses:
            todo = [path]
            while todo:
                waiting = [p for p in uses[todo[-1]] if p not in done]
                if waiting:
                    todo.append(waiting[0])
                else:
                    done.setdefault(todo.pop())
        return [*self.roots(), *(self.equations[p] for p in reversed(done))]


def skeleton(statements: Sequence[Statement]) -> tuple[str, ...]:
    """The blocks of a text, whatever their order: kinds, counts and what is inside them."""
    made: list[str] = []
    for s in statements:
        if not isinstance(s, Let | Out):
            made.append(f"{_kind(s)} {skeleton(s.body)}")
    return tuple(sorted(made))


def _kind(block: Repeat | Depth | Leaf) -> str:
    if isinstance(block, Leaf):
        return "leaf"
    if isinstance(block, Repeat):
        return f"repeat {block.times} {block.fresh}"
    return f"depth {block.times} {block.until is not None}"


def block_pairs(
    ours: Sequence[Statement], theirs: Sequence[Statement], here: Path = (), there: Path = ()
) -> Iterator[dict[Path, Path]]:
    """Each way to pair the blocks of two texts of the same skeleton, as places; the texts themselves are a pair."""
    mine, other = (
        [(i, s) for i, s in enumerate(text) if not isinstance(s, Let | Out)] for text in (ours, theirs)
    )

    def paired(number: int, left: list[tuple[int, Repeat | Depth | Leaf]]) -> Iterator[dict[Path, Path]]:
        if number == len(mine):
            yield {here: there}
            return
        i, a = mine[number]
        for k, (j, b) in enumerate(left):
            if _kind(a) == _kind(b) and skeleton(a.body) == skeleton(b.body):
                for inner in block_pairs(a.body, b.body, (*here, i), (*there, j)):
                    for rest in paired(number + 1, left[:k] + left[k + 1 :]):
                        yield inner | rest

    yield from paired(0, other)


def rebuilt(
    statements: Sequence[Statement], exprs: Mapping[Path, Expr], scope: Path = ()
) -> tuple[Statement, ...]:
    """The text with other expressions; lets that have none are left out."""
    made: list[Statement] = []
    for number, s in enumerate(statements):
        path = (*scope, number)
        if isinstance(s, Let):
            if path in exprs:
                made.append(Let(s.name, exprs[path]))
        elif isinstance(s, Out):
            made.append(Out(exprs[path]))
        elif isinstance(s, Depth):
            until = None if s.until is None else exprs[*path, UNTIL]
            made.append(Depth(s.times, until, rebuilt(s.body, exprs, path)))
        elif isinstance(s, Repeat):
            made.append(Repeat(s.times, s.fresh, rebuilt(s.body, exprs, path)))
        else:
            made.append(Leaf(rebuilt(s.body, exprs, path)))
    return tuple(made)
