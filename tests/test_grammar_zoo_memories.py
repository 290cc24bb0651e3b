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


def srwm(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    """One matrix W of each head makes y, q, k and four rates, and every row of it is rewritten by the delta rule."""
    matrices, rates = "YQP", "bcde"
    start = torch.cat(
        [w.arrays[f"W{n}"].mT for n in matrices] + [w.arrays[f"w{n}"][:, None] for n in rates], 1
    )
    W = start + torch.cat([s[n].mT for n in matrices] + [s[n][:, :, None] for n in rates], 2)
    size = W.shape[-1]

    def times(phi: Tensor) -> Tensor:
        return torch.einsum("bnij,bnj->bni", W, phi)

    parts = (size, size, size, 4)
    phi = torch.softmax(w.split(x), -1)
    y, q, k, beta = times(phi).split(parts, -1)
    q, k, beta = torch.softmax(q, -1), torch.softmax(k, -1), torch.sigmoid(beta)
    rate = torch.cat([beta[..., j : j + 1].expand(-1, -1, n) for j, n in enumerate(parts)], -1)
    W = W + torch.einsum("bni,bnj->bnij", rate * (times(q) - times(k)), k) - start
    *changed, rows = W.split(parts, 2)
    states = {n: part.mT for n, part in zip(matrices, changed, strict=True)}
    return y.flatten(1), states | {n: rows[:, :, j] for j, n in enumerate(rates)}


CASES = {
    "srwm": Case(
        " ".join(f"{n}={n}.w" for n in ("WY", "WQ", "WP", "wb", "wc", "wd", "we")),
        srwm, states="Y Q P b c d e", key=None, inputs=HIDDEN,
    ),
    "fast_weights": Case(
        "C=b.w0 W=b.w1 b=b.b gain=h.w offset=h_2.w", fast_weights, states="h A", heads=1, key=None
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_its_equations(name: str) -> None:
    agree(name, CASES[name])
