"""Following values through the first forward writes and draws nothing."""

import pytest
import torch
from torch import nn

import entropylab

from ..seeds import normal
from .nets import TEXT, TOKENS, WIDTH, OwnAttention


class Mixing(nn.Module):
    """A joint denoiser that treats its inputs by ``mix`` (module, image, text) -> (image, text) first."""

    def __init__(self, mix):
        super().__init__()
        self.mix, self.attn = mix, OwnAttention()
        self.averages, self.dropout = nn.BatchNorm1d(WIDTH), nn.Dropout(0.4)

    def forward(self, hidden_states, timestep, encoder_hidden_states):
        image, text = self.mix(self, hidden_states, encoder_hidden_states)
        mixed = self.attn(torch.cat([text, image], 1))[:, text.shape[1] :]
        return mixed + torch.rand_like(mixed)


def into_out(net, image, text):
    out = torch.empty(0)
    torch.add(image, 1.0, out=out)
    return out, text


def into_a_part(net, image, text):
    both = torch.zeros(2, TEXT + TOKENS, WIDTH)
    both[:, :TEXT].copy_(text)
    both[:, TEXT:].add_(image)
    return both[:, TEXT:], both[:, :TEXT]


def averaged(net, image, text):
    return tuple(net.averages(tokens.transpose(1, 2)).transpose(1, 2) for tokens in (image, text))


def dropped(net, image, text):
    return net.dropout(image), net.dropout(text)


def looked_up(net, image, text):
    places = (image.clamp(-2, 2) * 10 + 20).long()[..., 0]
    return image + normal(50, WIDTH)[places], text


@pytest.mark.parametrize(
    ("mix", "grads"),
    [
        (into_out, torch.inference_mode),
        (into_a_part, torch.enable_grad),
        (averaged, torch.inference_mode),
        (dropped, torch.enable_grad),
        (looked_up, torch.inference_mode),
    ],
)
def test_a_followed_forward_writes_and_draws_what_it_would(mix, grads):
    """What is written to, averaged or drawn must be so once."""
    image, text = normal(2, TOKENS, WIDTH), normal(2, TEXT, WIDTH, seed=1)
    torch.manual_seed(0)
    net, other = Mixing(mix).train(), Mixing(mix).train()
    other.load_state_dict(net.state_dict())

    def twice(model):
        torch.manual_seed(1)
        with grads():
            return [model(image.clone(), torch.tensor(2.0), text.clone()) for _ in range(2)]

    plain = twice(other)
    with entropylab.record(net, strict=True) as rec:
        watched = twice(net)
    assert all(torch.equal(one, two) for one, two in zip(plain, watched, strict=True))
    for name, weight in other.state_dict().items():
        assert torch.equal(weight, net.state_dict()[name]), name
    assert set(rec.dataset.part.values) == {"image", "text"}
    if mix is averaged:
        twice(other)
        assert not torch.equal(net.averages.running_mean, other.averages.running_mean), "this would show nothing"
