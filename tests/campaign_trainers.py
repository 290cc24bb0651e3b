"""Stands in for `nas.training.train` in workers: quick, and as unruly as the text of the cell says."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from nas.training import TrialResult, TrialSpec


def train(
    spec: TrialSpec,
    *,
    test: bool = False,
    on_progress: Callable[[int, float], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    save_to: Path | None = None,
) -> TrialResult:
    """Do what `spec.cell` says: "ok", "sleep", "grow", "die FILE" (once: FILE keeps that in mind) or "raise"."""
    what, _, place = spec.cell.partition(" ")
    if on_progress is not None:
        on_progress(7, 0.5)
    if what == "die" and not Path(place).exists():
        Path(place).write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "raise":
        raise ValueError("made up")
    held = bytearray(600_000_000) if what == "grow" else bytearray(1)
    if what in ("sleep", "grow"):
        time.sleep(100)
    if save_to is not None:
        save_to.mkdir()
        (save_to / "weights.safetensors").write_bytes(b"weights")
    import torch

    note = f"{torch.get_num_threads()} {os.environ['OMP_NUM_THREADS']} {os.getpid()} {len(held)}"
    return TrialResult("ok", 0.25, 0.5 if test else None, ((7, 0.5),), 10, 4, 7, 0.1, note)
