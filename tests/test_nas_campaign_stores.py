"""Temporary folders of workers: what a killed one left is found, what a live one has is not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from source_tree import ROOT

from nas.campaign.stores import scratch, sweep

KILLED = """
import os, sys, tempfile
from nas.campaign.stores import scratch
tempfile.tempdir = sys.argv[1]
with scratch() as folder:
    (folder / "before").mkdir()
    (folder / "before" / "state").touch()
    os.kill(os.getpid(), 9)
"""


def test_what_killed_workers_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for _ in range(2):
        subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, check=False, timeout=100)
    old, young = tmp_path.iterdir()
    (tmp_path / "recell-other").mkdir()
    with scratch() as own:
        for path in (old, own, tmp_path / "recell-other"):
            os.utime(path, (1e9, 1e9))
        sweep()
        assert set(tmp_path.iterdir()) == {young, own, tmp_path / "recell-other"}
        os.utime(young, (1e9, 1e9))
    sweep()
    assert list(tmp_path.iterdir()) == [tmp_path / "recell-other"]
