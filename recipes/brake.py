"""A brake on the logits of self-attention.

Left alone, a small model's to_q and to_k grow until every row has one key left, and there is nothing to measure. (The
usual remedy, a norm of queries and keys, is no setting of diffusers' ``UNet2DConditionModel``: its blocks don't hand
``qk_norm`` on to their attention.) So the loss gets a term that holds the variance of each head's logits near a
target. The variance of a row's logits q.k scale over its keys is scale^2 q^T Cov(K) q, so it needs no map of
attention, and a few pictures of the batch tell it well enough.
"""

import math

import torch
from torch import nn

WEIGHT = 0.01


def logit_variance(query: torch.Tensor, key: torch.Tensor, scale: float) -> torch.Tensor:
    """Variance of each row's logits over the keys, averaged over rows and batch: (heads,).

    Args:
        query: (batch, heads, queries, channels).
        key: (batch, heads, keys, channels).
        scale: what the products are multiplied by.
    """
    centred = key - key.mean(-2, keepdim=True)
    covariance = centred.transpose(-1, -2) @ centred / key.shape[-2]
    return scale**2 * ((query @ covariance) * query).sum(-1).mean((0, 2))


class Brake:
    """Watches the self-attention layers of a model, and tells how far their logits are from the target.

    Args:
        model: whose modules called ``attn1`` (with ``to_q``, ``to_k``, ``heads``, ``scale``) are watched.
        target: variance of the logits.
        pictures: how many of a batch are looked at.
    """

    def __init__(self, model: nn.Module, target: float, pictures: int = 4) -> None:
        self.target, self.pictures = target, pictures
        self.layers = [module for name, module in model.named_modules() if name.split(".")[-1] == "attn1"]
        self.seen: dict[nn.Module, torch.Tensor] = {}
        for layer in self.layers:
            for linear in (layer.to_q, layer.to_k):
                linear.register_forward_hook(self.look)

    def look(self, linear: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        """Keep a few pictures' queries or keys."""
        if torch.is_grad_enabled():
            step = max(1, len(output) // self.pictures)
            self.seen[linear] = output[::step][: self.pictures]

    def variances(self) -> torch.Tensor:
        """Variance of the logits of each layer and head of the last forward pass: (layers, heads)."""
        found = []
        for layer in self.layers:
            query, key = (
                self.seen.pop(linear).float().unflatten(-1, (layer.heads, -1)).transpose(1, 2)
                for linear in (layer.to_q, layer.to_k)
            )
            found.append(logit_variance(query, key, layer.scale))
        return torch.stack(found)

    def __call__(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The term to add to the loss, and the variances (layers, heads)."""
        variances = self.variances()
        distance = variances.clamp(min=1e-4).log() - math.log(self.target)
        return WEIGHT * distance.square().mean(), variances.detach()
