"""Cells of other systems to texts of the language, and back: NAS-Bench-NLP recipes, DARTS genotypes."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from grammar.cell import Cell, make_cell, parse
from grammar.errors import GrammarError, shortened
from grammar.graph import Graph
from grammar.parser import KEYWORDS
from grammar.simplify import simplify
from grammar.syntax import Expr, Let, Out, State, Statement, X, num, ref
from grammar.types import VEC

Recipe = Mapping[str, Any]  # node -> {"op": name, "input": nodes}


class ImportFormatError(GrammarError):
    """A recipe or genotype that is not of its format, or a cell that its space cannot hold."""


# ---- NAS-Bench-NLP ----------------------------------------------------------------------------

# Klyuchnikov et al., NAS-Bench-NLP, 2020: operation -> (operation of the language, number of inputs)
_NLP: dict[str, tuple[str, int | None]] = {
    "linear": ("lin", None),
    "blend": ("lerp", 3),
    "elementwise_prod": ("mul", None),
    "elementwise_sum": ("add", None),
    "activation_tanh": ("tanh", 1),
    "activation_sigm": ("sigmoid", 1),
    "activation_leaky_relu": ("leaky_relu", 1),
}
_NLP_BACK = {name: op for op, (name, _) in _NLP.items()}
_NEW = re.compile(r"h_new_(\d+)", re.ASCII)
_OLD = re.compile(r"h_prev_(\d+)", re.ASCII)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = re.compile(
    rf"(h\d+|{'|'.join(KEYWORDS)})_*", re.ASCII
)  # cannot be lets, or what such a node becomes
_MOST_INPUTS = 100  # of one node: a sum of them is nested so deep
_MOST_NODES = 1_000
_MOST_STATES = 1_000


def from_nasbench_nlp(recipe: Recipe, name: str = "nasbench_nlp") -> Cell:
    """The cell of a NAS-Bench-NLP recipe: a mapping node -> {op, input}, `h_new_0` being the output.

    Node `h_new_3` becomes the state `h3`; the others keep their names, but that words of the language and names of
    states get an underscore. blend(a, b, c) = a*b + (1-a)*c is `lerp(a, c, b)`. Raises ImportFormatError with the node
    at fault.
    """
    source: Any = recipe
    if not isinstance(source, Mapping) or not all(isinstance(node, str) for node in source):
        raise ImportFormatError(f"a recipe is a mapping from names of nodes; received {_shown(recipe)}")
    if len(recipe) > _MOST_NODES:
        raise ImportFormatError(f"a recipe has at most {_MOST_NODES} nodes; received {len(recipe)}")
    inputs = {node: _nlp_entry(recipe, node) for node in recipe}
    if "h_new_0" not in recipe:
        names = _shown(", ".join(recipe)) if recipe else "no nodes"
        raise ImportFormatError(f"a recipe has the node `h_new_0`; received {names}")
    try:
        TopologicalSorter(
            {n: [i for i in given if i in recipe and i != "x"] for n, given in inputs.items()}
        ).prepare()
    except CycleError as error:
        circle = " <- ".join(map(_shown, error.args[1][:5]))
        raise ImportFormatError(f"node {_shown(error.args[1][0])} depends on itself: {circle}") from None
    statements = [Let(_nlp_name(n), _nlp_expr(recipe[n]["op"], given)) for n, given in inputs.items()]
    states = sorted(int(m[1]) for m in map(_NEW.fullmatch, recipe) if m)
    declared = [State(f"h{i}", VEC) for i in states]
    return _checked(name, declared, [*statements, Out(ref("h0'"))])


def _checked(name: str, states: Sequence[State], statements: Sequence[Statement]) -> Cell:
    """The cell of these parts, if its text is one of the language."""
    try:
        made = make_cell(name, states, statements)
        parse(str(made))
    except GrammarError as error:
        raise ImportFormatError(f"this is no cell of the language: {error}") from error
    return made


def _shown(value: object) -> str:
    """A value as text, cut if it is long."""
    try:
        text = repr(value)
    except ValueError:  # a number of more digits than Python writes
        text = f"a {type(value).__name__} with numbers too long to write"
    return text if len(text) <= 120 else f"{text[:100]}..."


def _nlp_entry(recipe: Recipe, node: str) -> tuple[str, ...]:
    """The inputs of a node, once its name and its entry are found to be of the format."""
    new = _NEW.fullmatch(node)
    if new and (node != f"h_new_{new[1].lstrip('0') or '0'}" or len(new[1]) > 3):
        raise ImportFormatError(
            f"node {_shown(node)}: states are numbered from 0 to {_MOST_STATES - 1}, without further zeros"
        )
    if not _NAME.fullmatch(node):
        raise ImportFormatError(
            f"node {_shown(node)}: a name is a letter or _ and then letters, digits or _, all of ASCII"
        )
    entry = recipe[node]
    if not isinstance(entry, Mapping) or {"op", "input"} - entry.keys():
        raise ImportFormatError(
            f"node {_shown(node)} must be a mapping with `op` and `input`; received {_shown(entry)}"
        )
    op, given = entry["op"], entry["input"]
    if not isinstance(op, str) or op not in _NLP:
        raise ImportFormatError(
            f"node {_shown(node)}: unknown operation {_shown(op)}; known are {', '.join(_NLP)}"
        )
    if not isinstance(given, list | tuple) or not all(isinstance(i, str) for i in given):
        raise ImportFormatError(f"node {_shown(node)}: `input` is a list of names; received {_shown(given)}")
    arity = _NLP[op][1]
    if not given or len(given) > _MOST_INPUTS or (arity is not None and len(given) != arity):
        raise ImportFormatError(
            f"node {_shown(node)}: `{op}` takes {arity or f'1 to {_MOST_INPUTS}'} inputs; received {len(given)}"
        )
    for i in given:
        old = _OLD.fullmatch(i)
        if i != "x" and i not in recipe and not (old and f"h_new_{old[1]}" in recipe):
            missing = f", as there is no node h_new_{old[1]}" if old else ""
            raise ImportFormatError(f"node {_shown(node)}: unknown input {_shown(i)}{shortened(missing)}")
    return tuple(given)


def _nlp_name(node: str) -> str:
    new = _NEW.fullmatch(node)
    if new:
        return f"h{new[1]}'"
    return f"{node}_" if _RESERVED.fullmatch(node) else node


def _nlp_expr(op: str, inputs: Sequence[str]) -> Expr:
    target = _NLP[op][0]
    args = [_nlp_input(i) for i in inputs]
    if op == "blend":
        return Expr("lerp", (args[0], args[2], args[1]))
    if target in ("add", "mul"):
        total = args[0]
        for other in args[1:]:
            total = Expr(target, (total, other))
        return total
    return Expr(target, tuple(args))


def _nlp_input(name: str) -> Expr:
    old = _OLD.fullmatch(name)
    if old:
        return ref(f"h{old[1]}")
    return X if name == "x" else ref(_nlp_name(name))


def to_nasbench_nlp(cell: Cell) -> dict[str, dict[str, Any]]:
    """The recipe of a cell that NAS-Bench-NLP can hold; `from_nasbench_nlp` of it has the same digest.

    An imported cell gives its recipe back, up to the spelling of nodes. Raises ImportFormatError.
    """
    order = _nlp_states(cell)
    lets = [s for s in cell.statements if isinstance(s, Let)]
    if len(lets) + 1 != len(cell.statements):
        raise ImportFormatError("NAS-Bench-NLP has no repeat, depth or leaf blocks")
    recipe: dict[str, dict[str, Any]] = {}
    taken = {s.name for s in lets}

    def free() -> str:
        name = next(f"node_{i}" for i in range(len(taken) + 1) if f"node_{i}" not in taken)
        taken.add(name)
        return name

    # A let may be called as the format calls a state.
    names = {s.name: free() for s in lets if _NEW.fullmatch(s.name) or _OLD.fullmatch(s.name)}
    names |= {s: f"h_prev_{i}" for s, i in order.items()} | {f"{s}'": f"h_new_{i}" for s, i in order.items()}

    def node(expr: Expr) -> str:
        if expr.op == "x":
            return "x"
        if expr.op == "ref":
            return names.get(str(expr.attr("name")), str(expr.attr("name")))
        fresh = free()
        write(fresh, expr)
        return fresh

    def write(name: str, expr: Expr) -> None:
        if expr.op not in _NLP_BACK or expr.attrs:
            raise ImportFormatError(f"NAS-Bench-NLP has no operation for `{expr.op}` with {dict(expr.attrs)}")
        args = expr.args if expr.op != "lerp" else (expr.args[0], expr.args[2], expr.args[1])
        inputs = [node(a) for a in args]
        recipe[name] = {"op": _NLP_BACK[expr.op], "input": inputs}

    for let in lets:
        if let.expr.op in ("ref", "x"):
            raise ImportFormatError(f"NAS-Bench-NLP has no copies, but `{let.name}` is one")
        write(names.get(let.name, let.name), let.expr)
    return recipe


def _nlp_states(cell: Cell) -> dict[str, int]:
    """Each state's number: the one that is emitted is 0, imported names keep theirs."""
    out = next(s.expr for s in cell.statements if isinstance(s, Out))
    name = str(out.attr("name")) if out.op == "ref" else ""
    emitted = name.rstrip("'")
    if not name.endswith("'") or any(s.type != VEC or s.init != 0.0 for s in cell.states):
        raise ImportFormatError("NAS-Bench-NLP emits the new value of a state, and its states are vec from 0")
    own = {s.name: re.fullmatch(r"h(0|[1-9]\d{0,2})", s.name) for s in cell.states}
    if all(own.values()) and emitted == "h0":
        return {s: int(m[1]) for s, m in own.items() if m}
    rest = [s.name for s in cell.states if s.name != emitted]
    return {s: i for i, s in enumerate([emitted, *rest])}


# ---- DARTS ------------------------------------------------------------------------------------

_DARTS_OPS = ("tanh", "relu", "sigmoid", "identity")


@dataclass(frozen=True)
class Genotype:
    """A recurrent cell of DARTS (Liu et al., 2019): for each node its (operation, predecessor), and the nodes
    whose mean is the output. Node 0 mixes x and h; `recurrent[i]` describes node i + 1."""

    recurrent: tuple[tuple[str, int], ...]
    concat: tuple[int, ...]


def from_darts(genotype: Genotype | Any, name: str = "darts") -> Cell:
    """The cell of a DARTS genotype: anything with `recurrent` and `concat`, as attributes or keys.

    Node i is s_j + sigmoid(c) * (f(u) - s_j) with c and u two maps of its predecessor j, without biases.
    Raises ImportFormatError.
    """
    made = _genotype(genotype)
    statements: list[Statement] = [Let("s0", _highway((X, ref("h")), ref("h"), "tanh"))]
    for i, (op, before) in enumerate(made.recurrent, start=1):
        if op not in _DARTS_OPS or not 0 <= before < i:
            raise ImportFormatError(
                f"node {i} needs an operation of {', '.join(_DARTS_OPS)} and an earlier node;"
                f" received ({_shown(op)}, {_shown(before)})"
            )
        statements.append(Let(f"s{i}", _highway((ref(f"s{before}"),), ref(f"s{before}"), op)))
    nodes = [ref(f"s{i}") for i in made.concat]
    if not nodes or any(not 1 <= i <= len(made.recurrent) for i in made.concat):
        raise ImportFormatError(
            f"`concat` names nodes from 1 to {len(made.recurrent)}; received {_shown(made.concat)}"
        )
    total = nodes[0]
    for other in nodes[1:]:
        total = Expr("add", (total, other))
    mean = Expr("div", (total, num(len(nodes)))) if len(nodes) > 1 else total
    return _checked(name, [State("h", VEC)], [*statements, Let("h'", mean), Out(ref("h'"))])


def _genotype(source: Any) -> Genotype:
    try:
        keyed = isinstance(source, Mapping)
        recurrent = source["recurrent"] if keyed else source.recurrent
        concat = source["concat"] if keyed else source.concat
        made = Genotype(tuple((_text(f), _whole(j)) for f, j in recurrent), tuple(map(_whole, concat)))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ImportFormatError(
            f"a genotype has `recurrent` pairs and `concat` nodes; received {_shown(source)} "
            f"({type(error).__name__}: {shortened(str(error))})"
        ) from error
    if max(len(made.recurrent), len(made.concat)) > _MOST_INPUTS:
        raise ImportFormatError(
            f"a genotype has at most {_MOST_INPUTS} nodes; received {len(made.recurrent)}, and {len(made.concat)} "
            "in `concat`"
        )
    return made


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"an operation is a name, not {_shown(value)}")
    return value


def _whole(value: Any) -> int:
    """A whole number, of Python or NumPy; neither a float nor a text nor a truth value is one."""
    if isinstance(value, bool):
        raise TypeError(f"a node is a whole number, not {value}")
    return operator.index(value)


def _highway(operands: tuple[Expr, ...], carry: Expr, op: str) -> Expr:
    gate = Expr("sigmoid", (_map(operands),))
    value = _map(operands)
    return Expr("lerp", (gate, carry, value if op == "identity" else Expr(op, (value,))))


def _map(operands: Iterable[Expr]) -> Expr:
    return Expr("lin", tuple(operands), (("bias", False),))


def to_darts(cell: Cell) -> Genotype:
    """The genotype of a cell of DARTS's recurrent space, however it is written; dead nodes are left out.

    Raises ImportFormatError for a cell of another form.
    """
    return _DartsReader(simplify(cell.graph)).read()


class _DartsReader:
    """Recognises DARTS's nodes in a simplified graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.number: dict[int, int] = {}
        self.recurrent: list[tuple[str, int]] = []

    def read(self) -> Genotype:
        graph = self.graph
        if len(graph.states) != 1 or graph.out != graph.next[0] or graph.states[0].init != 0.0:
            raise ImportFormatError("a DARTS cell has one state from 0, and emits its new value")
        root = graph.nodes[graph.out]
        # a simplified mean is a sum times a number
        parts = sorted(root.args, key=lambda a: graph.nodes[a].op == "num") if root.op == "mul" else []
        concat = self._addends(parts[0] if parts else graph.out)
        if len(concat) > _MOST_INPUTS:
            raise ImportFormatError(f"the output is the mean of at most {_MOST_INPUTS} nodes")
        if parts and graph.nodes[parts[1]].attr("value") != 1 / len(concat):
            raise ImportFormatError(f"the output is the mean of {len(concat)} nodes")
        for index in sorted(graph.reachable([graph.out])):
            if graph.nodes[index].op == "lerp":
                self._node(index)
        missing = [i for i in concat if i not in self.number]
        if missing or 0 in (self.number.get(i) for i in concat):
            raise ImportFormatError(
                "the output is a mean of nodes 1, 2, ... of the form lerp(gate, s, f(lin(s)))"
            )
        return Genotype(tuple(self.recurrent), tuple(sorted(self.number[i] for i in concat)))

    def _addends(self, index: int) -> list[int]:
        """The terms of a sum from the first on, at most one more than a genotype may have."""
        found: list[int] = []
        stack = [index]
        while stack and len(found) <= _MOST_INPUTS:
            at = stack.pop()
            if self.graph.nodes[at].op == "add":
                stack += self.graph.nodes[at].args[::-1]
            else:
                found.append(at)
        return found

    def _node(self, index: int) -> None:
        graph = self.graph
        gate, carry, value = (graph.nodes[a] for a in graph.nodes[index].args)
        carried = graph.nodes[index].args[1]
        op = value.op if value.op in _DARTS_OPS else "identity"
        maps = [graph.nodes[gate.args[0]] if gate.op == "sigmoid" else gate]
        maps.append(value if op == "identity" else graph.nodes[value.args[0]])
        plain = all(m.op == "lin" and m.attrs == (("bias", False),) for m in maps)
        if gate.op == "sigmoid" and plain and maps[0].weight != maps[1].weight:
            operands = [{graph.nodes[a].op if carry.op == "state" else a for a in m.args} for m in maps]
            if carry.op == "state" and operands == [{"x", "state"}] * 2 and op == "tanh" and not self.number:
                self.number[index] = 0
                return
            if operands == [{carried}] * 2 and carried in self.number:
                self.recurrent.append((op, self.number[carried]))
                self.number[index] = len(self.recurrent)
                return
        raise ImportFormatError("a node is lerp(sigmoid(lin(s, bias=no)), s, f(lin(s, bias=no)))")
