"""The order in which a step computes its values, so that few numbers live at once.

The compiler keeps about the order it is given where values cross threads. A matrix made long before it is used, or one
that each of several reads wants at another time, takes registers that a program with several matrices does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Work:
    """The instructions of a step.

    `args` are their operands, `size` the registers that hold a value. `late` is loaded where it is used first; other
    operands from outside are held all the time and cost nothing here. `slots` are the values of slots before the step,
    each with what follows it: it is held until its last use and until what follows is there, which is held to the end.
    """

    body: Sequence[int]
    args: Callable[[int], Sequence[int]]
    size: Callable[[int], int]
    late: Collection[int]
    slots: Mapping[int, int] = field(default_factory=dict)

    def most(self, order: Sequence[int]) -> int:
        """What is held at most, beside what is held before the first of them."""
        return max(_Live(self).held(order), default=0)


def ordered(work: Work) -> list[int]:
    """The body in the order that holds the least at once, of those tried: as it is, and what three rules make of it."""
    live = _Live(work)
    tried = [list(work.body), live.forward(), live.backward(), live.lazy()]
    return min(tried, key=work.most)


class _Live:
    def __init__(self, work: Work) -> None:
        self.work = work
        self.place = {k: n for n, k in enumerate(work.body)}
        self.args = {k: tuple(dict.fromkeys(work.args(k))) for k in work.body}
        self.counted = {*work.body, *work.late}
        self.users: dict[int, list[int]] = {k: [] for k in self.counted}
        for k in work.body:
            for a in self.args[k]:
                if a in self.counted:
                    self.users[a].append(k)
        self.slots_of: dict[int, list[int]] = {}  # of an instruction: the slots that it follows
        for state, following in work.slots.items():
            self.slots_of.setdefault(following, []).append(state)
            if following in self.place:
                self.users.setdefault(state, [])

    def held(self, order: Sequence[int]) -> list[int]:
        """What is held after each instruction."""
        state = _Walk(self)
        return [state.take(k) for k in order]

    def forward(self) -> list[int]:
        """Always the instruction after which the least is held."""
        state, order = _Walk(self), list[int]()
        waiting = {k: sum(a in self.place for a in self.args[k]) for k in self.work.body}
        ready = [k for k in self.work.body if not waiting[k]]
        while ready:
            best = min(ready, key=lambda k: (state.change(k), self.place[k]))
            ready.remove(best)
            state.take(best)
            order.append(best)
            for u in self.users[best]:
                waiting[u] -= 1
                if not waiting[u]:
                    ready.append(u)
        return order

    def backward(self) -> list[int]:
        """From the last: always the one before which the least is held."""
        size, late, states = self.work.size, self.work.late, self.work.slots
        held: set[int] = set()
        waiting = {k: len(self.users[k]) for k in self.users}

        def change(k: int) -> int:
            more = -size(k) if k in held and k not in states else 0
            more -= sum(size(s) for s in self.slots_of.get(k, ()) if s in held)
            for a in self.args[k]:
                if a in self.counted:
                    more += 0 if a in held else size(a)
                    more -= size(a) if a in late and waiting[a] == 1 else 0
            return more

        order, ready = list[int](), [k for k in self.work.body if not waiting[k]]
        while ready:
            best = min(ready, key=lambda k: (change(k), -self.place[k]))
            ready.remove(best)
            order.append(best)
            held.discard(best)
            held.update(self.slots_of.get(best, ()))
            for a in self.args[best]:
                if a in self.counted:
                    held.add(a)
                    waiting[a] -= 1
                    if a in self.place and not waiting[a]:
                        ready.append(a)
        return order[::-1]

    def lazy(self) -> list[int]:
        """Each value where it is used first, for those that nothing here uses, in their order."""
        order: dict[int, None] = {}
        for last in self.work.body:
            if self.users[last]:
                continue
            stack = [last]
            while stack:
                k = stack[-1]
                missing = [a for a in self.args[k] if a in self.place and a not in order]
                if missing:
                    stack.append(missing[0])
                else:
                    order[stack.pop()] = None
        return list(order)


class _Walk:
    """What is held while instructions are taken one after the other."""

    def __init__(self, live: _Live) -> None:
        self.live = live
        self.left = {k: len(users) for k, users in live.users.items()}
        for state, following in live.work.slots.items():
            if following in live.place:
                self.left[state] += 1
        self.loaded: set[int] = set()
        self.now = 0
        self.states = live.work.slots

    def change(self, k: int) -> int:
        """By how much more is held after an instruction."""
        live, size = self.live, self.live.work.size
        more = size(k) if self.left[k] and k not in self.states else 0
        for s in live.slots_of.get(k, ()):
            more += size(s) - (size(s) if self.left[s] == 1 + (s in live.args[k]) else 0)
        for a in live.args[k]:
            if a not in live.counted:
                continue
            if a in live.work.late and a not in self.loaded:
                more += size(a)
            more -= size(a) if self.left[a] == 1 else 0
        return more

    def take(self, k: int) -> int:
        """Take an instruction; gives what is held after it."""
        self.now += self.change(k)
        for s in self.live.slots_of.get(k, ()):
            self.left[s] -= 1
        for a in self.live.args[k]:
            if a in self.live.counted:
                self.left[a] -= 1
                self.loaded.add(a)
        return self.now
