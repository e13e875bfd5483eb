"""MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance (ICML 2024).

Every modality has a classifier of its own, and encoder m two objectives: the joint loss L and its own loss L_m. Where
their gradients g = dL/dw_m and u = dL_m/dw_m, over all parameters of the encoder, disagree, their sum is replaced by a
direction that lowers both; its length is then restored and enlarged:

    weights      (1/2, 1/2) if <g, u> > 0, otherwise (c, 1 - c) of the least ||c g + (1 - c) u||:
                 c = (||u||^2 - <g, u>) / ||g - u||^2
    direction    h = 2 (c g + (1 - c) u)
    magnitude    of every tensor k of the encoder: h_k <- gamma max(1, ||g_k + u_k|| / ||h_k||) h_k

The fusion and the heads take the ordinary gradient of L + sum_m L_m.

These are the rules of the public code. It bounds c to [0.001, 0.999], which <g, u> <= 0 never reaches, takes four
backward passes where two suffice, and divides by zero where a tensor or a whole gradient is zero: here a tensor without
a direction stays zero, and an encoder one of whose gradients is zero keeps the weights (1/2, 1/2).
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.base import Method
from utils.numbers import positive_float


class MMPareto(Method):
    """Two backward passes through the encoders instead of one: the gradients of L and of sum_m L_m are needed apart.

    One pass serves all L_m, since L_m reaches no encoder but m.
    """

    takes_unimodal_loss = False
    columns = ("conflict",)  # the share of the epoch's steps in which the encoder's two gradients disagreed

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--gamma", type=positive_float, default=1.5, help="factor on the encoders' gradients; public code: 1.5"
        )

    def __init__(self, args, model):
        super().__init__(args, model)
        model.add_heads()

    def losses(self, output) -> dict[str, Tensor]:
        joint = F.cross_entropy(output.logits, output.target)
        own = {f"loss_{name}": F.cross_entropy(logits, output.target) for name, logits in output.unimodal.items()}
        return {"loss": sum(own.values(), start=joint), "loss_joint": joint} | own

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        encoders = {name: _trained(encoder) for name, encoder in self.model.encoders.items()}
        shared = [p for parameters in encoders.values() for p in parameters]
        fusion, heads = _trained(self.model.fusion), _trained(self.model.heads)
        own = sum(losses[f"loss_{name}"] for name in encoders)
        joint_grads = torch.autograd.grad(losses["loss_joint"], shared + fusion, retain_graph=True)
        own_grads = torch.autograd.grad(own, shared + heads)
        for p, grad in zip(fusion + heads, joint_grads[len(shared) :] + own_grads[len(shared) :], strict=True):
            p.grad = grad
        conflicts, start = [], 0
        for parameters in encoders.values():
            part = slice(start, start + len(parameters))
            start = part.stop
            if not parameters:  # a frozen encoder
                conflicts.append(torch.zeros_like(own))
                continue
            grads, weight = pareto(joint_grads[part], own_grads[part], self.args.gamma)
            conflicts.append(weight != 0.5)
            for p, grad in zip(parameters, grads, strict=True):
                p.grad = grad
        self.note("conflict", torch.stack(conflicts))


@torch.no_grad()
def pareto(joint: tuple[Tensor, ...], own: tuple[Tensor, ...], gamma: float) -> tuple[list[Tensor], Tensor]:
    """One encoder's gradient from those of its two losses, tensor by tensor; and c, the weight of the joint one."""
    weight = joint_weight(joint, own)
    grads = torch._foreach_mul(joint, 2 * weight)
    torch._foreach_add_(grads, torch._foreach_mul(own, 2 * (1 - weight)))
    uniform, norms = (torch.stack(torch._foreach_norm(g)) for g in (torch._foreach_add(joint, own), grads))
    # A direction that is zero but for rounding has no length to restore.
    rounding = 8 * torch.finfo(norms.dtype).eps
    restored = torch.where(norms > rounding * uniform, (uniform / norms).clamp(min=1), 1.0)
    torch._foreach_mul_(grads, (gamma * restored).unbind())
    return list(grads), weight


def joint_weight(joint: tuple[Tensor, ...], own: tuple[Tensor, ...]) -> Tensor:
    """c: 1/2 without a conflict, otherwise the weight of `joint` in the shortest convex combination of the two."""
    g, u = (torch.stack(torch._foreach_norm(grads)).square().sum() for grads in (joint, own))
    dot = torch.stack([product.sum() for product in torch._foreach_mul(joint, own)]).sum()
    agree = (dot > 0) | (g == 0) | (u == 0)
    return torch.where(agree, 0.5, (u - dot) / (g + u - 2 * dot))


def _trained(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]
