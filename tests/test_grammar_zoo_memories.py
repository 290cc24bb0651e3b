"""Fast weights and other memories of the zoo against plain loops over their equations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from zoo_suite import HIDDEN, Case, States, Weights, agree


def fast_weights(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    """One head, eta = 0.5, lambda = 0.95, S = 1."""
    A = 0.95 * s["A"][:, 0] + 0.5 * torch.einsum("bi,bj->bij", s["h"], s["h"])
    boundary = w.lin(x, "C", "b") + w.lin(s["h"], "W")
    inner = F.relu(boundary)
    recalled = torch.einsum("bij,bi->bj", A, inner)
    h = F.relu(F.layer_norm(boundary + recalled, (HIDDEN,), w.gain, w.offset))
    return h, {"h": h, "A": A[:, None]}


CASES = {
    "fast_weights": Case(
        "C=b.w0 W=b.w1 b=b.b gain=h.w offset=h_2.w", fast_weights, states="h A", heads=1, key=None
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_its_equations(name: str) -> None:
    agree(name, CASES[name])
