"""A quick walk through the tables that lark makes of `cell.lark`, for texts without a fault.

Lark's own loop looks up each rule by hashing it, makes a token of each bracket, and counts lines twice: that is two
thirds of the time that a cell takes to be read. Here the same tables, scanners and builders are laid out once. What
does not fit is for lark to explain: `QuickParser.parse` gives None then.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lark import Lark, Token
from lark.lexer import UnlessCallback
from lark.parse_tree_builder import ExpandSingleChild
from lark.parsers.lalr_analysis import Shift

_END = "$END"
_NEWLINE = "_NL"


@dataclass(frozen=True, slots=True)
class _Reduction:
    """A rule: how many values it takes, its name, and what makes one of them; None where that one stays."""

    size: int
    name: str
    build: Callable[[list[Any]], Any] | None


@dataclass(frozen=True, slots=True)
class _State:
    """A state of the parser: its scanner, the words that are no names in it, and what to do by type of token."""

    match: Callable[[str, int], re.Match[str] | None]
    words: Mapping[str, Mapping[str, str]]
    shifts: Mapping[str, Any]
    reductions: Mapping[str, _Reduction]


class QuickParser:
    """The tables of `lark`, which has a contextual lexer. `drops()` makes what tells newlines to drop, by type.

    What that raises is a fault, too.
    """

    def __init__(
        self, lark: Lark, drops: Callable[[], Callable[[str], bool]], faults: type[Exception]
    ) -> None:
        lalr: Any = lark.parser.parser
        table, builders = lalr._parse_table, lalr.parser.callbacks
        lexers = lark.parser.lexer.lexer.lexers
        self._drops, self._faults = drops, faults
        self._start, self._end = table.start_states["start"], table.end_states["start"]
        self._states = {
            place: _state(actions, lexers[place], builders) for place, actions in table.states.items()
        }
        ignored = [t.pattern.to_regexp() for t in lark.terminals if t.name in lark.ignore_tokens]
        self._skip = re.compile(f"(?:{'|'.join(ignored)})*").match

    def parse(self, text: str) -> Any:
        """What the builders make of `text`, None where it has a fault."""
        try:
            return self._parsed(text)
        except self._faults:
            return None

    def _parsed(self, text: str) -> Any:
        skip, states, drops = self._skip, self._states, self._drops()
        at, line, begin, length = 0, 1, 0, len(text)
        stack, values = [self._start], list[Any]()
        while True:
            state = states[stack[-1]]
            at = skip(text, at).end()  # type: ignore[union-attr]
            kind, token = _END, None
            if at < length:
                found = state.match(text, at)
                if found is None:
                    return None
                kind, word, here = str(found.lastgroup), found.group(), at
                at = found.end()
                if kind in state.words:
                    kind = state.words[kind].get(word, kind)
                column = here - begin + 1
                if kind == _NEWLINE:
                    line, begin = line + 1, at
                if drops(kind):
                    continue
                if kind[0] != "_":
                    token = Token(kind, word, here, line, column)
            while (rule := state.reductions.get(kind)) is not None:
                if rule.build is not None:
                    first = len(stack) - rule.size
                    made = rule.build(values[first - 1 :])
                    del stack[first:], values[first - 1 :]
                    values.append(made)
                else:
                    stack.pop()
                stack.append(states[stack[-1]].shifts[rule.name])
                if kind == _END and stack[-1] == self._end:
                    return values[-1]
                state = states[stack[-1]]
            following = state.shifts.get(kind)
            if following is None:
                return None
            stack.append(following)
            values.append(token)


def _state(actions: Mapping[str, Any], lexer: Any, builders: Mapping[Any, Any]) -> _State:
    (scanner,) = lexer.scanner._mres
    words: dict[str, dict[str, str]] = {}
    for kind, callback in lexer.callback.items():
        if not isinstance(callback, UnlessCallback):
            raise AttributeError(f"a token of lark is changed in a way that is not known here: {callback}")
        words[kind] = {t.pattern.value: t.name for t in callback.scanner.terminals}
    shifts = {name: arg for name, (action, arg) in actions.items() if action is Shift}
    reductions = {}
    for name, (action, rule) in actions.items():
        if action is not Shift:
            size, build = len(rule.expansion), builders[rule]
            stays = size == 1 and isinstance(build, ExpandSingleChild)
            reductions[name] = _Reduction(size, rule.origin.name, None if stays else build)
    return _State(scanner.match, words, shifts, reductions)
