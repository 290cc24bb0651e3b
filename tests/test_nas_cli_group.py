from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import typer
from cli_runner import recell, refused
from made_runs import make_run

from grammar import CellBuildError
from nas.cli import app
from nas.cli.group import DONE, FAILED, INTERRUPTED, MISUSED, guarded
from nas.errors import BrokenRunError, RunError, TaskError
from nas.exporters import ExportMismatchError
from search_spaces import SpaceError

ROOT = Path(__file__).resolve().parents[1]


def raising(error: BaseException) -> Callable[[], Any]:
    def run() -> NoReturn:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (TaskError("no data"), MISUSED, "error: no data\n"),
        (SpaceError("no space"), MISUSED, "error: no space\n"),
        (CellBuildError("no size"), MISUSED, "error: no size\n"),
        (RunError("no run"), MISUSED, "error: no run\n"),
        (BrokenRunError("workers die"), FAILED, "error: workers die\n"),
        (ExportMismatchError("differs"), FAILED, "error: differs\n"),
        (PermissionError(13, "Permission denied", "a/b"), FAILED, "error: a/b: Permission denied\n"),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted\n"),
        (BrokenPipeError(), FAILED, ""),
        (typer.BadParameter("no such thing."), MISUSED, "error: Invalid value: no such thing\n"),
    ],
)
def test_errors_become_a_line_and_a_code(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded(raising(error)) == code
    assert capsys.readouterr().err == message


def test_a_bug_is_shown_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raising(ZeroDivisionError("by zero"))) == FAILED
    said = capsys.readouterr().err
    assert said.startswith("internal error: this is a bug in recell, please report it")
    assert "Traceback" in said
    assert "ZeroDivisionError: by zero" in said


def test_codes_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert [guarded(lambda: None), guarded(lambda: 1), guarded(lambda: INTERRUPTED)] == [DONE, 1, INTERRUPTED]
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("arguments", "begins", "ends"),
    [
        (("tpo",), "No such command 'tpo'. Did you mean 'top'", "(see `recell --help`)"),
        (("top",), "Missing argument 'RUN'", "(see `recell top --help`)"),
        (("top", "a", "-n", "0"), "Invalid value for '-n': ", "(see `recell top --help`)"),
        (("search", "--bogus"), "No such option: --bogus", "(see `recell search --help`)"),
        (("status", "nowhere"), "nowhere is not a run: ", "there is no such folder"),
    ],
)
def test_wrong_use_is_one_line(arguments: tuple[str, ...], begins: str, ends: str) -> None:
    error = refused(*arguments).replace("`root ", "`recell ")
    assert "\n" not in error
    assert error.startswith(begins)
    assert error.endswith(ends)


def test_help_has_examples_for_every_command() -> None:
    root = typer.main.get_group(app)
    names = "search resume status top report export export-optuna clean show zoo sample bench spaces tasks"
    names += " predict similar serve-predictor doctor"
    assert list(root.commands) == [*names.split(), "predictor"]
    for name, command in root.commands.items():
        if name == "predictor":  # a group, whose commands have help of their own
            continue
        said = recell(name, "--help")
        assert said.code == 0
        assert f"recell {name}" in said.out.split("Examples:")[1]
        assert command.help


def test_reading_commands_have_json_and_working_ones_quiet() -> None:
    root = typer.main.get_group(app)
    flags = {name: {flag for p in c.params for flag in p.opts} for name, c in root.commands.items()}
    reading = "status top report export clean show zoo sample spaces tasks doctor".split()
    assert [name for name in reading if "--json" not in flags[name]] == []
    assert [
        name for name in "search resume report export clean".split() if "--quiet" not in flags[name]
    ] == []


def test_no_arguments_and_help_and_version() -> None:
    assert "Usage:" in recell().out
    assert recell("--help").code == recell("-h").code == 0
    assert recell("--version").out.startswith("recell 0.")


LIGHT = """
import sys
from nas.cli import main
sys.argv = ["recell", *{arguments!r}]
try:
    main()
except SystemExit as end:
    heavy = [m for m in ("torch", "ray", "matplotlib", "sklearn", "optuna", "scipy") if m in sys.modules]
    print(end.code, *heavy, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "command", ["--help", "status", "top", "report", "clean", "zoo", "tasks", "search --help"]
)
def test_commands_that_only_read_load_nothing_heavy(command: str, tmp_path: Path) -> None:
    arguments = command.split()
    if command in ("status", "top", "report", "clean"):
        make_run(tmp_path / "run", trials=3)
        arguments.append(str(tmp_path / "run"))
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(arguments=arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.strip() == "0"
    assert "\x1b" not in done.stdout
