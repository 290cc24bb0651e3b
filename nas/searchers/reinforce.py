"""REINFORCE (Zoph and Le 2017, https://arxiv.org/abs/1611.01578): a recurrent controller writes cells by choices.

It is here as the historical baseline. The paper's controller, an LSTM, wrote the tokens of a fixed tree and was trained
by 400 machines; this one is an Elman network of some tens of units in NumPy over the choices by which a space derives a
cell (`Space.walk`), trained by each score as it is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from grammar import Cell
from nas.errors import SearchError
from nas.searchers.base import UNTRIED, Observation, Proposal, Searcher, SpaceLike
from nas.searchers.options import check_number, check_share, check_whole
from nas.searchers.random_search import sample_new
from search_spaces import Choice, Chooser

Array = NDArray[np.float64]

OPERATOR = "controller"


@runtime_checkable
class WalkSpace(Protocol):
    """What a controller needs of a search space; `search_spaces.Space` has it."""

    @property
    def sites(self) -> dict[str, int]:
        """Where choices are made, and how many options each has at most."""
        ...

    def walk(self, choose: Chooser) -> Cell | None:
        """The cell of the choices that are made, None if they lead to none."""
        ...

    def choices(self, cell: Cell) -> list[Choice]:
        """The choices that lead to a cell."""
        ...


_LEAST = np.finfo(np.float64).tiny  # a choice that another searcher made may have lost all probability
STEP = 0.05
"""The mean divergence (nats) over the choices of a cell by which one score may move the policy."""
HALVINGS = 12


class Controller:
    """A policy over sequences of choices: softmax(log weights of the space + U_site h + b_site), h from all before.

    h_t = tanh(W h_{t-1} + E[site and option of the choice before]). U and b are 0 at first, so that it begins with the
    weights of the space; W and E are drawn from `seed`.
    """

    def __init__(self, sites: dict[str, int], hidden: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.offsets: dict[str, int] = {}
        total = 0
        for site, options in sites.items():
            self.offsets[site] = total
            total += options
        scale = hidden**-0.5
        self.start = np.zeros(hidden)
        self.weights: list[Array] = [
            rng.uniform(-scale, scale, (hidden, hidden)),  # W
            rng.uniform(-1.0, 1.0, (total, hidden)),  # E: a row for each option of each site
            np.zeros((total, hidden)),  # U
            np.zeros(total),  # b
        ]

    def step(self, h: Array, before: int | None) -> Array:
        """The hidden state after the choice with row `before` in E, from the one before it."""
        after = h @ self.weights[0]
        if before is not None:
            after = after + self.weights[1][before]
        made: Array = np.tanh(after)
        return made

    def probabilities(self, h: Array, site: str, weights: Sequence[float]) -> Array:
        """How likely each option of a site is."""
        rows = slice(self.offsets[site], self.offsets[site] + len(weights))
        given = np.asarray(weights, dtype=np.float64)
        logits = self.weights[2][rows] @ h + self.weights[3][rows]
        logits -= logits[given > 0].max()
        p = given * np.exp(np.minimum(logits, 0.0))
        p /= p.sum()
        return p

    def policy(self, choices: Sequence[Choice]) -> list[Array]:
        """The probabilities of the options of each of these choices, after those before it."""
        h, before = self.start, None
        found: list[Array] = []
        for c in choices:
            h = self.step(h, before)
            found.append(self.probabilities(h, c.site, c.weights))
            before = self.offsets[c.site] + c.chosen
        return found

    def gradient(self, choices: Sequence[Choice], reward: float, entropy: float) -> tuple[float, list[Array]]:
        """`reward` times log p of the choices plus `entropy` times their mean entropy, and the gradient of it."""
        states, rows, grads = [self.start], [], []
        before: int | None = None
        value = 0.0
        for c in choices:
            states.append(self.step(states[-1], before))
            p = self.probabilities(states[-1], c.site, c.weights)
            surprise = np.where(p > 0, -np.log(np.where(p > 0, p, 1.0)), 0.0)
            mean = float(p @ surprise)
            value += reward * float(np.log(max(p[c.chosen], _LEAST))) + entropy / len(choices) * mean
            d = p * (surprise - mean) * (entropy / len(choices)) - reward * p
            d[c.chosen] += reward
            grads.append(d)
            rows.append(before)
            before = self.offsets[c.site] + c.chosen
        made = [np.zeros_like(w) for w in self.weights]
        back = self.start
        for t in range(len(choices) - 1, -1, -1):
            at = self.offsets[choices[t].site]
            span = slice(at, at + len(grads[t]))
            h = states[t + 1]
            made[2][span] += np.outer(grads[t], h)
            made[3][span] += grads[t]
            d = (back + grads[t] @ self.weights[2][span]) * (1.0 - h * h)
            made[0] += np.outer(states[t], d)
            row = rows[t]
            if row is not None:
                made[1][row] += d
            back = self.weights[0] @ d
        return value, made


class Reinforce(Searcher):
    """Cells drawn from the controller; each score that is told moves it towards or away from that cell.

    The reward is how far a score is below the moving average of scores (`decay`), in units of their moving spread; a
    trial without a score counts as the worst one so far, unless its failure says nothing about the cell (`UNTRIED`).
    Steps are Adam's, of size `rate`, with a bonus of `entropy` times the mean entropy of the choices. Draws that give
    no cell of the space or one that was tried are made again, `tries` times; then the space is sampled. Until `samples`
    cells have a score the controller is not moved.

    Adam moves every weight of a choice by `rate` at once, which with tens of units is many times that in its logit: a
    few good scores would make the policy certain of cells that were tried, and a certain policy has no gradient that
    leads out again. So a step is halved until it changes the policy by at most `STEP`, and each choice is drawn by the
    space's own weights with the probability `explore`, whatever was learned.
    """

    name = "reinforce"

    def __init__(
        self,
        space: SpaceLike,
        *,
        hidden: int = 32,
        rate: float = 0.02,
        decay: float = 0.9,
        entropy: float = 0.02,
        explore: float = 0.05,
        samples: int = 8,
        tries: int = 400,
        seed: int = 0,
    ) -> None:
        super().__init__(space)
        if not isinstance(space, WalkSpace):
            raise SearchError("reinforce: the space cannot be walked choice by choice; take another method")
        check_whole("reinforce", 1, hidden=hidden, samples=samples, tries=tries)
        check_whole("reinforce", 0, seed=seed)
        check_number("reinforce", rate=rate, decay=decay, entropy=entropy)
        if not (rate > 0 and 0 <= decay < 1 and entropy >= 0):
            raise SearchError(
                "reinforce: rate must be above 0, decay from 0 to below 1 and entropy at least 0; "
                f"got rate={rate!r}, decay={decay!r}, entropy={entropy!r}"
            )
        check_share("reinforce", explore=explore)
        self._walks: WalkSpace = space
        self.rate, self.decay, self.entropy, self.explore = rate, decay, entropy, explore
        self.samples, self.tries = samples, tries
        self.controller = Controller(space.sites, hidden, seed)
        self._moments = [[np.zeros_like(w) for w in self.controller.weights] for _ in range(2)]
        self._steps = 0
        self._told: set[str] = set()
        self._scores: list[float] = []
        self._mean = self._spread = 0.0

    def ask(self, rng: np.random.Generator) -> Proposal | None:
        """A cell from the controller; a sample where it finds none that was not tried."""
        for _ in range(self.tries):
            cell = self._walks.walk(self._chooser(rng))
            if cell is not None and cell.digest not in self._told:
                return Proposal(cell, OPERATOR)
        return sample_new(self.space, rng, self._told, self.tries)

    def entered(self, proposal: Proposal, trial: int) -> None:
        """Do not propose it again while it is trained."""
        self._told.add(proposal.cell.digest)

    def tell(self, observation: Observation) -> None:
        """Move the controller by the policy gradient of this cell."""
        self._told.add(observation.digest)
        if observation.duplicate or observation.status in UNTRIED:
            return
        score = observation.score
        if score is None:
            if not self._scores:
                return
            score = max(self._scores)
        else:
            self._scores.append(score)
        advantage = self._advantage(score)
        if len(self._scores) > self.samples and advantage:
            choices = self._walks.choices(observation.cell)
            self._climb(self.controller.gradient(choices, advantage, self.entropy)[1], choices)

    def _chooser(self, rng: np.random.Generator) -> Chooser:
        h, before = self.controller.start, None

        def choose(site: str, weights: Sequence[float]) -> int:
            nonlocal h, before
            h = self.controller.step(h, before)
            p = self.controller.probabilities(h, site, weights)
            p = (1 - self.explore) * p + self.explore * np.asarray(weights) / sum(weights)
            at = int(np.searchsorted(np.cumsum(p), rng.random() * float(p.sum()), side="right"))
            if at >= len(p) or not p[at]:  # rounding
                at = int(np.argmax(p))
            before = self.controller.offsets[site] + at
            return at

        return choose

    def _advantage(self, score: float) -> float:
        """How much better than usual a score is, from -2 to 2; then what is usual moves."""
        if len(self._scores) < 2:
            self._mean = score
            return 0.0
        below = self._mean - score
        self._spread = (
            self.decay * self._spread + (1 - self.decay) * abs(below) if self._spread else abs(below)
        )
        self._mean = self.decay * self._mean + (1 - self.decay) * score
        return float(np.clip(below / self._spread, -2.0, 2.0)) if self._spread else 0.0

    def _climb(self, gradient: Sequence[Array], choices: Sequence[Choice]) -> None:
        """A step of Adam uphill, halved until it moves the policy over these choices by no more than `STEP`."""
        self._steps += 1
        first, second = self._moments
        step = []
        for i, g in enumerate(gradient):
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.99 * second[i] + 0.01 * g * g
            m = first[i] / (1 - 0.9**self._steps)
            v = second[i] / (1 - 0.99**self._steps)
            step.append(self.rate * m / (np.sqrt(v) + 1e-8))
        before, weights = self.controller.policy(choices), self.controller.weights
        for halved in range(HALVINGS):
            self.controller.weights = [w + s / 2**halved for w, s in zip(weights, step, strict=True)]
            if _divergence(before, self.controller.policy(choices)) <= STEP:
                return


def _divergence(before: Sequence[Array], after: Sequence[Array]) -> float:
    """The mean over choices of the Kullback-Leibler divergence of the policies before and after."""
    total = 0.0
    for p, q in zip(before, after, strict=True):
        there = p > 0
        total += float(p[there] @ np.log(p[there] / np.maximum(q[there], _LEAST)))
    return total / len(before)
