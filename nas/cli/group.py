"""The one place where errors become a message and an exit code: 0 done, 1 the work failed, 2 wrong use."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import typer
from typer.core import TyperGroup

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130  # 130 is what shells use for an interrupt

_WIDEST = 500  # characters of one line of a message

# typer shows this class under no name of its own; with some versions of typer it is click's.
_ClickException: type[Any] = typer.BadParameter.__mro__[2]


class Group(TyperGroup):
    """The root command. Bad input is answered by one clear error on stderr, a bug by its traceback."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command and exit with its code."""
        warnings.showwarning = _show_warning

        def run() -> Any:
            return super(Group, self).main(args, prog_name, complete_var, standalone_mode=False, **extra)

        sys.exit(guarded(run))


def guarded(run: Callable[[], Any]) -> int:
    """Call `run`, which returns an exit code or None, and turn whatever it raises into a message and a code."""
    try:
        code = run()
        if code == INTERRUPTED:
            _say("interrupted")
        return code if isinstance(code, int) else DONE
    except _ClickException as error:
        hint = f" (see `{error.ctx.command_path} --help`)" if getattr(error, "ctx", None) else ""
        _say(f"error: {error.format_message().rstrip('.')}{hint}")
        return int(error.exit_code)
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except (typer.Abort, BrokenPipeError):
        return FAILED
    except OSError as error:
        _say(f"error: {error.filename or 'input/output'}: {error.strerror or error}")
        return FAILED
    except Exception as error:
        return _explained(error)


def _explained(error: Exception) -> int:
    from grammar import GrammarError
    from nas.errors import BrokenRunError, NasError
    from nas.exporters import ExportMismatchError
    from predictors import PredictorError
    from search_spaces import SpaceError

    if isinstance(error, ExportMismatchError | BrokenRunError):
        _say(f"error: {error}")
        return FAILED
    if isinstance(error, GrammarError | PredictorError | SpaceError | NasError):
        _say(f"error: {_cut(str(error))}")
        return MISUSED
    _say("internal error: this is a bug in recell, please report it with what follows")
    traceback.print_exception(error, file=sys.stderr)
    return FAILED


def _cut(text: str) -> str:
    """The lines of a message, none longer than a reader bears: a name in it may be as long as a text."""
    return "\n".join(line if len(line) <= _WIDEST else f"{line[:_WIDEST]} ..." for line in text.split("\n"))


def _say(text: str) -> None:
    sys.stdout.flush()
    print(text, file=sys.stderr, flush=True)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning is for the user: its text, without the place in our code."""
    _say(f"warning: {message}")
