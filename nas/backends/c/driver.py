"""C text of a whole half: its sweeps and the matrix products between them, one function from rows in to rows out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from nas.backends.c.half import Half
from nas.backends.c.world import Column, Key
from nas.ir import Product, Sweep, Use

# Buffers of a half by who needs them: both halves always, the other half alone, and this half alone.
SHARED, KEPT, OWN = "shared", "kept", "own"


class Driver:
    """The function `name`, and its pointers in their order: `ports` of them, after the layout of the steps.

    A port is an outside key, `(SHARED | KEPT | OWN, 0 forward or 1 backward)` for the rows of all buffers of a kind, or
    `("sums", 0)` for all sums over rows. `given` tells of keys made by another half in which of its regions they begin.
    """

    def __init__(
        self,
        half: Half,
        shared: Sequence[Key] = (),
        given: Mapping[Key, tuple[Key, int]] | None = None,
        grams: Sequence[int] = (),
    ) -> None:
        self.half, self.w = half, half.world
        self.nodes = half.schedule.nodes
        self.ports: list[Key] = []
        self.regions: dict[Key, tuple[Key, int]] = dict(
            given or {}
        )  # of each buffer: its region, where in a row
        number = int(half.name == "b")
        self.widths: dict[Key, int] = {(kind, number): 0 for kind in (SHARED, KEPT, OWN)}
        outside = set(half.outputs.values())
        for key, size in half.widths.items():
            if key not in outside:
                kind = KEPT if key[0].endswith("keep") else SHARED if key in shared else OWN
                region = (kind, number)
                self.regions[key] = (region, self.widths[region])
                self.widths[region] += size
        self.sums: dict[Key, tuple[int, int]] = {}  # where each sum over rows begins among all, and its size
        self._room_for_sums(grams)
        self.lines: list[str] = []
        self.sums_by_token: dict[tuple[str, int], str] = {}  # of rows: the C variable that has them
        self.x_rows, self.dx_rows = self._swept("x", grams), self._swept("dx", grams)
        self.tokens = self._port(("tokens", 0))
        for n, step in enumerate(half.schedule.steps):
            if isinstance(step, Sweep):
                self._call(f"{half.name}{n}", half.sweeps[n].ports)
            else:
                self._product(step)
        for k, key in half.copies:
            self._copy(k, key)
        self._loose()
        if half.end:
            self._call(f"{half.name}_end", half.end.ports)
        self._grams(grams)
        if self.dx_rows:
            size, dx, table = self.w.sizes.input_size, self._port(("dx", 0)), self._port(("dtable", 0))
            self.lines.append(f"if (at && {table}) kit->scatter(R, N, {size}, {dx}, {size}, at, {table});")

    @property
    def text(self) -> str:
        """The text of all functions."""
        head = [
            f"int recell_{self.half.name}(const Kit *kit, const long *g, void *const *p) {{",
            "const long R = g[5];",
            *(f"float *const x{n} = p[{n + 2}];" for n in range(len(self.ports))),
        ]
        sums = list(self.sums_by_token.values())
        head += [
            f"const int64_t *const at = (const int64_t *){self.tokens};",
            "const long N = at ? at[R] : 0;",
        ]
        head += ["if (at && !kit->within(R, N, at)) return 2;"] if self.half.name == "f" else []
        head += [f"float *{name} = 0;" for name in sums]
        free = [f"free({name});" for name in sums]
        return self.half.text + "\n".join([*head, *self.lines, *free, "return 0;", "}\n"])

    # -- x as rows of a table ---------------------------------------------------------------

    def _swept(self, name: str, grams: Sequence[int]) -> bool:
        """Whether rows of x, or of its gradient, are needed for more than products over all rows.

        x may come as a table and the row of it that each row is ("tokens", their count behind the last). Products are
        then of the rows of the table, and gradients summed for each of these before they are multiplied; where nothing
        else needs them, there are no rows of x, and its gradient is that of the table.
        """
        half, key = self.half, (name, 0)
        ports = [text.ports for text in half.sweeps.values()] + ([half.end.ports] if half.end else [])
        swept = {key for own in ports for key in own} | {key for _, key in half.copies}
        others = [self.nodes[k].args[0] for k in grams] + [n.args[0] for n in self.nodes if n.op == "total"]
        others += [self.nodes[k].args[1] for k in grams if self.nodes[k].attr("blocks", 1) != 1]
        return key in swept or any(self._is_x(k) for k in others)

    def _is_x(self, k: int) -> bool:
        column = self.w.kept.get(k) or self.w.rows.get(k)
        return column is not None and column.key == ("x", 0)

    def _summed(self, column: Column, size: int) -> str:
        """The C variable with the sums over rows of one token, of columns; computed where they are first needed."""
        name = self.sums_by_token.setdefault((self._at(column), size), f"T{len(self.sums_by_token)}")
        self.lines.append(
            f"if (!{name}) {{ if (!({name} = malloc(4 * N * {size}))) return 1; "
            f"kit->scatter(R, N, {size}, {self._at(column)}, {column.width}, at, {name}); }}"
        )
        return name

    # -- pointers ---------------------------------------------------------------------------

    def _port(self, key: Key) -> str:
        if key not in self.ports:
            self.ports.append(key)
        return f"x{self.ports.index(key)}"

    def pointer(self, key: Key) -> str:
        """The C expression of a key's pointer."""
        if key in self.sums:
            return f"({self._port(('sums', 0))} + {self.sums[key][0]})"
        if key not in self.regions:
            return self._port(key)
        region, first = self.regions[key]
        base = self._port(region)
        return f"({base} ? {base} + R * {first} : 0)" if region[0] == KEPT else f"({base} + R * {first})"

    def _at(self, column: Column) -> str:
        return f"{self.pointer(column.key)} + {column.first}"

    # -- sums over rows ---------------------------------------------------------------------

    def _room_for_sums(self, grams: Sequence[int]) -> None:
        """Places for sums: grams of one second operand and first ones side by side get one behind the other."""
        swept = [k for t in self.half.sweeps.values() for k in t.sweep.grams]
        every = [*grams, *swept, *self.half.single]
        keys = [(("gram", k), math.prod(self.w.gram_shape(k))) for k in every]
        size, sums = self.w.size, [k for k, node in enumerate(self.nodes) if node.op == "total"]
        keys += [(("total", k), size(self.nodes[k].args[0])) for k in sums]
        keys += [(("end", k), size(k)) for k in self.half.ends]
        total = 0
        for key, floats in keys:
            self.sums[key] = (total, floats)
            total += floats
        self.floats = total

    # -- steps ------------------------------------------------------------------------------

    def _call(self, name: str, ports: Sequence[Key]) -> None:
        pointers = ", ".join(["p[0]", "p[1]", *(self.pointer(key) for key in ports)])
        self.lines.append(f"{{ void *const q[] = {{{pointers}}}; if ({name}(kit, g, q)) return 1; }}")

    def _product(self, product: Product) -> None:
        """A product over all rows; operands that lie side by side are one."""
        rows, size = self.w.rows, self.w.size
        out = rows[product.results[0]]
        total = sum(size(k) for k in product.results)
        sizes = [size(k) for k in product.operands]
        if out.optional:
            self.lines.append(f"if ({self.pointer(out.key)}) {{")
        for n, (run, members) in enumerate(side_by_side([rows[k] for k in product.operands], sizes)):
            deep = sum(sizes[p] for p in members)
            self.lines.append(
                f"{{ float *W = aligned_alloc(64, ({4 * deep}L * PAD({total}) + 63) / 64 * 64);"
            )
            self.lines.append("if (!W) return 1;")
            row = 0
            for p in members:
                column = 0
                for k in product.results:
                    self._pack(self.nodes[k].uses[p], (deep, total), (row, column), (sizes[p], size(k)))
                    column += size(k)
                row += sizes[p]
            to = f"W, {self._at(out)}, {out.width}, {int(n > 0)});"
            whole = f"kit->rows(R, {total}, {deep}, {self._at(run)}, {run.width}, {to}"
            if run.key == ("x", 0):
                self.lines.append("if (at) {")
                self.lines += self._of_table(run, deep, out, total, int(n > 0))
                self.lines.append(f"}} else {whole}")
            elif out.key == ("dx", 0) and not self.dx_rows:
                self.lines.append("if (at) {")
                sums = self._summed(run, deep)
                self.lines.append(
                    f"kit->rows(N, {total}, {deep}, {sums}, {deep}, W, {self._at(out)}, {out.width}, {int(n > 0)});"
                )
                self.lines.append(f"}} else {whole}")
            else:
                self.lines.append(whole)
            self.lines.append("free(W); }")
        if out.optional:
            self.lines.append("}")

    def _table(self, column: Column) -> str:
        """The pointer to columns of the table that x is rows of."""
        return f"{self._port(('table', 0))} + {column.first}"

    def _of_table(self, run: Column, deep: int, out: Column, total: int, add: int) -> list[str]:
        """A product of the rows of a table, and its result for each row that is one of them."""
        return [
            f"float *T = malloc(4 * N * {total}); if (!T) return 1;",
            f"kit->rows(N, {total}, {deep}, {self._table(run)}, {run.width}, W, T, {total}, 0);",
            f"kit->gather(R, {total}, T, at, {self._at(out)}, {out.width}, {add}); free(T);",
        ]

    def _pack(self, use: Use, whole: tuple[int, int], at: tuple[int, int], own: tuple[int, int]) -> None:
        index, _ = self.w.arrays[use.weight, use.role]
        each, first = (2, f" + {use.column}") if use.column >= 0 else (1, "")
        down, across = (own[1], 1) if use.transpose else (1, own[0])
        self.lines.append(
            f"kit->pack(W, {whole[0]}, {whole[1]}, {at[0]}, {at[1]}, {self._port(('w', index))}{first}, "
            f"{own[0]}, {own[1]}, {down * each}, {across * each});"
        )

    def _copy(self, k: int, key: Key) -> None:
        """An output that is computed elsewhere than in its buffer."""
        column, size = self.w.rows[k], self.w.size(k)
        self.lines.append(
            f"if ({self.pointer(key)}) for (long i = 0; i < R; i++) "
            f"memcpy({self.pointer(key)} + i * {size}, {self._at(column)} + i * {column.width}, {4 * size});"
        )

    def _loose(self) -> None:
        """Sums over rows that no sweep computes."""
        counted = {k for t in self.half.sweeps.values() for k in t.sweep.totals}
        for k, node in enumerate(self.nodes):
            if node.op == "total" and k not in counted:
                column, size = self.half.column(node.args[0]), self.w.size(node.args[0])
                self.lines.append(
                    f"kit->columns(R, {size}, {self._at(column)}, {column.width}, {self.pointer(('total', k))});"
                )

    def _grams(self, grams: Sequence[int]) -> None:
        """Products of rows; those that follow each other in memory, on both sides, are one."""
        size, done = self.w.size, 0
        while done < len(grams):
            k = grams[done]
            (a, b), count = self.nodes[k].args, 1
            blocks, own, other = self.w.gram_shape(k)
            first, second = self.half.column(a), self.half.column(b)
            while blocks == 1 and done + count < len(grams):
                following = self.nodes[grams[done + count]]
                column = self.half.column(following.args[0])
                beside = column.key == first.key and column.first == first.first + own
                whole = following.attr("blocks", 1) == 1
                if following.args[1] != b or not beside or not whole:
                    break
                own += size(following.args[0])
                count += 1
            looked_up = second.key == ("x", 0) and blocks == 1
            if looked_up:
                self.lines.append("if (at) {")
                sums = self._summed(first, own)
                self.lines.append(
                    f"kit->gram(N, {own}, {other}, {sums}, {own}, {self._table(second)}, {second.width}, "
                    f"{self.pointer(('gram', k))}, {other}, 0);"
                )
                self.lines.append("} else {")
            for n in range(blocks):
                self.lines.append(
                    f"kit->gram(R, {own}, {other}, {self._at(first)} + {n * own}, {first.width}, {self._at(second)} + "
                    f"{n * other}, {second.width}, {self.pointer(('gram', k))} + {n * own * other}, {other}, 0);"
                )
            if looked_up:
                self.lines.append("}")
            done += count


def grams_in_order(half: Half) -> list[int]:
    """The products of rows that follow the sweeps, such that those that can be one stand behind each other."""
    swept = {k for t in half.sweeps.values() for k in t.sweep.grams}
    other = swept | set(half.single)
    grams = [k for k, node in enumerate(half.schedule.nodes) if node.op == "gram" and k not in other]

    def place(k: int) -> tuple[int, str, Key, int]:
        a, b = half.schedule.nodes[k].args
        column = half.column(a)
        return b, str(half.schedule.nodes[k].attr("blocks", 1)), column.key, column.first

    return sorted(grams, key=place)


def side_by_side(columns: Sequence[Column], sizes: Sequence[int]) -> list[tuple[Column, list[int]]]:
    """Runs of columns that lie next to each other in one buffer: the first of each, and their places in the list."""
    runs: list[tuple[Column, list[int]]] = []
    end = -1
    for place, (column, size) in enumerate(zip(columns, sizes, strict=True)):
        if runs and runs[-1][0].key == column.key and end == column.first:
            runs[-1][1].append(place)
        else:
            runs.append((column, [place]))
        end = column.first + size
    return runs
