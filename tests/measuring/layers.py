"""A denoiser whose layers can be told to leave images out, to close keys, or to hide."""

import torch
import torch.nn.functional as F
from torch import nn

from ..attention import PlainAttention, together


class SomeAttention(PlainAttention):
    """Self-attention of two heads over its tokens, or over those that ``choose`` leaves of a batch, or masked."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(8)
        self.choose, self.mask, self.hidden = (lambda tokens: tokens), None, False

    def forward(self, hidden_states):
        if self.hidden:
            return hidden_states
        sides = self.sides(self.choose(hidden_states))
        return together(F.scaled_dot_product_attention(*sides, attn_mask=self.mask))


class Denoiser(nn.Module):
    def __init__(self, layers=2):
        super().__init__()
        self.layers = nn.ModuleList(SomeAttention() for _ in range(layers))

    def forward(self, hidden_states, timestep):
        for layer in self.layers:
            layer(hidden_states)
        return hidden_states


def run(model, batch=4):
    torch.manual_seed(1)
    with torch.no_grad():
        model(torch.randn(batch, 6, 8), torch.tensor(3.0))
