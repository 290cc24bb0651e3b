"""Values on the command line: lengths of time, counts, and cells."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli.errors import UsageError

if TYPE_CHECKING:
    from grammar import Cell
    from nas.campaign import Run

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MOST_BYTES = 1_000_000  # of a text that is read: more than any cell has, and an end to /dev/zero
_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}


def seconds(option: str, text: str) -> float:
    """A length of time: 90s, 10m, 1h, 1h30m, or plain seconds. Raises UsageError, also for zero."""
    parts = re.findall(r"([0-9]*\.?[0-9]+)([smhd]?)", text.lower())
    whole = "".join(number + unit for number, unit in parts) == text.lower()
    if not parts or not whole or (len(parts) > 1 and any(not unit for _, unit in parts)):
        raise UsageError(
            f"{option} must be a length of time such as 90s, 10m, 1h, 1h30m or a number of seconds; received {text!r}"
        )
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if total <= 0 or not math.isfinite(total):
        raise UsageError(f"{option} must be more than 0; received {text!r}")
    return total


def count(option: str, text: str) -> int:
    """A number of things: 200000, 200k or 1.5M. Raises UsageError, also for zero."""
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)([kmg]?)", text.lower().replace("_", "").replace(",", ""))
    value = float(found[1]) * _FACTORS[found[2]] if found else 0.0
    if value < 1 or value != int(value):
        raise UsageError(f"{option} must be a whole number such as 200000, 200k or 1.5M; received {text!r}")
    return int(value)


def options(option: str, texts: Sequence[str]) -> dict[str, int | float | bool | str]:
    """Options by name out of `name=value`: numbers, truths (yes, true, no, false) or texts. Raises UsageError."""
    found: dict[str, int | float | bool | str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise UsageError(f"{option} must be of the form name=value; received {text!r}")
        if name.strip() in found:
            raise UsageError(f"{option} {name.strip()} is given twice")
        found[name.strip()] = _value(value.strip())
    return found


def _value(text: str) -> int | float | bool | str:
    if text.lower() in ("true", "false", "yes", "no"):
        return text.lower() in ("true", "yes")
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def read_cell(text: str) -> Cell:
    """The cell that an argument names: a text, a file, `zoo:lstm`, `RUN#3`, or `-` for standard input.

    Raises GrammarError for a fault in a text, RunError for a run, UsageError for what is none of these.
    """
    from grammar import parse, zoo

    if text.startswith("zoo:"):
        return zoo(text.removeprefix("zoo:"))
    if text == "-":
        return parse(_stdin_text(), "<stdin>")
    if "{" in text:
        return parse(text)
    place = run_and_trial(text)
    if place is not None:
        return parse(trial_text(*place))
    path = Path(text)
    try:
        is_file, is_folder = path.is_file(), bool(text) and path.is_dir()
    except (OSError, ValueError):  # such as a name that is too long for any file
        is_file = is_folder = False
    if is_file:
        return parse(_file_text(path), str(path))
    raise UsageError(_no_cell(text, is_folder))


def run_and_trial(text: str) -> tuple[Run, int] | None:
    """The run and the number of the trial in `RUN#3`, None if `text` is not of that form."""
    from nas.campaign import open_run

    folder, mark, number = text.rpartition("#")
    if not mark or not number.isdecimal() or not folder:
        return None
    return open_run(folder), int(number)


def trial_text(run: Run, trial: int) -> str:
    """The text of a trial as it was derived. Raises UsageError if there is none of this number."""
    if not 0 <= trial < len(run.trials):
        raise UsageError(f"{run.path} has {len(run.trials)} trials, counted from #0; there is no #{trial}")
    return run.trials[trial].text


def _file_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read the cell file {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UsageError(f"the cell file {path} is not UTF-8 text") from None


def _stdin_text() -> str:
    try:
        return sys.stdin.buffer.read(_MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError("what stands on the standard input is not UTF-8 text") from None


def _no_cell(text: str, is_folder: bool) -> str:
    from grammar import suggest, zoo_names

    text = text if len(text) <= 100 else f"{text[:100]}..."
    forms = "a cell is a text in quotes, a file, zoo:NAME (`recell zoo` lists them), or RUN#3 for a trial of a run"
    if is_folder:
        return f"{text} is a folder; {forms}"
    if text in zoo_names():
        return f"there is no file {text!r}; did you mean zoo:{text}?"
    return f"there is no cell {text!r}{suggest(text, [f'zoo:{n}' for n in zoo_names()])}; {forms}"
