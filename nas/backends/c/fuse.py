"""Which values of a sweep are computed in one loop.

A group is one loop over the lanes of values of one width, one over the entries of matrices, or one matrix product.
Inside a group values stay in registers. A value that needs all lanes of another (a product, a sum, a broadcast) is in
another group than that. Groups are found from the end: each takes all that nothing later still waits for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nas.ir import Node

MATRIX = -1  # the space of matrices; other spaces are widths
WHOLE = ("reduce", "hmax", "read", "readt")  # what is known only after a loop over all of its operand


@dataclass(frozen=True)
class Group:
    """Nodes of one loop in their order; `space` is a width, MATRIX, or None for a matrix product."""

    space: int | None
    nodes: tuple[int, ...]


class Fusion:
    """Groups of some nodes of a schedule. `width` gives the width of a node's value, MATRIX for matrices."""

    def __init__(self, nodes: Sequence[Node], body: Sequence[int], width: Callable[[int], int]) -> None:
        self.nodes, self.body, self.width = nodes, list(body), width
        inside = set(body)
        self.space = {k: self._space(k) for k in body}
        self.users: dict[int, list[int]] = {k: [] for k in body}
        for k in body:
            for a in set(nodes[k].args):
                if a in inside:
                    self.users[a].append(k)
        self.args = {k: [a for a in set(nodes[k].args) if a in inside] for k in body}

    def groups(self) -> list[Group]:
        """All groups in their order."""
        done: set[int] = set()
        found: list[Group] = []
        while len(done) < len(self.body):
            space = self._best(done)
            members = self._addable(space, done)
            if space is None:
                members = members[-1:]
            found.append(Group(space, tuple(sorted(members))))
            done.update(members)
        return found[::-1]

    def _space(self, k: int) -> int | None:
        node = self.nodes[k]
        if node.op == "matmul":
            return None
        return self.width(node.args[0]) if node.op in WHOLE else self.width(k)

    def soft(self, a: int, k: int) -> bool:
        """Whether `k` can use `a` in the same loop."""
        if self.space[a] != self.space[k] or self.space[a] is None or self.nodes[a].op in WHOLE:
            return False
        op = self.nodes[k].op
        if op == "cast" or op == "outer":
            return False
        return not (op in ("read", "readt") and a == self.nodes[k].args[1])

    def _best(self, done: set[int]) -> int | None:
        """The space of the next group: one that waiting for the others would not make larger."""
        ready = {self.space[k] for k in self.body if k not in done and all(u in done for u in self.users[k])}
        if None in ready:
            return None
        if len(ready) == 1:
            return next(iter(ready))
        sizes = {}
        for space in sorted(s for s in ready if s is not None):
            now = len(self._addable(space, done))
            if len(self._addable(space, self._without(space, done))) == now:
                return space
            sizes[space] = now
        return max(sizes, key=lambda s: sizes[s])

    def _without(self, space: int | None, done: set[int]) -> set[int]:
        """All that can be done before anything in this space."""
        after = set(done)
        todo = [k for k in self.body if k not in after]
        while todo:
            k = todo.pop()
            if k not in after and self.space[k] != space and all(u in after for u in self.users[k]):
                after.add(k)
                todo.extend(self.args[k])
        return after

    def _addable(self, space: int | None, done: set[int]) -> list[int]:
        """What one group of this space can take."""
        members: set[int] = set()
        todo = [k for k in self.body if k not in done and self.space[k] == space]
        while todo:
            k = todo.pop()
            if k in members or k in done or self.space[k] != space:
                continue
            if all(u in done or (u in members and self.soft(k, u)) for u in self.users[k]):
                members.add(k)
                todo.extend(self.args[k])
        return sorted(members)
