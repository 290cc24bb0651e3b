"""The text of an exported `cell.py`: one file that needs torch alone, and safetensors to load its weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from grammar import Cell, State, Type
from nas.errors import ExportError
from nas.exporters.layer import Body, layer_body
from nas.exporters.sizes import axes, fill_text, init_source
from nas.exporters.text import HELPERS, wrapped

WEIGHTS = "weights.safetensors"

_SHAPES = {
    "vec": "H",
    "cvec": "H",
    "in": "D",
    "key": "N, K",
    "scal": "N",
    "mat": "N, K, V",
    "cmat": "N, K, V",
}
_LOCALS = {"D": "input_size", "H": "hidden_size", "N": "self.heads", "K": "self.key_size"}


@dataclass(frozen=True)
class Sizes:
    """The sizes of an exported module; they are the defaults of its constructor. `key_size` None is H / N."""

    input_size: int
    hidden_size: int
    num_layers: int = 1
    heads: int = 1
    key_size: int | None = None


@dataclass(frozen=True)
class ModelSizes:
    """What stands around the cell in a task's model: an embedding of `inputs` tokens or a map of features; a head."""

    inputs: int
    outputs: int
    embed: bool


@dataclass(frozen=True)
class Source:
    """A generated file, and the attribute of a layer that holds each array."""

    text: str
    parameters: dict[tuple[int, str], str]
    """By (index in `Graph.weights`, role)."""
    learned: dict[str, str]
    """By the state whose initial value is learned."""
    states: tuple[dict[str, str], ...]
    """Name, type and shape of each part of the state."""


def cell_source(cell: Cell, name: str, sizes: Sizes, doc: str, model: ModelSizes | None = None) -> Source:
    """Write a cell, and with `model` the whole model of a task, as a Python module. `doc` is its docstring.

    `name` is what the classes' docstrings call it.

    Raises ExportError for a cell that does not run over time.
    """
    body = layer_body(cell)
    if (
        sizes.num_layers > 1
        and sizes.input_size != sizes.hidden_size
        and any(b.type.kind == "in" for b in body.buffers)
    ):
        raise ExportError(
            f"`{cell.name}` remembers x itself, so layers above the first need input_size == hidden_size; received "
            f"{sizes.input_size} and {sizes.hidden_size}"
        )
    learned = {s.name: f"{s.name}_0" for s in cell.states if s.init == "learned"}
    parameters = _parameters(cell, body, learned)
    code = "\n".join([*parameters, *body.lines])
    helpers = [text.strip("\n") for name, text in HELPERS.items() if re.search(rf"(?<![\w.]){name}\(", code)]
    written = _template().render(
        doc=doc.replace("\\", "\\\\").replace('"""', '\\"\\"\\"'),
        name=name,
        sizes=sizes,
        heads=sizes.heads,
        key_size=sizes.key_size or ("hidden_size" if sizes.heads == 1 else f"hidden_size // {sizes.heads}"),
        lone=len(cell.states) + len(body.buffers) == 1,
        helpers=helpers,
        parameters=parameters,
        initial=list(_initial(cell, body, learned)),
        body=body.lines,
        math="math." in code,
        functional="F." in code + "".join(helpers),
        state_doc=lambda batch: _state_doc(cell, body, batch),
        model=model,
        main="Model" if model else "Cell",
        weights=WEIGHTS,
    )
    head, mark, rest = written.partition("\nfrom __future__")  # lines of the docstring stay as they are
    text = head + "\n".join(part for line in (mark + rest).splitlines() for part in wrapped(line)) + "\n"
    return Source(text, body.parameters, learned, tuple(_states(cell, body)))


def _template() -> jinja2.Template:
    text = Path(__file__).with_name("cell.py.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(text)


def _parameters(cell: Cell, body: Body, learned: dict[str, str]) -> list[str]:
    """The lines of `Layer.__init__` that make its arrays, after those for the sizes that they name."""
    made: list[str] = []
    for (index, role), name in body.parameters.items():
        weight = cell.graph.weights[index]
        spec = next(s for s in weight.specs if s.role == role)
        made.append(f"self.{name} = {init_source(spec, weight)}")
    for state in cell.states:
        if state.name in learned:
            extents = [*axes(state.type), *(["2"] if state.type.is_complex else [])]
            made.append(f"self.{learned[state.name]} = nn.Parameter(torch.zeros({', '.join(extents)}))")
    code = "\n".join(made)
    used = [name for name in _LOCALS if re.search(rf"\b{name}\b", code)]
    return [f"{', '.join(used)} = {', '.join(_LOCALS[n] for n in used)}", *made] if used else made


def _initial(cell: Cell, body: Body, learned: dict[str, str]) -> Iterator[str]:
    like = next((f"self.{name}" for name in body.parameters.values()), "torch.zeros(())")
    values = []
    for state in cell.states:
        if state.name in learned:
            values.append(_learned(state, learned[state.name]))
        else:
            values.append(_filled(state.type, axes(state.type), fill_text(state)))
    for buffer in body.buffers:
        steps = [str(buffer.steps)] if buffer.steps else []
        values.append(_filled(buffer.type, [*steps, *axes(buffer.type)], "0.0"))
    if any("like" in value for value in values):
        yield f"like = {like}"
    names = [*body.states, *(b.name for b in body.buffers)]
    for name, value in zip(names, values, strict=True):
        yield f"{name} = {value}"
    yield f"return ({', '.join(names)}{',' if len(names) == 1 else ''})"


def _filled(of: Type, extents: Sequence[str], value: str) -> str:
    shape = ", ".join(["batch", *extents])
    kind = ", dtype=like.dtype.to_complex()" if of.is_complex else ""
    if value == "0.0":
        return f"like.new_zeros({shape}{kind})"
    return f"like.new_full(({shape}), {value}{kind})"


def _learned(state: State, name: str) -> str:
    value = f"torch.view_as_complex(self.{name})" if state.type.is_complex else f"self.{name}"
    return f"{value}.expand(batch, {', '.join(['-1'] * len(axes(state.type)))})"


def _states(cell: Cell, body: Body) -> Iterator[dict[str, str]]:
    for name, state in zip(body.states, cell.states, strict=True):
        yield {"name": name, "type": str(state.type), "shape": f"[layers, B, {_shape(state.type, 0)}]"}
    for buffer in body.buffers:
        shape = f"[layers, B, {_shape(buffer.type, buffer.steps)}]"
        yield {"name": buffer.name, "type": str(buffer.type), "shape": shape}


def _state_doc(cell: Cell, body: Body, batch: str) -> str:
    found = [(s["name"], s["shape"].replace("layers, B", batch)) for s in _states(cell, body)]
    return ", ".join(f"{name} {shape}" for name, shape in found) or "none"


def _shape(of: Type, steps: int) -> str:
    inner = str(of.size) if of.kind == "mem" else _SHAPES[of.kind]
    return f"{steps}, {inner}" if steps else inner
