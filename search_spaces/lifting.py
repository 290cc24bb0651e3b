"""Choices moved from where they are named to where all their uses meet: f(choice{a | b}) = choice{f(a) | f(b)}."""

from __future__ import annotations

from collections.abc import Sequence

from grammar import Expr, Statement
from search_spaces.places import Path, Places, rebuilt

EXIT: Path = (-2,)  # what follows every new value and the output


def lifted(statements: Sequence[Statement], largest: int) -> tuple[Statement, ...]:
    """The statements with each choice that is a let of its own moved into the first equation all its uses go through.

    Lets on the way are written out there, once for each option. A choice stays where it is if there is no such
    equation, if it is used in a block, or if the equation would come to have more than `largest` nodes.
    """
    found = tuple(statements)
    holes = [
        e.name
        for e in Places(found).users_first()
        if e.let and e.expr.op == "choice" and len(e.path) == 1  # not what becomes a choice by lifting
    ]
    for name in holes:
        places = Places(found)
        here = [path for path, e in places.equations.items() if e.name == name and len(path) == 1]
        if here:
            found = _lift(found, places, here[0], largest)
    return found


def _lift(
    statements: tuple[Statement, ...], places: Places, hole: Path, largest: int
) -> tuple[Statement, ...]:
    users = _users(places)
    if any(len(user) > 1 for user in users[hole]):
        return statements
    meeting = _meeting(users, hole)
    if meeting == EXIT or len(meeting) > 1:
        return statements
    between = _after(users, hole) & _before(users, meeting)
    if any(len(path) > 1 or not places.equations[path].let for path in between):
        return statements  # a new value on the way is needed by itself
    choice = places.equations[hole].expr

    def with_option(expr: Expr, option: Expr) -> Expr:
        let = places.let(expr, ())
        if let == hole:
            return option
        if let in between and let is not None:
            return with_option(places.equations[let].expr, option)
        if not expr.args:
            return expr
        return Expr(expr.op, tuple(with_option(a, option) for a in expr.args), expr.attrs)

    known: dict[Path, tuple[int, int]] = {}

    def size(expr: Expr) -> tuple[int, int]:
        """The nodes that it is written out, and how many options are among them: lets used twice double them."""
        let = places.let(expr, ())
        if let == hole:
            return 0, 1
        if let is not None and let in between:
            if let not in known:
                known[let] = size(places.equations[let].expr)
            return known[let]
        parts = [size(a) for a in expr.args]
        return 1 + sum(nodes for nodes, _ in parts), sum(options for _, options in parts)

    whole = places.equations[meeting].expr
    nodes, options = size(whole)
    if 1 + sum(nodes + options * sum(1 for _ in o.walk()) for o in choice.args) > largest:
        return statements
    moved = Expr("choice", tuple(with_option(whole, option) for option in choice.args), choice.attrs)
    exprs = {p: e.expr for p, e in places.equations.items() if p != hole and p not in between}
    return rebuilt(statements, {**exprs, meeting: moved})


def _users(places: Places) -> dict[Path, set[Path]]:
    """For each equation those that use its value in the same step."""
    primed = {e.name: e.path for e in places.equations.values() if e.name.endswith("'") and len(e.path) == 1}
    users: dict[Path, set[Path]] = {path: set() for path in places.equations}
    for e in places.equations.values():
        for node in e.expr.walk():
            used = places.let(node, e.scope)
            if used is None and node.op == "ref":
                used = primed.get(str(node.attr("name")))
            if used is not None:
                users[used].add(e.path)
        if not e.let:
            users[e.path].add(EXIT)
    return users


def _meeting(users: dict[Path, set[Path]], start: Path) -> Path:
    """The first equation after `start` through which every way to the outside goes."""
    through: dict[Path, set[Path]] = {EXIT: {EXIT}}
    stack = [start]
    while stack:
        path = stack[-1]
        missing = [user for user in users[path] if user not in through]
        if missing:
            stack += missing
        else:
            ways = [through[user] for user in users[path]] or [{EXIT}]
            through[path] = {path} | set.intersection(*ways)
            stack.pop()
    return max(through[start] - {start}, key=lambda path: len(through[path]))


def _after(users: dict[Path, set[Path]], start: Path) -> set[Path]:
    seen: set[Path] = set()
    stack = [*users[start]]
    while stack:
        path = stack.pop()
        if path != EXIT and path not in seen:
            seen.add(path)
            stack += users[path]
    return seen


def _before(users: dict[Path, set[Path]], end: Path) -> set[Path]:
    """What the value of `end` needs in the same step, itself left out."""
    seen: set[Path] = set()
    stack = [end]
    while stack:
        at = stack.pop()
        for path, found in users.items():
            if at in found and path not in seen:
                seen.add(path)
                stack.append(path)
    return seen
