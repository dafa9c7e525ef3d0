"""A brake on the logits of self-attention.

Left alone, a small model's to_q and to_k grow until every row has one key left, and there is nothing to measure. (The
usual remedy, a norm of queries and keys, is no setting of diffusers' ``UNet2DConditionModel``: its blocks don't hand
``qk_norm`` on to their attention.) So the loss gets a term that holds two numbers of each head near targets:

- the variance of a row's logits q.k scale over its keys. It is scale^2 q^T Cov(K) q, and needs no map of attention.
- their variance under attention itself, Var_A, which is what a factor on the logits changes the entropy by. The first
  alone lets a row shun some keys and treat the others alike: a large variance, and hardly an effect of any factor.

A few pictures of the batch, and a few rows of each, tell both well enough.
"""

import math

import torch
from torch import nn

WEIGHT = 0.06


def logit_variance(query: torch.Tensor, key: torch.Tensor, scale: float) -> torch.Tensor:
    """Variance over the keys of the logits of q and k (batch, heads, tokens, channels), mean over rows: (heads,)."""
    centred = key - key.mean(-2, keepdim=True)
    covariance = centred.transpose(-1, -2) @ centred / key.shape[-2]
    return scale**2 * ((query @ covariance) * query).sum(-1).mean((0, 2))


def attended_variance(query: torch.Tensor, key: torch.Tensor, scale: float) -> torch.Tensor:
    """Variance of each row's logits under its attention, from its map; else as ``logit_variance``."""
    logits = scale * query @ key.transpose(-1, -2)
    attention = logits.softmax(-1)
    mean = (attention * logits).sum(-1, keepdim=True)
    return (attention * (logits - mean) ** 2).sum(-1).mean((0, 2))


class Brake:
    """Watches the modules of a model called ``attn1``, and tells how far their logits are from the targets.

    ``variance`` is that of the logits' variance; ``share`` that of Var_A / (2 log N), the share of a drift of entropy
    with size that the paper's factor removes. Gaussian logits of variance 5 to 6 have 0.25 to 0.28, and at no variance
    more. So many ``pictures`` of a batch are looked at, and for Var_A so many ``rows`` of each.
    """

    def __init__(
        self, model: nn.Module, variance: float, share: float = 0.25, pictures: int = 4, rows: int = 16
    ) -> None:
        self.variance, self.share, self.pictures, self.rows = variance, share, pictures, rows
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

    def read(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the last forward pass, by layer and head: variance of the logits, and Var_A / (2 log N)."""
        variances, shares = [], []
        for layer in self.layers:
            query, key = (
                self.seen.pop(linear).float().unflatten(-1, (layer.heads, -1)).transpose(1, 2)
                for linear in (layer.to_q, layer.to_k)
            )
            tokens = key.shape[-2]
            variances.append(logit_variance(query, key, layer.scale))
            some = query[:, :, torch.randint(tokens, (self.rows,))]
            shares.append(attended_variance(some, key, layer.scale) / (2 * math.log(tokens)))
        return torch.stack(variances), torch.stack(shares)

    def __call__(self) -> tuple[torch.Tensor, dict[str, float]]:
        """The term to add to the loss, and both numbers' means, to be logged."""
        term, means = torch.zeros(()), {}
        for name, found, target in zip(("variance", "share"), self.read(), (self.variance, self.share), strict=True):
            logs = found.clamp(min=1e-4).log()
            term = term + WEIGHT * (logs - math.log(target)).square().mean()
            means[name] = logs.mean().exp().item()
        return term, means
