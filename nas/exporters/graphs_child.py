"""Run by its path in processes of their own: `cell.py` of a folder as graphs, and graphs held against numbers.

    python -I -B graphs_child.py write FOLDER FORMATS STATES
    python -I -B graphs_child.py check FOLDER FORMATS STATES EXPECTED

Nothing of recell may be imported here. FORMATS are "pt2" and "onnx" with a comma, STATES is JSON: names of the parts of
the state, and which of them are complex. `check` prints a line of JSON: for each format and each thing compared the
largest difference, and that of the original in float32 from itself in float64.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

BATCH, STEPS = 3, 5
"""Of the example that is traced; graphs take any other."""

Run = Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, Sequence[Tensor]]]


class Steps(nn.Module):
    """All steps of what has a `step`, as one scan: no number of steps is built in.

    `forward(x, state)` has the time in the second place of x and of its answer, as `cell.py` has. Without gradients.
    """

    def __init__(self, part: Any) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """x [B, T, ...] -> y [B, T, ...] and the state after the last step."""
        from torch._higher_order_ops.scan import scan

        if (
            not isinstance(state, Tensor) and not state
        ):  # a scan carries something; here each step is one by itself
            y, _ = self.part.step(x.flatten(0, 1), state)
            return y.unflatten(0, x.shape[:2]), state
        lone = isinstance(state, Tensor)

        def step(carry: tuple[Tensor, ...], x_t: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
            y, new = self.part.step(x_t, carry[0] if lone else carry)
            # A scan may not give back what it was given, nor the same tensor twice.
            return tuple(part.clone() for part in ((new,) if lone else new)), y.clone()

        last, ys = scan(step, (state,) if lone else tuple(state), x.transpose(0, 1).contiguous())
        return ys.transpose(0, 1), last[0] if lone else tuple(last)


def write(folder: Path, formats: Sequence[str], states: Sequence[tuple[str, bool]]) -> None:
    """`cell.pt2` and `cell.onnx` beside `cell.py`, and the state before the first step of one sequence."""
    part = _loaded(folder).requires_grad_(False)  # a learned beginning of the state is a parameter, too
    cell = getattr(part, "cell", part)
    initial = _parts(part.init_state(1))
    save_file(
        {name: _real(value).clone() for (name, _), value in zip(states, initial, strict=True)},
        folder / "state.safetensors",
    )
    (folder / "state.safetensors").chmod(0o644)
    if cell is part:
        x = torch.randn(BATCH, STEPS, part.input_size)
    elif isinstance(part.inputs, nn.Embedding):
        x = torch.zeros(BATCH, STEPS, dtype=torch.int64)
    else:
        x = torch.randn(BATCH, STEPS, part.inputs.in_features)
    state: Any = tuple(value.contiguous() for value in _parts(part.init_state(BATCH)))
    state = state[0] if len(state) == 1 else state
    batch, steps = torch.export.Dim("batch", min=1), torch.export.Dim("steps", min=1)
    of_state: Any = {1: batch} if isinstance(state, Tensor) else tuple({1: batch} for _ in state)
    with torch.no_grad():
        program = torch.export.export(
            Steps(part), (x, state), dynamic_shapes=({0: batch, 1: steps}, of_state)
        )
        if "pt2" in formats:
            torch.export.save(program, folder / "cell.pt2")
        if "onnx" in formats:
            names = [name for name, _ in states]
            made = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=["x", *names],
                output_names=outputs(names),
            )
            cast(Any, made).save(folder / "cell.onnx")


def outputs(names: Sequence[str]) -> list[str]:
    """The names of the outputs in ONNX, where all names differ: a `_` follows each that an input has."""
    made: list[str] = []
    for name in ["y", *(f"{name}_new" for name in names)]:
        while name in ("x", *names, *made):
            name += "_"
        made.append(name)
    return made


def check(folder: Path, formats: Sequence[str], states: Sequence[tuple[str, bool]], expected: Path) -> None:
    """Compare each graph with what the original made of the same inputs, carried on in a second call."""
    single, double = (
        load_file(expected / f"{dtype}.safetensors") for dtype in (torch.float32, torch.float64)
    )
    name = "model" if "model.x" in single else "cell"
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for kind in formats:
        run = _program(folder) if kind == "pt2" else _session(folder, [each for each, _ in states])
        x, first = single[f"{name}.x"], single[f"{name}.y"].shape[1]
        begin = load_file(folder / "state.safetensors")
        state: Sequence[Tensor] = [
            _expanded(begin[each], is_complex, x.shape[0]) for each, is_complex in states
        ]
        said: dict[str, tuple[float, float]] = {}
        for part, key, ends in ((x[:, :first], "y", "state"), (x[:, first:], "rest", "last")):
            y, state = run(part, state)
            pairs = {key: y} | {f"{ends}.{i}": value for i, value in enumerate(state)}
            for what, value in pairs.items():
                wanted = single[f"{name}.{what}"], double[f"{name}.{what}"]
                said[what] = _difference(_real(value), wanted[1]), _difference(*wanted)
        y_t, _ = run(x[:1, :1], [value[:, :1] for value in _first(begin, states)])  # one step of one sequence
        wanted = single[f"{name}.y"][:1, :1], double[f"{name}.y"][:1, :1]
        said["one step"] = _difference(y_t, wanted[1]), _difference(*wanted)
        found[kind] = said
    print(json.dumps(found))


def _loaded(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("cell", folder / "cell.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cell"] = module  # torch looks for the functions that it traces by the name of their module
    spec.loader.exec_module(module)
    return module.load()


def _program(folder: Path) -> Run:
    module = torch.export.load(folder / "cell.pt2").module()

    def run(x: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        with torch.no_grad():
            y, last = module(x, state[0] if len(state) == 1 else tuple(state))
        return y, _parts(last)

    return run


def _session(folder: Path, names: Sequence[str]) -> Run:
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(folder / "cell.onnx", providers=["CPUExecutionProvider"])

    def run(x: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        given = {
            name: value.contiguous().numpy() for name, value in zip(["x", *names], [x, *state], strict=True)
        }
        y, *last = map(torch.from_numpy, session.run(None, given))
        return y, last

    return run


def _first(begin: dict[str, Tensor], states: Sequence[tuple[str, bool]]) -> list[Tensor]:
    return [_expanded(begin[name], is_complex, 1) for name, is_complex in states]


def _expanded(value: Tensor, is_complex: bool, batch: int) -> Tensor:
    whole = torch.view_as_complex(value) if is_complex else value
    return whole.expand(whole.shape[0], batch, *whole.shape[2:]).contiguous()


def _parts(state: Any) -> tuple[Tensor, ...]:
    return (state,) if isinstance(state, Tensor) else tuple(state)


def _real(value: Tensor) -> Tensor:
    return torch.view_as_real(value.resolve_conj()).contiguous() if value.is_complex() else value.contiguous()


def _difference(value: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest number if that is above 1; infinite where only one is NaN."""
    if value.shape != wanted.shape:
        return float("inf")
    value = value.double()
    finite = wanted[wanted.isfinite()].abs()
    scale = max(1.0, finite.max().item() if len(finite) else 1.0)
    same = (value == wanted) | (value.isnan() & wanted.isnan())
    return torch.where(same, 0.0, (value - wanted).abs()).nan_to_num(float("inf")).max().item() / scale


def main(arguments: Sequence[str]) -> None:
    """What stands at the head of this file."""
    what, folder, formats, states, *rest = arguments
    parts = [(str(name), bool(is_complex)) for name, is_complex in json.loads(states)]
    if what == "write":
        write(Path(folder), formats.split(","), parts)
    else:
        check(Path(folder), formats.split(","), parts, Path(rest[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
