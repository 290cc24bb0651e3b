"""The command `recell`. Importing it loads typer and nothing heavy; each command imports what it needs when it runs."""

from nas.cli.commands import app as app
from nas.cli.commands import main as main
