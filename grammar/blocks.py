"""What statements read and write, for finding an order in which to compute them."""

from __future__ import annotations

from collections.abc import Iterator

from grammar.syntax import Depth, Let, Repeat, expressions

Block = Repeat | Depth


def changes(block: Block) -> Iterator[Let]:
    """The new values of states that a block defines, those of inner blocks included."""
    for statement in block.body:
        if isinstance(statement, Let) and statement.primed:
            yield statement
        elif isinstance(statement, Block):
            yield from changes(statement)


def writes(block: Block) -> Iterator[str]:
    """The names of these values."""
    return (let.name for let in changes(block))


def reads(statement: Let | Block) -> Iterator[str]:
    """The names a statement may take from around it."""
    local: set[str] = set()
    if isinstance(statement, Block):
        local = {s.name for s in statement.body if isinstance(s, Let)} | set(writes(statement))
    for expr in expressions((statement,)):
        for node in expr.walk():
            if node.op == "ref" and node.attr("name") not in local:
                yield str(node.attr("name"))


def title(statement: Let | Block) -> str:
    return statement.name if isinstance(statement, Let) else ", ".join(writes(statement))
