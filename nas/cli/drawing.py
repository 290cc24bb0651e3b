"""A cell's graph as trees of text: what each new state and the output are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.text import Text
from rich.tree import Tree

from grammar import (
    GRAPH_LEAVES,
    OPS,
    Cell,
    Depth,
    Expr,
    Graph,
    Leaf,
    Let,
    Node,
    Out,
    Repeat,
    Statement,
    show_number,
)
from nas.exporters import value_names

SYMBOLS = {"add": "+", "sub": "-", "mul": "×", "div": "÷", "sigmoid": "σ", "neg": "-"}  # noqa: RUF001
PLAIN = {"add": "+", "sub": "-", "mul": "*", "div": "/", "neg": "-"}
DOT = "·"  # stands for the value that a number is joined with
_STYLES = {
    "x": "bold blue",
    "state": "bold green",
    "child": "bold green",
    "carry": "bold green",
    "final": "bold green",
}


def draw(cell: Cell, symbols: bool = True) -> list[Tree]:
    """A tree for each new state and for the output. What is used twice is drawn once and named after that.

    Without `symbols` only ASCII stands in the labels.
    """
    return _Drawing(cell, symbols).trees()


def outline(cell: Cell, symbols: bool = True) -> Tree:
    """The equations as they are written, in their blocks: for each the operations in it and the names that it reads."""
    signs = SYMBOLS if symbols else PLAIN
    tree = Tree(Text(cell.name, style="bold"), guide_style="dim")
    _outline(cell.statements, tree, signs)
    return tree


def _outline(statements: Iterable[Statement], tree: Tree, signs: Mapping[str, str]) -> None:
    for statement in statements:
        if isinstance(statement, Let):
            primed = "bold magenta" if statement.primed else "bold"
            tree.add(Text.assemble((statement.name, primed), " = ", _reads(statement.expr, signs)))
        elif isinstance(statement, Out):
            tree.add(Text.assemble(("out", "bold magenta"), " ", _reads(statement.expr, signs)))
        else:
            _outline(statement.body, tree.add(_block(statement, signs)), signs)


def _block(statement: Repeat | Depth | Leaf, signs: Mapping[str, str]) -> Text:
    if isinstance(statement, Leaf):
        return Text("leaf", style="bold cyan")
    if isinstance(statement, Repeat):
        return Text(f"repeat {statement.times}{' fresh' if statement.fresh else ''}", style="bold cyan")
    head = Text(f"depth {statement.times}", style="bold cyan")
    return head if statement.until is None else Text.assemble(head, " until ", _reads(statement.until, signs))


def _reads(expr: Expr, signs: Mapping[str, str]) -> Text:
    """The operations of an expression from the outside in, each once, and what it reads."""
    nodes = list(expr.walk())
    operations = dict.fromkeys(signs.get(n.op, n.op) for n in nodes if n.op in OPS)
    names: dict[str, str] = {}
    for node in nodes:
        if node.op == "x":
            names["x"] = _STYLES["x"]
        elif node.op == "ref":
            names[str(node.attr("name"))] = "bold"
        elif node.op == "child":
            names[f"{node.attr('child')}.{node.attr('state')}"] = _STYLES["child"]
    read = Text(", ").join(Text(name, style=style) for name, style in names.items())
    return Text.assemble(" ".join(operations), "(", read, ")") if operations else read


class _Drawing:
    def __init__(self, cell: Cell, symbols: bool) -> None:
        self.symbols, self.dot = (SYMBOLS, DOT) if symbols else (PLAIN, "_")
        self.graph: Graph = cell.graph
        uses = self.graph.uses()
        names = value_names(cell)
        self.names = {i: n.replace("_new", "'") for i, n in names.items()}
        for number, index in enumerate(
            i for i, n in enumerate(self.graph.nodes) if uses[i] > 1 and i not in names
        ):
            if self.graph.nodes[index].op not in GRAPH_LEAVES:
                self.names[index] = f"v{number + 1}"
        self.drawn: set[int] = set()

    def trees(self) -> list[Tree]:
        made: list[Tree] = []
        for state, index in zip(self.graph.states, self.graph.next, strict=True):
            if self.names.get(index) != f"{state.name}'" or index not in self.drawn:
                made.append(self._root(f"{state.name}'", index))
        made.append(self._root("out", self.graph.out))
        return made

    def _root(self, name: str, index: int) -> Tree:
        head = Text(name, style="bold magenta")
        own = self.names.get(index)
        if index in self.drawn or self._is_leaf(index):
            return Tree(head + Text(" = ") + self._name(index), guide_style="dim")
        title = head + Text(" = ") + (Text(f"{own} = ") if own not in (None, name) else Text())
        tree = Tree(title, guide_style="dim")
        self._expand(index, tree, title)
        return tree

    def _expand(self, index: int, tree: Tree, title: Text) -> None:
        """Write a value into the label of `tree` and what it is made of below it."""
        self.drawn.add(index)
        node = self.graph.nodes[index]
        title.append_text(self._operation(node))
        args = [a for a in node.args if self.graph.nodes[a].op != "num"]
        while len(args) == 1 and not self._is_reference(args[0]):  # a chain stays on one line
            self.drawn.add(args[0])
            node = self.graph.nodes[args[0]]
            title.append_text(Text(" ") + self._operation(node))
            args = [a for a in node.args if self.graph.nodes[a].op != "num"]
        tree.label = title
        if args and all(self._is_leaf(a) or a in self.drawn for a in args):
            title.append_text(Text("(") + Text(", ").join(self._name(a) for a in args) + Text(")"))
            return
        for arg in args:
            if self._is_leaf(arg) or arg in self.drawn:
                tree.add(self._name(arg))
                continue
            name = self.names.get(arg)
            label = Text(f"{name} = ", style="bold") if name else Text()
            self._expand(arg, tree.add(label), label)

    def _is_leaf(self, index: int) -> bool:
        return self.graph.nodes[index].op in GRAPH_LEAVES

    def _is_reference(self, index: int) -> bool:
        return self._is_leaf(index) or index in self.drawn or index in self.names

    def _name(self, index: int) -> Text:
        node = self.graph.nodes[index]
        if node.op == "num":
            return Text(show_number(float(node.attr("value"))))  # type: ignore[arg-type]
        if node.op == "child":
            return Text(f"{node.attr('child')}.{node.attr('state')}", style=_STYLES["child"])
        if node.op in _STYLES:
            return Text("x" if node.op == "x" else str(node.attr("name")), style=_STYLES[node.op])
        return Text(self.names.get(index, self.dot), style="bold")

    def _operation(self, node: Node) -> Text:
        symbol = self.symbols.get(node.op, node.op)
        numbers = [self.graph.nodes[a] for a in node.args]
        shown = [show_number(float(n.attr("value"))) if n.op == "num" else "" for n in numbers]  # type: ignore[arg-type]
        if len(shown) == 2 and any(shown) and OPS[node.op].symbol is not None:
            symbol = f"({shown[0] or self.dot} {symbol} {shown[1] or self.dot})"
        elif any(shown):
            symbol += f"({', '.join(n or self.dot for n in shown)})"
        words = {True: "yes", False: "no"}
        options = [
            f"{k}={words[v] if isinstance(v, bool) else v}"
            for k, v in node.attrs
            if k not in ("type", "size")
        ]
        if node.op in ("lin", "param") and node.type.kind not in ("vec", "seq"):
            symbol += f":{node.type}"
        return Text(
            symbol + (f"[{', '.join(options)}]" if options else ""),
            style="yellow" if node.weight >= 0 else "",
        )
