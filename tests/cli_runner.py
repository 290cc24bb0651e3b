"""The command line in this process: what it prints and its exit code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from typer.testing import CliRunner

from nas.cli import app


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    error: str

    @property
    def json(self) -> Any:
        """The output of a command with --json."""
        return json.loads(self.out)


def recell(*arguments: object, stdin: str | None = None) -> Said:
    """Run `recell` with these arguments, without a terminal."""
    done = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)
    assert "\x1b" not in done.stdout + done.stderr, "control characters without a terminal"
    return Said(done.exit_code, done.stdout, done.stderr)


def refused(*arguments: object) -> str:
    """The error of a command that was used wrongly: code 2, nothing printed, one error and no traceback."""
    said = recell(*arguments)
    assert said.code == 2, said
    assert said.out == ""
    assert said.error.startswith("error: ")
    assert "Traceback" not in said.error
    return said.error.removeprefix("error: ").rstrip("\n")
