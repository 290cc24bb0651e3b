"""Vector-state cells of the zoo against torch's own modules and plain loops over their published equations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from zoo_suite import HIDDEN, Case, States, Weights, agree


def _zeros(like: Tensor) -> Tensor:
    return torch.zeros_like(like)


def elman(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    module = nn.RNN(x.shape[-1], HIDDEN, batch_first=True, dtype=torch.float64)
    arrays = {
        "weight_ih_l0": w.W, "weight_hh_l0": w.U, "bias_ih_l0": w.b, "bias_hh_l0": _zeros(w.b)
    }  # fmt: skip
    y, h = functional_call(module, arrays, (x, s["h"][None]))
    return y, {"h": h[0]}


def lstm(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    module = nn.LSTM(x.shape[-1], HIDDEN, batch_first=True, dtype=torch.float64)
    bias = torch.cat([w.bi, w.bf, w.bg, w.bo])
    arrays = {
        "weight_ih_l0": torch.cat([w.Wi, w.Wf, w.Wg, w.Wo]),
        "weight_hh_l0": torch.cat([w.Ui, w.Uf, w.Ug, w.Uo]),
        "bias_ih_l0": bias,
        "bias_hh_l0": _zeros(bias),
    }
    y, (h, c) = functional_call(module, arrays, (x, (s["h"][None], s["c"][None])))
    return y, {"h": h[0], "c": c[0]}


def gru(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    module = nn.GRU(x.shape[-1], HIDDEN, batch_first=True, dtype=torch.float64)
    arrays = {
        "weight_ih_l0": torch.cat([w.Wr, w.Wz, w.Wn]),
        "weight_hh_l0": torch.cat([w.Ur, w.Uz, w.Un]),
        "bias_ih_l0": torch.cat([w.br, w.bz, w.bn]),
        "bias_hh_l0": torch.cat([_zeros(w.br), _zeros(w.bz), w.cn]),
    }
    y, h = functional_call(module, arrays, (x, s["h"][None]))
    return y, {"h": h[0]}


def gate(w: Weights, name: str, x: Tensor, h: Tensor) -> Tensor:
    """sigmoid(W x + U h + b)."""
    return torch.sigmoid(w.lin(x, f"W{name}", f"b{name}") + w.lin(h, f"U{name}"))


def lstm_peephole(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    h, c = s["h"], s["c"]
    i = torch.sigmoid(w.lin(x, "Wi", "bi") + w.lin(h, "Ui") + w.pi * c)
    f = torch.sigmoid(w.lin(x, "Wf", "bf") + w.lin(h, "Uf") + w.pf * c)
    c = f * c + i * torch.tanh(w.lin(x, "Wg", "bg") + w.lin(h, "Ug"))
    o = torch.sigmoid(w.lin(x, "Wo", "bo") + w.lin(h, "Uo") + w.po * c)
    h = o * torch.tanh(c)
    return h, {"h": h, "c": c}


def lstm_cifg(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    f, o = gate(w, "f", x, s["h"]), gate(w, "o", x, s["h"])
    c = f * s["c"] + (1 - f) * torch.tanh(w.lin(x, "Wg", "bg") + w.lin(s["h"], "Ug"))
    h = o * torch.tanh(c)
    return h, {"h": h, "c": c}


def gru_cho(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    h = s["h"]
    r, z = gate(w, "r", x, h), gate(w, "z", x, h)
    n = torch.tanh(w.lin(x, "Wn", "bn") + w.lin(r * h, "Un"))
    h = z * h + (1 - z) * n
    return h, {"h": h}


def mgu(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    h = s["h"]
    f = gate(w, "f", x, h)
    h = (1 - f) * h + f * torch.tanh(w.lin(x, "Wn", "bn") + w.lin(f * h, "Un"))
    return h, {"h": h}


def scrn(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    context = (1 - 0.95) * w.lin(x, "B") + 0.95 * s["s"]
    h = torch.sigmoid(w.lin(context, "P") + w.lin(x, "A") + w.lin(s["h"], "R"))
    return w.lin(h, "U", "b") + w.lin(context, "V"), {"s": context, "h": h}


def indrnn(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    h = torch.relu(w.lin(x, "W", "b") + w.u * s["h"])
    return h, {"h": h}


def sru(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    f = torch.sigmoid(w.lin(x, "Wf", "bf") + w.vf * s["c"])
    r = torch.sigmoid(w.lin(x, "Wr", "br") + w.vr * s["c"])
    c = f * s["c"] + (1 - f) * w.lin(x, "W")
    return r * c + (1 - r) * x, {"c": c}


def qrnn(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    before = s["shift1"]
    z = torch.tanh(w.lin(before, "W1z") + w.lin(x, "W2z", "bz"))
    f = torch.sigmoid(w.lin(before, "W1f") + w.lin(x, "W2f", "bf"))
    o = torch.sigmoid(w.lin(before, "W1o") + w.lin(x, "W2o", "bo"))
    c = f * s["c"] + (1 - f) * z
    return o * c, {"c": c, "shift1": x}


def mingru(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    z = torch.sigmoid(w.lin(x, "Wz", "bz"))
    h = (1 - z) * s["h"] + z * w.lin(x, "Wh", "bh")
    return h, {"h": h}


def minlstm(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    f, i = torch.sigmoid(w.lin(x, "Wf", "bf")), torch.sigmoid(w.lin(x, "Wi", "bi"))
    h = (f * s["h"] + i * w.lin(x, "Wh", "bh")) / (f + i)
    return h, {"h": h}


def slstm(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    """Without the stabiliser: the states of the text are these times exp(-m), m the running maximum."""

    def pre(name: str) -> Tensor:
        mixing = torch.block_diag(*w.arrays[f"R{name}"].unbind(0))
        return w.lin(x, f"W{name}", f"b{name}") + F.linear(s["h"], mixing)

    scale = torch.exp(s["m"])
    f, i = torch.sigmoid(pre("f")), torch.exp(pre("i"))
    c = f * s["c"] * scale + i * torch.tanh(pre("z"))
    n = f * s["n"] * scale + i
    h = torch.sigmoid(pre("o")) * c / n
    m = torch.maximum(torch.log(f) + s["m"], torch.log(i))
    return h, {"h": h, "c": c * torch.exp(-m), "n": n * torch.exp(-m), "m": m}


def leaky(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    rate = 1 / (1 + torch.exp(-w.p))
    h = (1 - rate) * s["h"] + rate * torch.tanh(w.lin(x, "W", "b") + w.lin(s["h"], "U"))
    return h, {"h": h}


def esn(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    h = (1 - 0.3) * s["h"] + 0.3 * torch.tanh(w.lin(x, "Win", "b") + w.lin(s["h"], "W"))
    return torch.cat([x, h], -1) @ torch.cat([w.Rx, w.Rh], -1).T + w.r, {"h": h}


def antisymmetric(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    turning = w.W - w.W.T - 0.01 * torch.eye(HIDDEN, dtype=x.dtype)
    h = s["h"] + 0.1 * torch.tanh(s["h"] @ turning.T + w.lin(x, "V", "b"))
    return h, {"h": h}


def resesn(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    h = 0.9 * w.lin(s["h"], "O") + 0.1 * torch.tanh(w.lin(s["h"], "W") + w.lin(x, "Win", "b"))
    return w.lin(h, "R", "r"), {"h": h}


def splines(x: Tensor, size: int = 5, order: int = 3) -> Tensor:
    """B-splines on a uniform grid over [-1, 1], `[..., size + order]`, by the recursion of Cox and de Boor."""
    knots = -1 + 2 / size * torch.arange(-order, size + order + 1, dtype=x.dtype)
    x = x[..., None]
    bases = ((x >= knots[:-1]) & (x < knots[1:])).to(x.dtype)
    for k in range(1, order + 1):
        left = (x - knots[: -k - 1]) / (knots[k:-1] - knots[: -k - 1])
        right = (knots[k + 1 :] - x) / (knots[k + 1 :] - knots[1:-k])
        bases = left * bases[..., :-1] + right * bases[..., 1:]
    return bases


def tkan(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    u = w.lin(x, "Sx") + w.lin(s["s"], "Ss")
    weight = torch.stack([w.arrays[f"K{j}"] for j in range(8)], -1)  # [H, H, splines]
    p = w.lin(F.silu(u), "base") + (splines(u)[:, None] * weight).sum((-1, -2))
    o = torch.sigmoid(w.lin(p, "Wo", "bo"))
    c = gate(w, "f", x, s["h"]) * s["c"] + gate(w, "i", x, s["h"]) * gate(w, "g", x, s["h"])
    h = o * torch.tanh(c)
    return h, {"h": h, "c": c, "s": w.Sh * s["s"] + w.Sz * p}


def gates(*names: str) -> str:
    """The arrays of lin(x, h) with its bias, at each of the sites."""
    return " ".join(f"W{n}={n}.w0 U{n}={n}.w1 b{n}={n}.b" for n in names)


CASES = {
    "elman": Case("W=h.w0 U=h.w1 b=h.b", run=elman),
    "lstm": Case(gates("i", "f", "g", "o"), run=lstm, states="h c"),
    "lstm_peephole": Case(
        f"{gates('i', 'f', 'g', 'o')} pi=i_2.w pf=f_2.w po=o_2.w", lstm_peephole, states="h c"
    ),
    "lstm_cifg": Case(gates("f", "g", "o"), lstm_cifg, states="h c"),
    "gru": Case(f"{gates('r', 'z')} Wn=n.w0 bn=n.b Un=n_2.w0 cn=n_2.b", run=gru),
    "gru_cho": Case(gates("r", "z", "n"), gru_cho),
    "mgu": Case(f"{gates('f')} Wn=h.w0 Un=h.w1 bn=h.b", mgu),
    "scrn": Case("B=s.w0 P=h.w0 A=h.w1 R=h.w2 U=out.w0 V=out.w1 b=out.b", scrn, states="s h"),
    "indrnn": Case("W=h.w0 b=h.b u=h_2.w", indrnn),
    "sru": Case(
        "Wf=f.w0 bf=f.b vf=f_2.w Wr=r.w0 br=r.b vr=r_2.w W=c.w0", sru, states="c", inputs=HIDDEN
    ),
    "qrnn": Case(
        " ".join(f"W2{n}={n}.w0 W1{n}={n}.w1 b{n}={n}.b" for n in "zfo"), qrnn, states="c shift1"
    ),
    "mingru": Case("Wz=z.w0 bz=z.b Wh=h.w0 bh=h.b", mingru),
    "minlstm": Case("Wf=f.w0 bf=f.b Wi=i.w0 bi=i.b Wh=h.w0 bh=h.b", minlstm),
    "slstm": Case(
        " ".join(f"W{n}={n}.w0 b{n}={n}.b R{n}={n}_2.w0" for n in "zifo"),
        slstm, states="h c n m", positive="n",
    ),
    "tkan": Case(
        f"{gates('i', 'f', 'g')} Sx=u.w0 Ss=u.w1 base=p.w0 Sz=s.w Sh=s_2.w Wo=o.w0 bo=o.b "
        + " ".join(f"K{j}=p.w{j + 1}" for j in range(8)),
        tkan, states="h c s",
    ),
    "leaky": Case("p=h.w W=h_2.w0 U=h_2.w1 b=h_2.b", leaky),
    "esn": Case("W=w.w0 Win=h.w0 b=h.b Rx=out.w0 Rh=out.w1 r=out.b", esn),
    "antisymmetric": Case("W=w.w0 V=h.w0 b=h.b", antisymmetric),
    "resesn": Case("O=r.w0 W=w.w0 Win=h.w0 b=h.b R=out.w0 r=out.b", resesn),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_its_equations(name: str) -> None:
    agree(name, CASES[name])
