"""Texts of cells to answers in JSON: what an encoder does, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grammar import Cell, GrammarError, LocatedError, parse
from nas._plain import plain
from nas.errors import ServingError
from nas.serving.limits import Limits
from predictors import Predictor, PredictorError, encode

NORMAL = 1.645  # half the width of a 90 % interval of the normal distribution


class Answerer:
    """Says of each text what to expect of its cell, or what is wrong with it; always an answer, never an exception.

    Answers are JSON objects as bytes, and depend on the class of a cell alone: the last `limits.kept` are kept by
    digest. Use it on the main thread: a timer of the process ends cells that take too long.
    Raises ServingError for a predictor that wants more than cells.
    """

    def __init__(self, predictor: Predictor, limits: Limits) -> None:
        if predictor.extras:
            raise ServingError(
                f"this predictor also wants {predictor.extras} further values of each cell, such as losses of first "
                "epochs: it cannot be served"
            )
        self.predictor, self.limits = predictor, limits
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def __call__(self, texts: Sequence[str], others: Sequence[bytes] = ()) -> list[bytes]:
        """One answer for each text, in their order. `others` are answers of other encoders, to be kept as well."""
        for answer in others:
            digest = json.loads(answer).get("digest")
            if digest:
                self._kept[digest] = answer
        found = [self._read(text) for text in texts]
        new = {cell.digest: cell for cell in found if isinstance(cell, Cell)}
        known = {digest: self._kept[digest] for digest in new if digest in self._kept}
        for digest in known:
            self._kept.move_to_end(digest)
        known |= self._predicted([cell for digest, cell in new.items() if digest not in known])
        return [known[item.digest] if isinstance(item, Cell) else item for item in found]

    def _read(self, text: str) -> Cell | bytes:
        """The cell with its digest, or an answer that says what is wrong with the text."""

        def read() -> Cell:
            cell = parse(text)
            _ = cell.digest  # takes time, so here; the cell keeps it
            return cell

        found: Cell | bytes = self._tried(read)
        return found

    def _row(self, cell: Cell) -> NDArray[np.float64]:
        return encode([cell]) if self.predictor.model == "ensemble" else self.predictor.rows([cell])

    def _predicted(self, cells: Sequence[Cell]) -> dict[str, bytes]:
        """Answers by digest. Cells are encoded one by one, so that one does not spoil it for the others."""
        made = {cell.digest: self._tried(lambda cell=cell: self._row(cell)) for cell in cells}  # type: ignore[misc]
        rows = {digest: row for digest, row in made.items() if not isinstance(row, bytes)}
        answers: dict[str, bytes] = {digest: row for digest, row in made.items() if isinstance(row, bytes)}
        if rows:
            said = self.predictor.of_known(
                self.predictor.predict_rows(np.concatenate([*rows.values()])), [*rows]
            )
            reached = self.predictor.reached([*rows])
            for place, digest in enumerate(rows):
                mean, std = float(said.mean[place]), float(said.std[place])
                fails = float(said.diverges[place])
                answers[digest] = as_json(
                    {
                        "digest": digest,
                        "mean": mean,
                        "std": std,
                        "interval": [mean - NORMAL * std, mean + NORMAL * std],
                        "out_of_distribution": bool(said.out_of_distribution[place]),
                        "novelty": float(said.novelty[place]),
                        "diverges": None if math.isnan(fails) else fails,
                        "fitted": None if self.predictor.known is None else not math.isnan(reached[place]),
                        "trained": float(reached[place]) if math.isfinite(reached[place]) else None,
                        "task": self.predictor.card.get("task"),
                        "unit": self.predictor.card.get("unit"),
                    }
                )
        self._kept |= answers
        while len(self._kept) > self.limits.kept:
            self._kept.popitem(last=False)
        return answers

    def _tried(self, work: Callable[[], Any]) -> Any:
        """What `work` gives, or the answer that says why it gave nothing."""
        try:
            with _deadline(self.limits.seconds):
                return work()
        except _TooLongError:
            return fault(
                f"this cell takes more than {self.limits.seconds:g} seconds of a processor to encode; it is too large"
            )
        except LocatedError as error:
            place = error.span
            return fault(error.message, place.line if place else None, place.column if place else None)
        except (GrammarError, PredictorError) as error:
            return fault(str(error))
        except (
            Exception
        ) as error:  # a bug of ours: told as one, and no reason to leave other cells without answers
            traceback.print_exception(error)
            return fault(
                "internal error: this is a bug in recell, please report it with the text of the cell"
            )


def fault(message: str, line: int | None = None, column: int | None = None) -> bytes:
    """The answer that says what is wrong with a text, and where, counted from 1."""
    return as_json({"error": message, "line": line, "column": column})


def as_json(value: Any) -> bytes:
    """Strict JSON in ASCII: numbers that are not finite become null."""
    try:
        return json.dumps(value, allow_nan=False).encode()
    except ValueError:
        return json.dumps(plain(value), allow_nan=False).encode()


class _TooLongError(BaseException):
    """No Exception, so that nothing on the way takes it for an error of its own."""


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise _TooLongError in what takes more processor seconds: that others use the machine counts for nothing."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
