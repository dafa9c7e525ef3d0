"""What is known of calls that look alike: for how long it holds, and that it is forgotten."""

import torch

import entropylab
from entropylab.capture import session, telling

from ..attention import PlainAttention
from ..sampling import sample
from ..seeds import normal


def made(monkeypatch):
    """The layers whose calls are made from now on, one by one."""
    layers, make = [], telling.AttentionCall

    def noted(layer, module, *rest):
        layers.append(module)
        return make(layer, module, *rest)

    monkeypatch.setattr(telling, "AttentionCall", noted)
    return layers


def test_calls_that_nobody_wants_are_not_made(random_pipe, monkeypatch):
    modules = made(monkeypatch)
    with entropylab.record(random_pipe, layers="cross") as rec:
        sample(random_pipe, steps=2)
        modules.clear()
        sample(random_pipe, steps=2)
    cross = rec.dataset.sizes["layer"]
    assert len(modules) == 2 * cross < 2 * len(entropylab.layers(random_pipe))


def test_somebody_else_may_want_them_later(random_pipe):
    with entropylab.record(random_pipe, layers="cross") as few:
        sample(random_pipe, steps=1)
        with entropylab.record(random_pipe) as many:
            sample(random_pipe, steps=1)
        sample(random_pipe, steps=1)
    assert set(few.dataset.kind.values) == {"cross"} and set(many.dataset.kind.values) == {"self", "cross"}
    with entropylab.record(random_pipe) as alone:
        sample(random_pipe, steps=1)
    assert many.dataset.entropy.equals(alone.dataset.entropy)


@torch.no_grad()
def test_it_is_bounded_and_forgotten():
    net = PlainAttention(8, 2).eval()
    with entropylab.record(net):
        for _ in range(5):
            net(normal(1, 4, 8))
        assert len(session.known) == 1
        for tokens in range(2, 90):
            net(normal(1, tokens, 8))
        assert 1 < len(session.known) <= 64
    assert not session.known
