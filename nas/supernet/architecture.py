"""A distribution over the cells of a sketch: independent choices in its holes, by learned logits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.errors import SearchError
from nas.supernet.cost import Cost
from nas.supernet.model import Picks
from search_spaces import Relaxed

NOISE = 1e-3
_TINY = 1e-12
HALVINGS = 40


class Architecture(nn.Module):
    """The logits of every option, at first those of the options' weights in the sketch, with a little noise.

    With a `cost` and a `limit` the expected cost is kept within the limit: see `project`. Raises SearchError where no
    cell is found that keeps it.
    """

    def __init__(
        self,
        relaxed: Relaxed,
        rng: np.random.Generator,
        cost: Cost | None = None,
        limit: float | None = None,
    ) -> None:
        super().__init__()
        self.relaxed, self.cost, self.limit = relaxed, cost, limit
        self.logits = nn.ParameterList(
            torch.tensor(
                [math.log(w / sum(site.weights)) for w in site.weights]
                + NOISE * rng.standard_normal(len(site.options)),
                dtype=torch.float32,
            )
            for site in relaxed.holes
        )
        self.cheap: dict[int, int] | None = None
        self._fixed: dict[int, int] = {}
        if cost is not None and limit is not None:
            self.cheap = self._cheap(rng)
            self.project()

    def probabilities(self, temperature: float = 1.0) -> list[Tensor]:
        """Of each hole those of its options."""
        return [F.softmax(z / temperature, -1) for z in self.logits]

    def gumbel(self, rng: np.random.Generator, temperature: float) -> tuple[dict[int, int], list[Tensor]]:
        """A sampled path, and gates that are 1 where it goes and have the gradient of the Gumbel softmax.

        In a hole that the path does not reach the gates are 0 without a gradient.
        """
        soft, drawn = [], {}
        for hole, z in enumerate(self.logits):
            noise = torch.tensor(
                -np.log(-np.log(rng.uniform(_TINY, 1.0, len(z)))), dtype=z.dtype, device=z.device
            )
            soft.append(F.softmax((F.log_softmax(z, -1) + noise) / temperature, -1))
            drawn[hole] = int(soft[-1].argmax())
        picks = self.relaxed.template.complete(drawn, rng)
        gates = []
        for hole, p in enumerate(soft):
            hard = torch.zeros_like(p)
            if hole in picks:
                hard[picks[hole]] = 1.0
                hard = hard + (p - p.detach())  # exactly 0 is added
            gates.append(hard)
        return picks, gates

    def even(self, rng: np.random.Generator) -> dict[int, int]:
        """A path in which each option of a hole is as likely as any other."""
        drawn = {hole: int(rng.integers(len(z))) for hole, z in enumerate(self.logits)}
        return self.relaxed.template.complete(drawn, rng)

    def sample(self, rng: np.random.Generator, uniform: bool = False) -> dict[int, int]:
        """A path drawn from the distribution, or by the weights of the sketch."""
        drawn = {}
        if not uniform:
            for hole, p in enumerate(self.probabilities()):
                shares = p.detach().double().cpu().numpy()
                drawn[hole] = int(rng.choice(len(shares), p=shares / shares.sum()))
        return self.relaxed.template.complete(drawn, rng)

    def likeliest(self, rng: np.random.Generator) -> dict[int, int]:
        """The likeliest option of each hole that is reached."""
        return self.relaxed.template.complete({i: int(z.argmax()) for i, z in enumerate(self.logits)}, rng)

    def log_prob(self, picks: Picks) -> float:
        """The logarithm of the probability of a path."""
        return sum(float(F.log_softmax(self.logits[i].detach(), -1)[k]) for i, k in picks.items())

    def fix(self, hole: int, option: int) -> None:
        """Make an option of a hole certain, until `restore`, also for `project`; it is one that `affords` allows."""
        self._fixed[hole] = option
        with torch.no_grad():
            self.logits[hole].fill_(-30.0)
            self.logits[hole][option] = 30.0
        self.project()

    def kept(self) -> list[Tensor]:
        """The logits as they are now, for `restore`."""
        return [z.detach().clone() for z in self.logits]

    def restore(self, kept: Sequence[Tensor]) -> None:
        """Go back to earlier logits, with no option fixed."""
        self._fixed.clear()
        with torch.no_grad():
            for z, before in zip(self.logits, kept, strict=True):
                z.copy_(before)

    def affords(self, hole: int, option: int) -> bool:
        """Whether the limit can still be kept with this option certain."""
        if self.cheap is None or self.cost is None or self.limit is None:
            return True
        target = {**self.cheap, **self._fixed, hole: option}
        return self.cost.expectation(self._one_hot(target)) <= self.limit

    # -- the hard constraint --------------------------------------------------------------------

    def spent(self, temperature: float = 1.0) -> float:
        """The expected cost, or that at this temperature if it is more; 0 without a cost."""
        return self._spent(self.probabilities(), temperature)

    def _spent(self, shares: Sequence[Tensor], temperature: float) -> float:
        if self.cost is None:
            return 0.0
        least = self.cost.expectation(shares)
        if temperature == 1.0:
            return least
        sharp = [F.softmax(p.detach().clamp(min=1e-30).log() / temperature, -1) for p in shares]
        return max(least, self.cost.expectation(sharp))

    def project(self, temperature: float = 1.0) -> float:
        """Mix in as little of a cheap cell as brings the expected cost within the limit; how much that was.

        The distribution then is as far on the way to one cell as the limit wants, hence within it, also at this
        `temperature`, at which a mixture is run; nothing is done without a limit.
        """
        if self.cheap is None or self.cost is None or self.limit is None:
            return 0.0
        with torch.no_grad():
            now = self.probabilities()
            if self._spent(now, temperature) <= self.limit:
                return 0.0
            few, enough = 0.0, 1.0
            for _ in range(HALVINGS):
                middle = (few + enough) / 2
                if self._spent(self._towards(now, middle), temperature) <= self.limit:
                    enough = middle
                else:
                    few = middle
            for z, p in zip(self.logits, self._towards(now, enough), strict=True):
                z.copy_(p.clamp(min=1e-30).log())
            # Logarithms and softmax round: take a little more until the limit holds for what they give.
            while self.spent(temperature) > self.limit and enough < 1.0:
                enough = min(1.0, enough + 1e-4)
                for z, p in zip(self.logits, self._towards(now, enough), strict=True):
                    z.copy_(p.clamp(min=1e-30).log())
            return enough

    def within(self, picks: Picks, rng: np.random.Generator) -> dict[int, int]:
        """The path itself if it keeps the limit, else one that does, by the changes that lose the least probability.

        Each change takes, in one hole, the option that gives the most cost for its loss of log-probability; where none
        is left it is the cheap path.
        """
        found = dict(picks)
        if self.cost is None or self.limit is None or self.cheap is None:
            return found
        while self.cost.of(found) > self.limit:
            have = self.cost.of(found)
            steps = []
            for hole in found:
                for option in range(len(self.logits[hole])):
                    other = self.relaxed.template.complete({**self.cheap, **found, hole: option}, rng)
                    saved = have - self.cost.of(other)
                    if saved > 0:
                        loss = max(0.0, self.log_prob(found) - self.log_prob(other))
                        steps.append((loss / saved, hole, option, other))
            if not steps:
                return dict(self.cheap)
            found = min(steps, key=lambda step: step[:3])[3]
        return found

    def _cheap(self, rng: np.random.Generator) -> dict[int, int]:
        assert self.cost is not None
        assert self.limit is not None
        best: dict[int, int] | None = None
        complete = self.relaxed.template.complete
        for start in range(4):
            first = dict.fromkeys(range(len(self.logits)), 0) if start == 0 else {}
            found = self.cost.cheapest(complete(first, rng), lambda picks: complete(picks, rng))
            if best is None or self.cost.of(found) < self.cost.of(best):
                best = found
        assert best is not None
        whole = {i: best.get(i, 0) for i in range(len(self.logits))}
        certain = self._one_hot(whole)
        if max(self.cost.of(best), self.cost.expectation(certain)) > self.limit:
            raise SearchError(
                f"oneshot: cost_limit={self.limit:g} {self.cost.kind} leaves no cell of sketch "
                f"{self.relaxed.sketch.name}: the cheapest found has {self.cost.of(best):g}"
            )
        return whole

    def _one_hot(self, picks: Picks) -> list[Tensor]:
        return [F.one_hot(torch.tensor(picks[i]), len(z)).to(z.dtype) for i, z in enumerate(self.logits)]

    def _towards(self, now: Sequence[Tensor], share: float) -> list[Tensor]:
        assert self.cheap is not None
        target = self._one_hot({**self.cheap, **self._fixed})
        return [(1 - share) * p + share * q.to(p.device) for p, q in zip(now, target, strict=True)]
