"""`export`: write a cell as files that work without recell, and check them before saying so."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from grammar import DIGEST_VERSION, Cell
from nas.campaign import Run, open_run
from nas.errors import ExportError
from nas.exporters.check import check_export
from nas.exporters.formats import read_formats
from nas.exporters.graphs import graph_files, write_graphs
from nas.exporters.source import WEIGHTS, Source, cell_source
from nas.exporters.subject import Subject, exported_weights, subject_of_cell, subject_of_run

SCHEMA = 1
CODE = "cell.py"
FACTS = "cell.json"


@dataclass(frozen=True)
class Exported:
    """What `export` wrote. `difference` is the largest one between the files and the module in recell."""

    folder: Path
    cell: Cell
    trained: bool
    difference: float
    facts: dict[str, Any]


def export(
    what: Run | Cell | str | Path,
    out: str | Path,
    *,
    rank: int = 1,
    trial: int | None = None,
    formats: str | Sequence[str] = "cell",
    **sizes: Any,
) -> Exported:
    """Write a cell of a run (or of the run in that place), or a cell by itself, into the new or empty folder `out`.

    From a run it is the one of this `rank` (1 is the best; `trial` names one by its number), with its trained weights
    if it was retrained. A cell by itself has fresh weights, and `sizes`: input_size, hidden_size, num_layers, heads,
    key_size, seed. The folder gets `cell.py` (torch only), `weights.safetensors` and `cell.json`, after they were
    loaded in a fresh process without recell and gave the same outputs. `formats` adds "pt2", a program of
    torch.export, and "onnx" (the extra `onnx`), or "all": graphs of any batch and number of steps, for inference, with
    `state.safetensors` to begin with. Raises ExportError; then nothing is written.
    """
    folder = Path(out)
    graphs = [name for name in read_formats(formats) if name != "cell"]
    check_folder(folder)
    if isinstance(what, str | Path):
        what = open_run(what)
    if isinstance(what, Run):
        if sizes:
            raise ExportError(
                f"the sizes of a cell from a run are those of the run; received {', '.join(sizes)}"
            )
        subject = subject_of_run(what, rank, trial)
    else:
        subject = subject_of_cell(what, **sizes)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        facts = _write(beside, subject, graphs)
        beside.chmod(0o755)
        os.replace(beside, folder)  # takes the place of an empty folder, and of nothing else
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror}") from error
    finally:
        if beside.exists():
            shutil.rmtree(beside)
    return Exported(folder, subject.cell, subject.trained, max(facts["check"].values()), facts)


def check_folder(folder: Path) -> None:
    """Raise ExportError unless an export can be written to `folder`: it is not there, or it is an empty folder."""
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"{folder} is a file; give a folder for the export")
    if folder.is_dir() and any(folder.iterdir()):
        raise ExportError(f"{folder} is not empty and nothing is overwritten; give a new or empty folder")


def _write(folder: Path, subject: Subject, graphs: Sequence[str] = ()) -> dict[str, Any]:
    """Write all files and check them; returns what `cell.json` holds."""
    source = cell_source(subject.cell, subject.name, subject.sizes, _docstring(subject), subject.model)
    (folder / CODE).write_text(source.text, encoding="utf-8")
    weights = exported_weights(subject, source.parameters, source.learned)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # safetensors makes files that only their owner can read
    difference = check_export(folder, subject)
    if graphs:
        difference |= write_graphs(folder, subject, graphs, source.states)
    facts = _facts(subject, source, sum(w.numel() for w in weights.values()), difference)
    facts["files"] = {name: _sha256(folder / name) for name in (CODE, WEIGHTS, *graph_files(graphs))}
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return facts


def _facts(subject: Subject, source: Source, numbers: int, difference: dict[str, float]) -> dict[str, Any]:
    cell, sizes, model = subject.cell, subject.sizes, subject.model
    return {
        "schema": SCHEMA,
        "recell": str(sys.modules["nas"].__version__),
        "name": subject.name,
        "text": subject.text,
        "canonical": str(cell.canonical()),
        "digest": cell.digest,
        "digest_version": DIGEST_VERSION,
        "trained": subject.trained,
        "class": "Model" if model else "Cell",
        "sizes": {
            "input_size": sizes.input_size,
            "hidden_size": sizes.hidden_size,
            "num_layers": sizes.num_layers,
            "heads": sizes.heads,
            "key_size": subject.module.key_size,
        },
        "model": {"inputs": model.inputs, "outputs": model.outputs, "embed": model.embed} if model else None,
        "states": list(source.states),
        "numbers": numbers,
        **subject.facts,
        "check": difference,
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _docstring(subject: Subject) -> str:
    return "\n".join(_doc_lines(subject))


def _doc_lines(subject: Subject) -> Iterator[str]:
    cell, sizes, model = subject.cell, subject.sizes, subject.model
    yield f"The recurrent cell {subject.name}, written by recell {sys.modules['nas'].__version__}."
    yield ""
    yield from (f"    {line}" if line else "" for line in subject.text.rstrip().splitlines())
    yield ""
    if str(cell) != subject.text:
        yield "In canonical form, which was trained and which the code follows:"
        yield ""
        yield from (f"    {line}" if line else "" for line in str(cell).rstrip().splitlines())
        yield ""
    yield "Plain names are values of the step before, primed names new ones; every `lin` has its own weights and bias."
    yield from subject.remarks
    yield f"Digest {cell.digest}"
    yield ""
    yield "Needs torch, and safetensors to load the weights."
    yield ""
    yield "    from cell import load"
    yield ""
    inner = f"[B, T, {sizes.input_size}] -> [B, T, {sizes.hidden_size}]"
    if model:
        shape = "[B, T] int64" if model.embed else f"[B, T, {model.inputs}]"
        yield "    model = load()"
        yield f"    logits, state = model(x)            # x {shape} -> [B, T, {model.outputs}]"
        yield "    logits, state = model(more, state)  # carries on from there"
        yield f"    y, state = model.cell(u)            # the cell alone: u {inner}"
        if subject.facts.get("vocabulary"):
            yield ""
            yield "Token numbers are places in the list `vocabulary` of cell.json; 0 stands for all that is not in it."
    else:
        yield "    cell = load()"
        yield f"    y, state = cell(x)                  # x {inner}"
        yield "    y, state = cell(more, state)        # carries on from there"
        yield "    y_t, state = cell.step(x_t, state)  # one step"
