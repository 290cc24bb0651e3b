"""AdamW with clipping: torch's, or one pass of C over all arrays where there is a CPU and a compiler."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas.backends import adamw_, can_step
from nas.tasks import Recipe

BETAS, EPS = (0.9, 0.999), 1e-8


class Optimiser(torch.optim.AdamW):
    """AdamW; matrices decay, vectors (biases, gains, gates' offsets) do not.

    `plain` keeps to torch's own kernels. The state is that of `torch.optim.AdamW(fused=True)` either way.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, plain: bool = False) -> None:
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        # One call for all arrays: a quarter of the time of the loop over them.
        super().__init__(
            [group for group in groups if group["params"]], lr=recipe.lr, betas=BETAS, eps=EPS, fused=True
        )
        self._together = not plain and can_step(parameters)
        self._model = model

    def clipped_step(self, rate: float, clip: float) -> None:
        """One step at a rate, the norm of all gradients clipped to `clip`. Gradients may be left scaled or not."""
        for group in self.param_groups:
            group["lr"] = rate
        if not self._together:
            nn.utils.clip_grad_norm_(self._model.parameters(), clip)
            self.step()
            return
        arrays, decays = list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]](), list[float]()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                gradient = parameter.grad.contiguous()
                arrays.append((parameter, gradient, state["exp_avg"], state["exp_avg_sq"], state["step"]))
                decays.append(group["weight_decay"])
        adamw_(arrays, decays, rate=rate, betas=BETAS, eps=EPS, clip=clip)
