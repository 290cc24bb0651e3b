"""One half of a layer, forward or backward: where the rows of its values lie, and its C text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from grammar import Sizes
from nas.backends.c.sweep import EndText, SweepText
from nas.backends.c.world import Column, Held, Key, Recomputed, World, arrays_of
from nas.ir import ROWS, Product, Schedule, Sweep


class Half:
    """Steps of a schedule with a place for all rows. `given` are leaves' rows, `outputs` the buffers of results.

    `keep` are nodes whose rows are stored for the other half, `ends` those of the stage `end` that are wanted. `name`
    begins the names of its functions and marks its buffers. `checkpoints` are slots stored every so many steps,
    `replay` says how to compute from them what a backward half needs. `chains` and `past` are slots that are read
    in x, `windows` where the first values of those are that both halves read (delays.py).
    """

    def __init__(
        self,
        schedule: Schedule,
        sizes: Sizes,
        lanes: int,
        name: str,
        given: Mapping[int, Column],
        outputs: Mapping[int, Key],
        held: Sequence[Held],
        keep: Sequence[int] = (),
        ends: Sequence[int] = (),
        checkpoints: Mapping[int, int] = MappingProxyType({}),
        replay: Recomputed | None = None,
        chains: Mapping[int, tuple[int, ...]] = MappingProxyType({}),
        past: Mapping[int, tuple[int, ...]] = MappingProxyType({}),
        windows: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        self.schedule, self.name, self.outputs = schedule, name, dict(outputs)
        arrays = arrays_of(schedule.program, sizes)
        self.world = World(
            schedule, sizes, lanes, dict(given), {}, held, checkpoints, arrays, chains, past, windows
        )
        self.world.window = len(windows) * sizes.input_size
        self.keep = set(keep)
        self.widths: dict[Key, int] = {}  # of each buffer of rows that this half makes
        self.copies: list[tuple[int, Key]] = []  # outputs that are computed elsewhere than in their buffer
        for n, step in enumerate(schedule.steps):
            if isinstance(step, Sweep):
                self._place_sweep(n, step)
            else:
                self._place_product(n, step)
        self.copies = [(k, key) for k, key in self.outputs.items() if self.world.rows[k].key != key]
        self.sweeps = {
            n: SweepText(self.world, step, f"{name}{n}", replay)
            for n, step in enumerate(schedule.steps)
            if isinstance(step, Sweep)
        }
        found = [k for k in ends if schedule.nodes[k].op not in ("total", "gram")]
        self.ends = list(dict.fromkeys(found))  # two arrays may have one gradient
        # products of values that there is one of for all rows
        nodes = schedule.nodes
        grams = [k for k in dict.fromkeys(ends) if nodes[k].op == "gram"]
        self.single = [k for k in grams if all(nodes[a].stage not in ROWS for a in nodes[k].args)]
        wanted = [*self.ends, *self.single]
        self.end = EndText(self.world, wanted, f"{name}_end") if wanted else None

    @property
    def text(self) -> str:
        """The C text of all functions."""
        return "".join(t.text for t in (*self.sweeps.values(), *((self.end,) if self.end else ())))

    def column(self, k: int) -> Column:
        """Where the rows of a node are after this half has run."""
        return self.world.kept.get(k) or self.world.rows[k]

    # -- where rows are ---------------------------------------------------------------------

    def _place_sweep(self, n: int, sweep: Sweep) -> None:
        """Buffers of what a sweep stores: outputs by themselves, then what later steps read, then what is kept."""
        for k in sweep.stored:
            if k in self.outputs:
                self._side_by_side(self.outputs[k], [k], self.world.rows, optional=self.name == "b")
        crossing = [k for k in self._order(sweep) if k not in self.outputs]
        self._side_by_side((f"{self.name}cross", n), crossing, self.world.rows)
        kept = [k for k in sweep.stored if k in self.keep and k not in self.world.rows]
        self._side_by_side((f"{self.name}keep", n), kept, self.world.kept, optional=True)

    def _place_product(self, n: int, product: Product) -> None:
        results = product.results
        if len(results) == 1 and results[0] in self.outputs:
            self._side_by_side(self.outputs[results[0]], results, self.world.rows, optional=self.name == "b")
        else:
            self._side_by_side((f"{self.name}made", n), results, self.world.rows)

    def _side_by_side(
        self, key: Key, members: Sequence[int], table: dict[int, Column], optional: bool = False
    ) -> None:
        first, total = 0, sum(self.world.size(k) for k in members)
        if members:
            self.widths[key] = total
        for k in members:
            table[k] = Column(key, first, total, optional)
            first += self.world.size(k)

    def _order(self, sweep: Sweep) -> list[int]:
        """What is read of a sweep's values after it, operands of one product beside each other."""
        nodes, inside = self.schedule.nodes, set(sweep.body)
        slots = range(len(self.schedule.following))
        readers = [k for k in range(len(nodes)) if k not in inside and nodes[k].op != "total"]
        read = {a for k in readers for a in nodes[k].args}
        read |= {self.schedule.following[s] for s in slots if s not in sweep.slots}
        found = []
        for step in self.schedule.steps:
            if isinstance(step, Product):
                found += [k for k in step.operands if k not in found]
        found += [a for k in readers for a in nodes[k].args if nodes[k].stage not in ROWS]
        return [k for k in dict.fromkeys([*found, *sweep.stored]) if k in sweep.stored and k in read]
