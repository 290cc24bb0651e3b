"""Linear recurrences, matrix memories and attention-like cells of the zoo against plain loops over their equations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from zoo_suite import HIDDEN, Case, States, Weights, agree

# Here a memory is as in most papers, [B, N, V, K], and read as S q; the text keeps [B, N, K, V].


def unit(a: Tensor) -> Tensor:
    return a / a.square().sum(-1, keepdim=True).sqrt()


def column(a: Tensor) -> Tensor:
    return a.unsqueeze(-1)


def row(a: Tensor) -> Tensor:
    return a.unsqueeze(-2)


def times(S: Tensor, k: Tensor) -> Tensor:
    """S k, heads joined."""
    return (S @ column(k)).squeeze(-1).flatten(1)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product in each head, kept as a last axis of one."""
    return (a * b).sum(-1, keepdim=True)


def per_head(a: Tensor) -> Tensor:
    """`[B, N]` against `[B, N, V, K]`."""
    return a[..., None, None]


def lru(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    eigenvalues = torch.exp(torch.complex(-torch.exp(w.nu), torch.exp(w.theta)))
    B, C = torch.view_as_complex(w.B), torch.view_as_complex(w.C)
    h = eigenvalues * s["h"] + torch.exp(w.gamma) * (x.to(B.dtype) @ B.T)
    return (h @ C.T).real + w.D * x, {"h": h}


def rglru(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    r, i = torch.sigmoid(w.lin(x, "Wr", "br")), torch.sigmoid(w.lin(x, "Wi", "bi"))
    a = torch.sigmoid(w.L) ** (8 * r)
    h = a * s["h"] + torch.sqrt(1 - a**2) * (i * w.lin(x, "W"))
    return h, {"h": h}


def hgrn(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    bound = torch.sigmoid(w.b)
    f = bound + (1 - bound) * torch.sigmoid(w.lin(x, "Wf", "bf"))
    h = f * s["h"] + (1 - f) * F.silu(w.lin(x, "Wc", "bc"))
    return torch.sigmoid(w.lin(x, "Wg", "bg")) * h, {"h": h}


def hgrn2(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    bound = torch.sigmoid(w.b)
    f = bound + (1 - bound) * torch.sigmoid(w.split(w.lin(x, "Wf")))
    S = s["S"].mT * row(f) + column(w.split(w.lin(x, "Wi"))) * row(1 - f)
    return times(S, F.silu(w.split(w.lin(x, "Wo")))), {"S": S.mT}


def s4d(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    """Each channel by itself: x' = dA x + dB u, y = 2 Re(C x) + D u, with B = 1 and the zero-order hold."""
    modes = {name: w.arrays[name].transpose(1, 2).flatten(0, 1) for name in ("re", "im")}  # [H, K]
    A = torch.complex(-torch.exp(modes["re"]), modes["im"])
    C = torch.view_as_complex(w.C.transpose(1, 2).flatten(0, 1).contiguous())
    dA = torch.exp(A * torch.exp(w.step)[:, None])
    state = s["S"].transpose(2, 3).flatten(1, 2)  # [B, H, K]
    state = dA * state + x[..., None]
    y = 2 * (C * (dA - 1) / A * state).sum(-1).real + w.D * x
    return y, {"S": state.unflatten(1, (w.heads, -1)).transpose(2, 3)}


def conv(w: Weights, name: str, value: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
    """A depthwise convolution of width 4 by torch's conv1d; also what the next step needs of the past."""
    window = torch.cat([past, value.unsqueeze(1)], 1)
    flat = window.flatten(2).mT
    mixed = F.conv1d(flat, w.arrays[f"C{name}"].unsqueeze(1), w.arrays[f"c{name}"], groups=flat.shape[1])
    return mixed.squeeze(-1), window[:, 1:]


def mamba(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    """One head: A is [channels, modes], and B and C are common to all channels."""
    u, past = conv(w, "u", w.lin(x, "Win"), s["conv1"])
    u = F.silu(u)
    step = F.softplus(w.lin(w.lin(u, "Wx"), "Wdt", "bdt"))
    A = -torch.exp(w.A[0].mT)
    h = s["S"][:, 0].mT
    h = torch.exp(column(step) * A) * h + column(step * u) * row(w.lin(u, "WB"))
    y = (h * row(w.lin(u, "WC"))).sum(-1) + w.D * u
    return y * F.silu(w.lin(x, "Wz")), {"S": h.mT[:, None], "conv1": past}


def mamba2(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    u, past_u = conv(w, "u", w.lin(x, "Wu"), s["conv1"])
    B, past_B = conv(w, "B", w.split(w.lin(x, "WB")), s["conv2"])
    C, past_C = conv(w, "C", w.split(w.lin(x, "WC")), s["conv3"])
    u, B, C = (w.split(F.silu(a)) for a in (u, B, C))
    step = F.softplus(w.lin(x, "Wdt", "bdt"))
    h = per_head(torch.exp(-step * torch.exp(w.A))) * s["S"].mT + column(u) * row(step[..., None] * B)
    y = times(h, C) + (column(w.D) * u).flatten(1)
    return y * F.silu(w.lin(x, "Wz")), {"S": h.mT, "conv1": past_u, "conv2": past_B, "conv3": past_C}


def linear_attention(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    k = F.elu(w.split(w.lin(x, "Wk", "bk"))) + 1
    q = F.elu(w.split(w.lin(x, "Wq", "bq"))) + 1
    S, n = s["S"].mT + column(w.split(w.lin(x, "Wv", "bv"))) * row(k), s["n"] + k
    y = (S @ column(q)).squeeze(-1) / (dot(q, n) + 1e-6)
    return y.flatten(1), {"S": S.mT, "n": n}


def aaren(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    """Softmax attention as sums of exponentials, without the running maximum."""
    score = dot(w.q, w.split(w.lin(x, "Wk")))
    before = column(torch.exp(s["m"]))
    total = w.split(s["u"]) * before + torch.exp(score) * w.split(w.lin(x, "Wv"))
    weight = column(s["w"]) * before + torch.exp(score)
    m = torch.maximum(s["m"], score.squeeze(-1))
    after = column(torch.exp(-m))
    states = {"m": m, "u": (total * after).flatten(1), "w": (weight * after)[..., 0]}
    return (total / weight).flatten(1), states


def retnet(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    k, v = w.split(w.lin(x, "Wk")), w.split(w.lin(x, "Wv"))
    S = per_head(torch.sigmoid(w.g)) * s["S"].mT + column(v) * row(k)
    return times(S, w.split(w.lin(x, "Wq"))), {"S": S.mT}


def gla(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    a = torch.sigmoid(w.split(w.lin(x, "Wa", "ba"))) ** (1 / 16)
    S = s["S"].mT * row(a) + column(w.split(w.lin(x, "Wv"))) * row(w.split(w.lin(x, "Wk")))
    return times(S, w.split(w.lin(x, "Wq"))), {"S": S.mT}


def householder(k: Tensor, strength: Tensor) -> Tensor:
    """I - b k k^T in each head."""
    return torch.eye(k.shape[-1], dtype=k.dtype) - per_head(strength) * column(k) * row(k)


def deltanet(w: Weights, x: Tensor, s: States, most: float = 1.0) -> tuple[Tensor, States]:
    k = unit(F.silu(w.split(w.lin(x, "Wk", "bk"))))
    q = unit(F.silu(w.split(w.lin(x, "Wq", "bq"))))
    b = most * torch.sigmoid(w.lin(x, "Wb", "bb"))
    S = s["S"].mT @ householder(k, b) + per_head(b) * column(w.split(w.lin(x, "Wv", "bv"))) * row(k)
    return times(S, q), {"S": S.mT}


def deltanet_negative(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    return deltanet(w, x, s, most=2.0)


def gated_deltanet(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    a = torch.exp(-torch.exp(w.A) * F.softplus(w.lin(x, "Wa", "dt")))
    return deltanet(w, x, {"S": per_head(a) * s["S"]})


def kda(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    a = torch.exp(-torch.exp(w.A)[:, None] * F.softplus(w.split(w.lin(x, "Wa", "dt"))))
    return deltanet(w, x, {"S": column(a) * s["S"]})


def deltaproduct(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    S = s["S"].mT
    for j in ("1", "2"):
        k = unit(F.silu(w.split(w.lin(x, f"Wk{j}", f"bk{j}"))))
        b = 2 * torch.sigmoid(w.lin(x, f"Wb{j}", f"bb{j}"))
        v = w.split(w.lin(x, f"Wv{j}", f"bv{j}"))
        S = S @ householder(k, b) + per_head(b) * column(v) * row(k)
    return times(S, unit(F.silu(w.split(w.lin(x, "Wq", "bq"))))), {"S": S.mT}


def rwkv4(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    """The sums of exponentials as published, without the running maximum."""
    before = s["shift1"]
    r, k, v = (w.lin(w.arrays[f"m{n}"] * x + (1 - w.arrays[f"m{n}"]) * before, f"W{n}") for n in "rkv")
    decay, scale = torch.exp(w.w), torch.exp(s["m"])
    a, b = s["a"] * scale, s["b"] * scale
    wkv = (a + torch.exp(w.u + k) * v) / (b + torch.exp(w.u + k))
    a, b = torch.exp(-decay) * a + torch.exp(k) * v, torch.exp(-decay) * b + torch.exp(k)
    m = torch.maximum(s["m"] - decay, k)
    states = {"a": a * torch.exp(-m), "b": b * torch.exp(-m), "m": m, "shift1": x}
    return torch.sigmoid(r) * wkv, states


def group_norm(w: Weights, y: Tensor) -> Tensor:
    return F.group_norm(y, w.heads, w.ln, w.lb, eps=1e-5)


def rwkv6(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    before = s["shift1"]

    def lora(name: str, a: Tensor) -> Tensor:
        return w.arrays[f"l{name}"] + torch.tanh(a @ w.arrays[f"A{name}"].T) @ w.arrays[f"B{name}"].T

    def ddlerp(name: str) -> Tensor:
        return x + (before - x) * lora(name, x + (before - x) * w.mx)

    r, k, v = (w.split(w.lin(ddlerp(n), f"W{n}")) for n in "rkv")
    decay = torch.exp(-torch.exp(w.split(lora("d", ddlerp("w")))))
    kv = column(v) * row(k)
    y = times(s["S"].mT + kv * row(w.u), r)
    S = s["S"].mT * row(decay) + kv
    return F.silu(w.lin(ddlerp("g"), "Wg")) * group_norm(w, y), {"S": S.mT, "shift1": x}


def rwkv7(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    before = s["shift1"]
    xr, xw, xk, xv, xa, xg = (x + (before - x) * w.arrays[f"m{n}"] for n in "rwkvag")
    r, k, v = w.split(w.lin(xr, "Wr")), w.split(w.lin(xk, "Wk")), w.split(w.lin(xv, "Wv"))
    gate = torch.sigmoid(w.split(w.lin(torch.tanh(w.lin(xw, "Aw")), "Bw", "bw")))
    decay = torch.exp(-math.exp(-0.5) * gate)
    a = torch.sigmoid(w.split(w.lin(w.lin(xa, "Aa"), "Ba", "ba")))
    g = w.lin(torch.sigmoid(w.lin(xg, "Ag")), "Bg")
    removed = F.normalize(k * w.xi, dim=-1)
    kept = k * (1 + (a - 1) * w.alpha)
    transition = torch.diag_embed(decay) - column(removed) * row(a * removed)
    S = s["S"].mT @ transition + column(v) * row(kept)
    bonus = (dot(r * w.rho, kept) * v).flatten(1)
    return g * (group_norm(w, times(S, r)) + bonus), {"S": S.mT, "shift1": x}


def mlstm(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    """Without the stabiliser; the factor 1/sqrt(K) of k is part of its map."""
    k = w.split(w.lin(x, "Wk", "bk"))
    q, v = w.split(w.lin(x, "Wq", "bq")), w.split(w.lin(x, "Wv", "bv"))
    i, f = torch.exp(w.lin(x, "Wi", "bi")), torch.sigmoid(w.lin(x, "Wf", "bf"))
    scale = torch.exp(s["m"])
    C = per_head(f * scale) * s["C"].mT + per_head(i) * column(v) * row(k)
    n = column(f * scale) * s["n"] + column(i) * k
    h = (C @ column(q)).squeeze(-1) / torch.clamp(dot(n, q).abs(), min=1)
    m = torch.maximum(torch.log(f) + s["m"], torch.log(i))
    after = torch.exp(-m)
    states = {"C": per_head(after) * C.mT, "n": column(after) * n, "m": m}
    return torch.sigmoid(w.lin(x, "Wo", "bo")) * h.flatten(1), states


def titans(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    k, q = unit(F.silu(w.split(w.lin(x, "Wk")))), unit(F.silu(w.split(w.lin(x, "Wq"))))
    v = F.silu(w.split(w.lin(x, "Wv")))
    alpha, eta, theta = (per_head(torch.sigmoid(w.lin(x, f"W{n}", f"b{n}"))) for n in "aet")
    M = s["M"].mT
    surprise = (M @ column(k) - column(v)) * row(k)  # the gradient of |M k - v|^2 / 2
    momentum = eta * s["P"].mT - theta * surprise
    M = (1 - alpha) * M + momentum
    return times(M, q), {"M": M.mT, "P": momentum.mT}


def lattice(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    """One step of gradient descent on the memory, the gradient by torch."""
    slots = w.start + s["S"]  # [B, N, K, V]
    k, v = w.split(w.lin(x, "Wk")), w.split(w.lin(x, "Wv"))
    loss = (v - (column(k) * unit(slots)).sum(-2)).square().sum() / 2
    (gradient,) = torch.autograd.grad(loss, slots, create_graph=True)
    change = -per_head(torch.sigmoid(w.lin(x, "Wb", "bb"))) * gradient
    read = (column(w.split(w.lin(x, "Wq"))) * unit(slots + change)).sum(-2)
    return read.flatten(1), {"S": s["S"] + change}


def ffm(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    """The memory is [B, traces, contexts], as in the paper."""
    decay = torch.exp(-w.alpha.abs())[:, None] * torch.exp(-1j * w.omega[0])[None, :]
    gated = w.lin(x, "W1", "b1") * torch.sigmoid(w.lin(x, "W2", "b2"))
    S = s["S"][:, 0].mT * decay + gated[..., None]
    parts = (S.mT.real.flatten(1), S.mT.imag.flatten(1))
    z = F.layer_norm(w.lin(parts[0], "Wre", "b3") + w.lin(parts[1], "Wim"), (HIDDEN,))
    g = torch.sigmoid(w.lin(x, "W4", "b4"))
    return g * z + (1 - g) * w.lin(x, "W5", "b5"), {"S": S.mT[:, None]}


def affine(**sites: str) -> str:
    """The arrays of lin(x) with a bias: `k="S"` makes Wk and bk those of the site S."""
    return " ".join(f"W{name}={site}.w0 b{name}={site}.b" for name, site in sites.items())


def maps(**sites: str) -> str:
    """The array of lin(x, bias=no)."""
    return " ".join(f"W{name}={site}.w0" for name, site in sites.items())


DELTA = affine(k="k", b="b", v="S", q="out")
RWKV6 = " ".join(f"A{n}=m{n}.w0 B{n}=m{n}_2.w0 l{n}=m{n}_2.b" for n in "rkvwg")
RWKV7 = " ".join(f"m{n}={site}.w" for n, site in zip("rwkvag", "rwpvag", strict=True))

CASES = {
    "lru": Case(
        "nu=n.w theta=t.w gamma=g.w B=h.w0 C=out.w0 D=out_2.w", lru, inputs=HIDDEN
    ),
    "rglru": Case(f"{affine(r='r', i='i')} L=a.w W=h.w0", rglru),
    "hgrn": Case(f"b=b.w {affine(f='f', c='h', g='out')}", hgrn),
    "hgrn2": Case(f"b=b.w {maps(f='f', i='S', o='out')}", hgrn2, states="S"),
    "s4d": Case(
        "step=d.w re=A.w im=A_2.w C=C.w D=out_2.w", s4d, states="S", ones="out.w", inputs=HIDDEN
    ),
    "mamba": Case(
        f"Cu=u_2.w cu=u_2.b Wx=d.v0 Wdt=d.u0 bdt=d.b A=A.w D=y_2.w {maps(**{'in': 'u'}, B='S', C='y', z='out')}",
        mamba, states="S conv1", heads=1,
    ),
    "mamba2": Case(
        f"Cu=u_2.w cu=u_2.b CB=k_2.w cB=k_2.b CC=q_2.w cC=q_2.b A=A.w D=y.w "
        f"{affine(dt='d')} {maps(u='u', B='k', C='q', z='out')}",
        mamba2, states="S conv1 conv2 conv3",
    ),
    "linear_attention": Case(
        affine(k="u", q="w", v="S"), linear_attention, states="S n", positive="n"
    ),
    "aaren": Case(f"q=s.w {maps(k='s_2', v='u')}", aaren, states="m u w", positive="w"),
    "retnet": Case(f"g=g.w {maps(k='S', v='S_2', q='out')}", retnet, states="S"),
    "gla": Case(f"{affine(a='a')} {maps(k='S', v='S_2', q='out')}", gla, states="S"),
    "deltanet": Case(DELTA, deltanet, states="S"),
    "deltanet_negative": Case(DELTA, deltanet_negative, states="S"),
    "gated_deltanet": Case(f"{DELTA} A=a.w Wa=a_2.w0 dt=a_2.b", gated_deltanet, states="S"),
    "kda": Case(f"{DELTA} A=a.w Wa=a_2.w0 dt=a_2.b", kda, states="S"),
    "deltaproduct": Case(
        affine(k1="k_s1", b1="S_s1", v1="S_s1_2", k2="k_s2", b2="S_s2", v2="S_s2_2", q="out"),
        deltaproduct, states="S",
    ),
    "rwkv4": Case(
        f"w=w.w u=u.w mr=r.w mk=k.w mv=v.w {maps(r='r_2', k='k_2', v='v_2')}",
        rwkv4, states="a b m shift1", positive="b",
    ),
    "rwkv6": Case(
        f"mx=m.w {RWKV6} Ad=w.w0 Bd=w_2.w0 ld=w_2.b u=o.w ln=out.w lb=out_2.w {maps(r='r', k='k', v='v', g='g')}",
        rwkv6, states="S shift1", inputs=HIDDEN,
    ),
    "rwkv7": Case(
        f"{RWKV7} Aw=w_2.w0 Bw=w_3.w0 bw=w_3.b Aa=a_2.v0 Ba=a_2.u0 ba=a_2.b Ag=g_2.w0 Bg=g_3.w0 "
        f"xi=n.w alpha=k.w rho=out.w ln=o.w lb=o_2.w {maps(r='r_2', k='p_2', v='v_2')}",
        rwkv7, states="S shift1",
    ),
    "mlstm": Case(affine(q="q", k="k", v="v", i="i", f="f", o="o"), mlstm, states="C n m"),
    "titans": Case(
        f"{maps(k='k', v='v', q='q')} {affine(a='a', e='e', t='t')}", titans, states="M P"
    ),
    "lattice": Case(
        f"start=start.w {maps(k='k', q='q', v='e')} {affine(b='b')}", lattice, states="S", ones="o.w"
    ),
    "ffm": Case(
        "alpha=a.w omega=w.w Wre=out_2.w0 Wim=out_2.w1 b3=out_2.b "
        + affine(**{"1": "u", "2": "u_2", "4": "g", "5": "out"}),
        ffm, states="S", ones="e.w w_2.w", heads=1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_its_equations(name: str) -> None:
    agree(name, CASES[name])
