"""The class `Layer` of an exported file: a cell's graph as Python, with what depends on x alone before the loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from grammar import GRAPH_LEAVES, Cell, Node, Type, show_number
from nas.errors import ExportError
from nas.exporters.names import RESERVED, unused, value_names
from nas.exporters.operations import RENDER, coerced, linear, shaped
from nas.exporters.sizes import axes
from nas.exporters.text import HELPERS, Code, infix

CONSTANT, INPUT, STEP = 0, 1, 2  # when a value is known: before x, for all steps at once, step by step
_LONGEST = 72  # an expression of more characters gets a name
_WIDEST = 88  # so many characters stand in one line at most, where its operands can be named
_WORTH_A_NAME = 24
_ALIGNED = {"add", "sub", "mul", "div", "max", "min", "lerp", "complex", "modrelu"}


@dataclass(frozen=True)
class Buffer:
    """What a `shift` or `conv` remembers: a state after the declared ones.

    `steps` past values of type `type`; a `shift` has 0 of them: its single one has no axis for time.
    """

    name: str
    type: Type
    steps: int


@dataclass(frozen=True)
class Body:
    """The body of `Layer.forward`: its lines, the arrays of weights it reads, its states and its buffers."""

    lines: tuple[str, ...]
    parameters: dict[tuple[int, str], str]
    """(index in `Graph.weights`, role) -> attribute of the layer."""
    states: tuple[str, ...]
    """The variables that hold the declared states, in order."""
    buffers: tuple[Buffer, ...]


def layer_body(cell: Cell) -> Body:
    """Write one layer of a cell that runs over time. Raises ExportError for another kind of cell."""
    if cell.kind != "time":
        raise ExportError(f"export writes cells that run over time; `{cell.name}` is a {cell.kind} cell")
    if cell.graph.region is not None:
        raise ExportError(f"export cannot write `depth ... until(...)`, which `{cell.name}` has")
    unknown = sorted({n.op for n in cell.graph.nodes} - set(GRAPH_LEAVES) - set(RENDER))
    if unknown:
        raise ExportError(f"export cannot write the operation `{unknown[0]}`, which `{cell.name}` uses")
    return _Writer(cell).body()


class _Writer:
    """Writes every value where it is first known; one that is short and used once stands where it is used."""

    def __init__(self, cell: Cell) -> None:
        self.graph = cell.graph
        self.live = sorted(self.graph.reachable(self.graph.roots()))
        self.when = self._times()
        self.read_at = self._readers()
        self.used = {*RESERVED, *HELPERS, "states", "zip", "range", "batch", "like", "float"}
        self.states = {s.name: unused(s.name, self.used) for s in self.graph.states}
        self.names = {i: unused(n, self.used) for i, n in value_names(cell).items()}
        self.parameters = self._parameters()
        self.buffers: list[Buffer] = []
        self.lines: tuple[list[str], list[str], list[str]] = ([], [], [])
        self.values: dict[int, Code] = {}
        self.streams: dict[str, str] = {}

    def body(self) -> Body:
        for index in self.live:
            self._write(index)
        graph = self.graph
        following = [self._new_state(i) for i in graph.next]
        before = [*self.lines[CONSTANT], *self.lines[INPUT]]
        lines: list[str] = []
        names = [*self.states.values(), *(b.name for b in self.buffers)]
        together = f"({names[0]},)" if len(names) == 1 else ", ".join(names)
        if names:
            lines.append(f"{together} = states")
        if before:
            lines += ["# What depends on x alone, for all steps at once.", *before]
        lines += self._loop(following)
        lines.append(f"return y, ({together})" if len(names) != 1 else f"return y, {together}")
        return Body(tuple(lines), self.parameters, tuple(self.states.values()), tuple(self.buffers))

    def _loop(self, following: Sequence[str]) -> Iterator[str]:
        out, when = self.graph.out, self.when[self.graph.out]
        emitted = self._at(out, STEP).text if when == STEP else ""
        inner = list(self.lines[STEP])
        if emitted:
            inner.append(f"ys.append({emitted})")
        names = list(self.states.values())
        changed = [(n, v) for n, v in zip(names, following, strict=True) if n != v]
        if changed:
            inner.append(f"{', '.join(n for n, _ in changed)} = {', '.join(v for _, v in changed)}")
        if emitted:
            yield "ys = []"
        if inner:
            yield self._head()
            yield from (f"    {line}" for line in inner)
        if emitted:
            yield "y = torch.stack(ys, dim=1)"
        elif when == INPUT:
            yield f"y = {self._at(out, INPUT).text}"
        else:
            yield f"y = {self._at(out, INPUT).at(4)}.expand(x.shape[0], x.shape[1], -1)"

    def _head(self) -> str:
        if not self.streams:
            return "for _ in range(x.shape[1]):"
        steps = [f"{whole}.unbind(1)" for whole in self.streams]
        if len(steps) == 1:
            return f"for {next(iter(self.streams.values()))} in {steps[0]}:"
        return f"for {', '.join(self.streams.values())} in zip({', '.join(steps)}):"

    def _new_state(self, index: int) -> str:
        value = self._at(index, STEP)
        if self.when[index] > CONSTANT:
            return value.text
        return (
            f"{value.at(4)}.expand(x.shape[0], {', '.join(['-1'] * len(axes(self.graph.nodes[index].type)))})"
        )

    # -- one value --------------------------------------------------------------------------

    def _write(self, index: int) -> None:
        node, when = self.graph.nodes[index], self.when[index]
        if node.op in GRAPH_LEAVES:
            self.values[index] = self._leaf(node)
            return
        if node.op in ("shift", "conv"):
            self._write_buffered(index, node)
            return
        code = self._lin(node, when) if node.op == "lin" else self._short_operation(node, when)
        later = [at for at in self.read_at[index] if at > when]
        # A bare parameter is a name already.
        if code.text.isidentifier() or (node.op == "param" and index not in self.names):
            self.values[index] = code
        elif index in self.names or len(self.read_at[index]) > 1 or later or len(code.text) > _LONGEST:
            self.values[index] = self._assign(self.names.get(index) or self._title(node, when), code, when)
        else:
            self.values[index] = code

    def _short_operation(self, node: Node, when: int) -> Code:
        """An operation on one line: operands that make it too long get names first."""
        code = self._operation(node, when)
        while len(code.text) > _WIDEST:
            inner = [
                a for a in node.args if self.when[a] == when and len(self.values[a].text) > _WORTH_A_NAME
            ]
            if not inner:
                break
            longest = max(inner, key=lambda a: len(self.values[a].text))
            name = self._title(self.graph.nodes[longest], when)
            self.values[longest] = self._assign(name, self.values[longest], when)
            code = self._operation(node, when)
        return code

    def _operation(self, node: Node, when: int) -> Code:
        args = [self._at(a, when) for a in node.args]
        if node.op in _ALIGNED:
            types = self.types(node)
            args = [coerced(a, of, node.type) for a, of in zip(args, types, strict=True)]
        return RENDER[node.op](self, node, args)

    def _lin(self, node: Node, when: int) -> Code:
        """A linear map; in the loop, the part of it that no state reaches is taken out."""
        types = self.types(node)
        early = [i for i, a in enumerate(node.args) if self.when[a] < STEP]
        if when < STEP or not early:
            operands = [(i, self._at(a, when), types[i]) for i, a in enumerate(node.args)]
            return shaped(linear(self, node, operands, bias=True), node.type)
        at = max(self.when[node.args[i]] for i in early)
        operands = [(i, self._at(node.args[i], at), types[i]) for i in early]
        ahead = self._assign(self._title(node, at), linear(self, node, operands, bias=True), at)
        first = self._stream(ahead) if at == INPUT else ahead
        rest = [(i, self._at(a, STEP), types[i]) for i, a in enumerate(node.args) if i not in early]
        total = infix("+", first, linear(self, node, rest, bias=False)) if rest else first
        return shaped(total, node.type)

    def _write_buffered(self, index: int, node: Node) -> None:
        arg, when = node.args[0], self.when[index]
        of = self.graph.nodes[arg].type
        value = self._at(arg, when)
        if self.when[arg] == CONSTANT:
            value = value.method("expand", "x.shape[0]", "x.shape[1]", *["-1"] * len(axes(of)))
        name = self.names.get(index) or unused(f"{node.op}ed", self.used)
        taps = int(node.attr("k", 4)) if node.op == "conv" else 0  # type: ignore[arg-type]
        if taps == 1:  # it remembers nothing
            self.values[index] = self._assign(name, self._pointwise(node, value, of), when)
            return
        buffer = Buffer(unused(f"{name}_last", self.used), of, max(0, taps - 1))
        self.buffers.append(buffer)
        steps = value if when == INPUT else value.method("unsqueeze", 1)
        weights = f", {self.weight(node, 'w').text}" if node.op == "conv" else ""
        self.lines[when].append(f"{name}, {buffer.name} = {node.op}({steps.text}, {buffer.name}{weights})")
        code = Code(name) if when == INPUT else Code(name).method("squeeze", 1)
        if node.op == "conv" and self.has_weight(node, "b"):
            code = infix("+", code, shaped(self.weight(node, "b"), of))
        if code.text != name:
            self.lines[when].append(f"{name} = {code.text}")
        self.values[index] = Code(name)

    def _pointwise(self, node: Node, value: Code, of: Type) -> Code:
        """A `conv` over one step."""
        code = infix("*", value, shaped(self.weight(node, "w").method("squeeze", -1), of))
        return infix("+", code, shaped(self.weight(node, "b"), of)) if self.has_weight(node, "b") else code

    def _at(self, index: int, at: int) -> Code:
        """A value as it is seen in a section; in the loop, a value of all steps is this step's."""
        code = self.values[index]
        return self._stream(code) if self.when[index] == INPUT and at == STEP else code

    def _stream(self, code: Code) -> Code:
        if code.text not in self.streams:
            self.streams[code.text] = unused(f"{code.text}_t", self.used) if code.text != "x" else "x_t"
        return Code(self.streams[code.text])

    def _assign(self, name: str, code: Code, when: int) -> Code:
        self.lines[when].append(f"{name} = {code.text}")
        return Code(name)

    def _title(self, node: Node, when: int) -> str:
        """A name for a value that the text gives none: after the weight in it, as in `i_x` for what i takes from x."""
        stack = [node] if when < STEP else []
        while stack:
            one = stack.pop()
            if one.weight >= 0:
                return unused(f"{self.graph.weights[one.weight].site}_{'vx'[when]}", self.used)
            stack += [self.graph.nodes[a] for a in reversed(one.args)]
        return unused("u", self.used)

    def _leaf(self, node: Node) -> Code:
        if node.op == "x":
            return Code("x")
        if node.op == "num":
            value = float(node.attr("value"))  # type: ignore[arg-type]
            return Code(show_number(value), 4 if value >= 0 else 3, number=True)
        return Code(self.states[str(node.attr("name"))])

    # -- what the renderings ask ------------------------------------------------------------

    def weight(self, node: Node, role: str) -> Code:
        """The array of a node's weight, complex if it is."""
        code = Code(f"self.{self.parameters[node.weight, role]}")
        spec = next(s for s in self.graph.weights[node.weight].specs if s.role == role)
        return Code(f"torch.view_as_complex({code.text})") if spec.complex else code

    def has_weight(self, node: Node, role: str) -> bool:
        """Whether the node's weight has an array of this role and the node uses it."""
        return bool(node.attr("bias", True)) and (node.weight, role) in self.parameters

    def types(self, node: Node) -> list[Type]:
        """The types of a node's operands."""
        return [self.graph.nodes[a].type for a in node.args]

    # -- facts ------------------------------------------------------------------------------

    def _times(self) -> list[int]:
        times: list[int] = []
        for node in self.graph.nodes:
            inner = max((times[a] for a in node.args), default=CONSTANT)
            own = {"x": INPUT, "state": STEP, "shift": INPUT, "conv": INPUT}.get(node.op, CONSTANT)
            # One matrix per step of a long sequence would not fit: matrices are made in the loop.
            matrix = node.type.kind in ("mat", "cmat") and inner == INPUT
            times.append(STEP if matrix else max(own, inner))
        return times

    def _readers(self) -> dict[int, list[int]]:
        """For each node, the sections that read it, once for each reader."""
        readers: dict[int, list[int]] = {i: [] for i in self.live}
        for index in self.live:
            for arg in self.graph.nodes[index].args:
                readers[arg].append(self.when[index])
        for root in self.graph.next:
            readers[root].append(STEP)
        readers[self.graph.out].append(self.when[self.graph.out])
        return readers

    def _parameters(self) -> dict[tuple[int, str], str]:
        used = {self.graph.nodes[i].weight for i in self.live} - {-1}
        taken: set[str] = set()
        return {
            (i, spec.role): unused(f"{weight.site}_{spec.role}", taken)
            for i, weight in enumerate(self.graph.weights)
            if i in used
            for spec in weight.specs
        }
