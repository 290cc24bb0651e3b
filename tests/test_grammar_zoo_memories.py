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


def lmu(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    """The delay system integrated over one step by its matrix exponential, with the signal held."""
    order, theta = 64, 128.0
    A, B = torch.empty(order, order, dtype=x.dtype), torch.empty(order, 1, dtype=x.dtype)
    for i in range(order):
        B[i] = (2 * i + 1) * (-1) ** i / theta
        for j in range(order):
            A[i, j] = (2 * i + 1) / theta * (-1 if i < j else (-1) ** (i - j + 1))
    step = torch.linalg.matrix_exp(A)
    held = torch.linalg.solve(A, (step - torch.eye(order, dtype=x.dtype)) @ B)
    u = w.lin(x, "ex") + w.lin(s["h"], "eh") + w.lin(s["m"], "em")
    m = s["m"] @ step.T + u @ held.T
    h = torch.tanh(w.lin(x, "Wx") + w.lin(s["h"], "Wh") + w.lin(m, "Wm"))
    return h, {"m": m, "h": h}


def urnn(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    """One head; the Fourier transforms are torch's."""
    v, u = torch.view_as_complex(w.v), torch.view_as_complex(w.u)
    order = torch.view_as_complex(w.P).real.argmax(-1)

    def reflected(z: Tensor, v: Tensor) -> Tensor:
        return z - 2 * torch.outer(z @ v.conj(), v) / v.abs().square().sum()

    z = torch.fft.fft(torch.exp(1j * w.d1) * s["h"], norm="ortho")
    z = torch.fft.ifft(torch.exp(1j * w.d2) * reflected(z, v)[:, order], norm="ortho")
    z = torch.exp(1j * w.d3) * reflected(z, u) + x.to(z.dtype) @ torch.view_as_complex(w.V).T
    h = F.relu(z.abs() + w.b) * z / z.abs()
    return torch.cat([h.real, h.imag], -1) @ torch.cat([w.Ur, w.Ui], 1).T + w.c, {"h": h}


def lrnn_block(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    blocks = w.lin(F.relu(w.lin(x, "Wa", "ba")), "Wb", "bb").unflatten(-1, (w.heads, HIDDEN // w.heads, -1))
    blocks = blocks - blocks.mean(-2, keepdim=True)
    norms = torch.linalg.vector_norm(blocks, 1.2, dim=-2, keepdim=True)
    A = blocks / norms.amax(-1, keepdim=True)
    h = (A @ w.split(s["h"]).unsqueeze(-1)).flatten(1) + w.lin(F.relu(w.lin(x, "Wc", "bc")), "Wd", "bd")
    return h, {"h": h}


CASES = {
    "lrnn_block": Case(
        "h0=init.h Wa=A.w0 ba=A.b Wb=A_2.w0 bb=A_2.b Wc=h.w0 bc=h.b Wd=h_2.w0 bd=h_2.b",
        lrnn_block, key=None, ones="o.w",
    ),
    "urnn": Case(
        "h0=init.h d1=a.w d2=q.w d3=w.w F=a_2.w0 v=b.w P=p.w0 G=q_2.w0 u=r.w V=h.w0 b=h_2.w "
        "Ur=out.w0 Ui=out.w1 c=out.b",
        urnn, kept="a_2.w0 p.w0 q_2.w0", heads=1,
    ),
    "lmu": Case(
        "ex=u.w0 eh=u.w1 em=u_2.w0 A=a.w0 B=m.w0 Wx=h.w0 Wh=h.w1 Wm=h.w2",
        lmu, states="m h", kept="a.w0 m.w0",
    ),
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
