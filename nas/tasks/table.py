"""The tasks that come with recell: one row each, with a recipe per size. Light: `recell tasks` imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nas.tasks.columns import load_series
from nas.tasks.corpus import Unit, load_corpus
from nas.tasks.recipe import Recipe

SIZES = ("smoke", "search", "table", "full")


@dataclass(frozen=True)
class TaskSize:
    """What one size of a task means: the default recipe and budget, and how much is scored.

    `scored` is at most how many tokens of a text part, or how many sequences per length of another task.
    `vocabulary` is the largest number of tokens of a text.
    """

    recipe: Recipe
    params: int
    scored: int
    vocabulary: int = 0


@dataclass(frozen=True)
class TaskInfo:
    """A task as it is known before it is loaded. `where` is the class: "module:Class"."""

    name: str
    version: int
    what: str
    metric: str
    trivial_score: float | None
    """None: it depends on the data."""
    best_known: str
    where: str
    sizes: Mapping[str, TaskSize]


@dataclass(frozen=True)
class TaskRow:
    """A line of `recell tasks`: `trivial_score` is on the default data, `sizes` maps a size to steps and budget."""

    name: str
    what: str
    metric: str
    trivial_score: float
    best_known: str
    sizes: dict[str, dict[str, int]]

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)


def task_names() -> tuple[str, ...]:
    """The names that `load_task` knows, besides `module:Class` and `file.py:Class`."""
    return tuple(TASKS)


def absolute_name(name: str) -> str:
    """The same name for another working folder: in `file.py:Class` the path is made absolute."""
    place, _, class_name = name.rpartition(":")
    return f"{Path(place).expanduser().absolute()}:{class_name}" if place.endswith(".py") else name


def task_table() -> tuple[TaskRow, ...]:
    """A row for each task, for people and programs to choose from. No torch is imported."""
    return tuple(
        TaskRow(
            info.name,
            info.what,
            info.metric,
            trivial_score(info),
            info.best_known,
            {size: {"steps": s.recipe.steps, "params": s.params} for size, s in info.sizes.items()},
        )
        for info in TASKS.values()
    )


def trivial_score(info: TaskInfo) -> float:
    """The trivial score at size "search", on the default text or series for a task that takes data."""
    if info.trivial_score is not None:
        return info.trivial_score
    size = info.sizes["search"]
    if info.name not in UNITS:
        return load_series(None, size.recipe.sequence_length).trivial_score(size.scored)
    corpus = load_corpus(None, UNITS[info.name], size.vocabulary, needed=0)
    return corpus.unigram_score(size.scored)


UNITS: Mapping[str, Unit] = MappingProxyType({"text": "character", "words": "word"})

_ROWS = (
    TaskInfo(
        name="text",
        version=1,
        what="predict the next character of a text; --data FILE or FOLDER, by default Python's reference manual",
        metric="nats/char",
        trivial_score=None,
        best_known="1.47 on tiny Shakespeare (transformer of 10.7M parameters, README of nanoGPT)",
        where="nas.tasks.language:Text",
        sizes={
            "smoke": TaskSize(Recipe(60, 8, 32, lr=1e-2), params=20_000, scored=2_000, vocabulary=1_000),
            "search": TaskSize(Recipe(700, 16, 32, lr=1e-2), params=100_000, scored=32_000, vocabulary=1_000),
            "table": TaskSize(Recipe(900, 16, 32, lr=1e-2), params=60_000, scored=64_000, vocabulary=1_000),
            "full": TaskSize(
                Recipe(5_000, 32, 128, lr=2e-3), params=1_000_000, scored=1 << 30, vocabulary=1_000
            ),
        },
    ),
    TaskInfo(
        name="words",
        version=1,
        what="predict the next word of a text; --data FILE or FOLDER, by default Python's reference manual",
        metric="nats/word",
        trivial_score=None,
        best_known="4.01 on WikiText-2 with all its words, perplexity 55.1 (Mogrifier LSTM, Melis et al. 2020)",
        where="nas.tasks.language:Words",
        sizes={
            "smoke": TaskSize(Recipe(60, 8, 16, lr=1e-2), params=50_000, scored=1_000, vocabulary=500),
            "search": TaskSize(Recipe(600, 16, 32, lr=1e-2), params=200_000, scored=16_000, vocabulary=1_000),
            "full": TaskSize(
                Recipe(5_000, 32, 64, lr=2e-3), params=4_000_000, scored=1 << 30, vocabulary=10_000
            ),
        },
    ),
    TaskInfo(
        name="parity",
        version=1,
        what="is the number of ones in a string of bits odd? trained to length 40, tested at 41 to 100",
        metric="error rate",
        trivial_score=0.5,
        best_known="0.0 (RNN and LSTM, Delétang et al. 2023, Neural Networks and the Chomsky Hierarchy)",
        where="nas.tasks.formal:Parity",
        sizes={
            "smoke": TaskSize(Recipe(20, 16, 10, lr=3e-3), params=5_000, scored=2),
            "search": TaskSize(Recipe(1_200, 64, 40, lr=5e-3), params=20_000, scored=16),
            "full": TaskSize(Recipe(10_000, 128, 40, lr=1e-3), params=300_000, scored=512),
        },
    ),
    TaskInfo(
        name="even_pairs",
        version=1,
        what="is the number of pairs 01 and 10 in a string of bits odd? trained to length 40, tested at 41 to 100",
        metric="error rate",
        trivial_score=0.5,
        best_known="0.0 (RNN and LSTM, Delétang et al. 2023, Neural Networks and the Chomsky Hierarchy)",
        where="nas.tasks.formal:EvenPairs",
        sizes={
            "smoke": TaskSize(Recipe(20, 16, 10, lr=3e-3), params=5_000, scored=2),
            "search": TaskSize(Recipe(1_200, 64, 40, lr=5e-3), params=20_000, scored=64),
            "full": TaskSize(Recipe(10_000, 128, 40, lr=1e-3), params=300_000, scored=512),
        },
    ),
    TaskInfo(
        name="cycle_navigation",
        version=1,
        what="where on a cycle of 5 places one is after steps 0, 1, -1; trained to length 40, tested at 41 to 100",
        metric="error rate",
        trivial_score=0.8,
        best_known="0.0 (RNN and LSTM, Delétang et al. 2023, Neural Networks and the Chomsky Hierarchy)",
        where="nas.tasks.formal:CycleNavigation",
        sizes={
            "smoke": TaskSize(Recipe(20, 16, 10, lr=3e-3), params=5_000, scored=2),
            "search": TaskSize(Recipe(1_200, 64, 40, lr=5e-3), params=20_000, scored=16),
            "full": TaskSize(Recipe(10_000, 128, 40, lr=1e-3), params=300_000, scored=512),
        },
    ),
    TaskInfo(
        name="s5",
        version=1,
        what="the product of permutations of 5 things, 120 answers; trained to length 20, tested at 21 to 100",
        metric="error rate",
        trivial_score=119 / 120,
        best_known="0.0 (RNN, Merrill et al. 2024, The Illusion of State in State-Space Models)",
        where="nas.tasks.formal:S5",
        sizes={
            "smoke": TaskSize(Recipe(20, 16, 10, lr=3e-3), params=40_000, scored=2),
            "search": TaskSize(Recipe(1_200, 64, 20, lr=5e-3), params=75_000, scored=32),
            "full": TaskSize(Recipe(20_000, 128, 40, lr=1e-3), params=300_000, scored=512),
        },
    ),
    TaskInfo(
        name="dyck",
        version=1,
        what="which of 2 kinds of bracket closes the innermost open one; trained to length 40, tested at 41 to 100",
        metric="error rate",
        trivial_score=0.5,
        best_known="0.0 (networks with a stack, Suzgun et al. 2019, arXiv 1911.03329)",
        where="nas.tasks.formal:Dyck",
        sizes={
            "smoke": TaskSize(Recipe(20, 16, 10, lr=3e-3), params=5_000, scored=2),
            "search": TaskSize(Recipe(900, 64, 40, lr=5e-3), params=75_000, scored=128),
            "full": TaskSize(Recipe(10_000, 128, 40, lr=1e-3), params=300_000, scored=512),
        },
    ),
    TaskInfo(
        name="modular_arithmetic",
        version=1,
        what="the value modulo 5 of an expression in + - * with precedence; trained to length 40, tested at 41 to 100",
        metric="error rate",
        trivial_score=0.8,
        best_known="0.0 (RNN and LSTM, Delétang et al. 2023, Neural Networks and the Chomsky Hierarchy)",
        where="nas.tasks.formal:ModularArithmetic",
        sizes={
            "smoke": TaskSize(Recipe(20, 16, 10, lr=3e-3), params=5_000, scored=2),
            "search": TaskSize(Recipe(900, 64, 40, lr=1e-2), params=75_000, scored=32),
            "table": TaskSize(Recipe(2_500, 32, 14, lr=4e-3), params=30_000, scored=256),
            "full": TaskSize(Recipe(10_000, 128, 40, lr=1e-3), params=300_000, scored=512),
        },
    ),
    TaskInfo(
        name="listops",
        version=1,
        what="the value of nested lists of MAX, MIN, MED and sum modulo 10, at most 4 deep; tree cells get the parse",
        metric="error rate",
        trivial_score=0.888,
        best_known="0.013 with the parse, 0.29 without (TreeLSTM and LSTM, Nangia and Bowman 2018, on deeper lists)",
        where="nas.tasks.listops:ListOps",
        sizes={
            "smoke": TaskSize(Recipe(20, 16, 12, lr=3e-3), params=10_000, scored=8),
            "search": TaskSize(Recipe(900, 64, 20, lr=5e-3), params=75_000, scored=32),
            "full": TaskSize(Recipe(20_000, 128, 50, lr=1e-3), params=300_000, scored=64),
        },
    ),
    TaskInfo(
        name="mqar",
        version=1,
        what="the value of each key, asked for after all pairs of key and value (multi-query associative recall)",
        metric="error rate",
        trivial_score=0.875,
        best_known="0.0 (attention, Arora et al. 2023, Zoology, on longer sequences)",
        where="nas.tasks.recall:MultiQueryRecall",
        sizes={
            "smoke": TaskSize(Recipe(20, 16, 16, lr=3e-3), params=10_000, scored=64),
            "search": TaskSize(Recipe(1500, 64, 16, lr=1e-2), params=20_000, scored=1_024),
            "full": TaskSize(Recipe(20_000, 128, 64, lr=1e-3), params=300_000, scored=4_096),
        },
    ),
    TaskInfo(
        name="selective_copying",
        version=1,
        what="the tokens that were scattered among blanks, in order, one of 8 each",
        metric="error rate",
        trivial_score=0.875,
        best_known="0.002 (Mamba, Gu and Dao 2023, on sequences of 4096 steps)",
        where="nas.tasks.recall:SelectiveCopying",
        sizes={
            "smoke": TaskSize(Recipe(20, 16, 16, lr=3e-3), params=10_000, scored=64),
            "search": TaskSize(Recipe(600, 64, 48, lr=5e-3), params=20_000, scored=1_024),
            "full": TaskSize(Recipe(20_000, 128, 256, lr=1e-3), params=300_000, scored=4_096),
        },
    ),
    TaskInfo(
        name="copying",
        version=1,
        what="the first tokens once more after a long wait, one of 8 each (copy memory)",
        metric="error rate",
        trivial_score=0.875,
        best_known="0.0 (unitary RNN, Arjovsky et al. 2016, after waits of up to 500 steps)",
        where="nas.tasks.recall:Copying",
        sizes={
            "smoke": TaskSize(Recipe(20, 16, 15, lr=3e-3), params=10_000, scored=64),
            "search": TaskSize(Recipe(700, 64, 30, lr=5e-3), params=20_000, scored=1_024),
            "full": TaskSize(Recipe(20_000, 128, 200, lr=1e-3), params=300_000, scored=4_096),
        },
    ),
    TaskInfo(
        name="fuzzy_recall",
        version=1,
        what="the value of each key, asked for after all pairs; keys and values are of 1 or 2 tokens",
        metric="error rate",
        trivial_score=0.75,
        best_known="0.643 (DeltaNet, mean over the settings of MAD, which are harder: Yang et al. 2024)",
        where="nas.tasks.recall:FuzzyRecall",
        sizes={
            "smoke": TaskSize(Recipe(20, 16, 16, lr=3e-3), params=10_000, scored=64),
            "search": TaskSize(Recipe(700, 64, 36, lr=5e-3), params=20_000, scored=1_024),
            "full": TaskSize(Recipe(20_000, 128, 64, lr=1e-3), params=300_000, scored=4_096),
        },
    ),
    TaskInfo(
        name="digits",
        version=1,
        what="which of 10 digits a picture of 8 by 8 pixels shows, pixel by pixel (scikit-learn's digits)",
        metric="error rate",
        trivial_score=0.9,
        best_known="0.010 (the nearest picture of the training part, on test data; measured here)",
        where="nas.tasks.digits:Digits",
        sizes={
            "smoke": TaskSize(Recipe(20, 16, 64, lr=3e-3), params=10_000, scored=5),
            "search": TaskSize(Recipe(300, 64, 64, lr=5e-3), params=20_000, scored=40),
            "full": TaskSize(Recipe(10_000, 128, 64, lr=1e-3), params=300_000, scored=40),
        },
    ),
    TaskInfo(
        name="series",
        version=2,
        what="the next values of a time series; --data FILE (CSV, .npy, .npz), by default that of Mackey and Glass",
        metric="squared error",
        trivial_score=None,
        best_known="it depends on the series; 1 is the error of the last value in training",
        where="nas.tasks.series:Series",
        sizes={
            "smoke": TaskSize(Recipe(20, 16, 16, lr=3e-3), params=5_000, scored=100),
            "search": TaskSize(Recipe(500, 32, 32, lr=5e-3), params=20_000, scored=10_000),
            "full": TaskSize(Recipe(5_000, 64, 128, lr=1e-3), params=300_000, scored=1 << 30),
        },
    ),
)

TASKS: Mapping[str, TaskInfo] = MappingProxyType({info.name: info for info in _ROWS})
