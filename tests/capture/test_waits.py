"""What a GPU would have to be waited for: values are compared once for every tensor, and never mistaken."""

import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import entropylab

from ..joints import JointTransformer, inputs, lengths, new_joint
from ..seeds import normal
from .nets import TOKENS, WIDTH, Multihead, net_of, run
from .test_roles import agree, recorded

READ = ("aten::equal", "aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero")
"""Operations for whose result the host waits."""


class Reads(TorchDispatchMode):
    """Counts the operations whose results the host reads."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.name().split(".")[0] in READ
        return func(*args, **kwargs or {})


def reads(work):
    with torch.no_grad(), Reads() as found:
        work()
    return found.count


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    for name, module in list(sys.modules.items()):
        if name.startswith("entropylab.") and "makes_wait" in vars(module):
            monkeypatch.setattr(module, "makes_wait", lambda tensor: True)


def joint():
    """A joint transformer whose tokens stand where the mask says; it reads the mask itself."""
    model = new_joint()
    model.dense = True
    return model


def forwards(model, *masks):
    """How often the host reads something in each forward with these masks."""
    return [reads(lambda mask=mask: model(**inputs(encoder_attention_mask=mask))) for mask in masks]


def test_a_mask_that_stays_is_not_read_again(as_on_a_gpu):
    """Nor are the same values in other memory, a part of it, or the masks of two prompts in turn."""
    one, other = lengths(7, 7, 4), lengths(7, 2, 6)
    plain = forwards(joint(), one)[0]
    model, both = joint(), torch.cat([one, other])
    with entropylab.record(model):
        forwards(model, one, other, one, other)
        assert forwards(model, one, other, one, other) == [plain] * 4
        assert sum(forwards(model, both[:2], both[2:])) > 2 * plain, "what is new must be read"
        assert forwards(model, both[:2], both[2:]) == [plain] * 2


class Changing(JointTransformer):
    """A model that is handed the same mask every time, with other values in it."""

    def forward(self, *args, **kwargs):
        found = super().forward(*args, **kwargs)
        mask = kwargs["encoder_attention_mask"]
        mask[:, 2:5] = ~mask[:, 2:5]
        return found


@pytest.mark.parametrize("grads", [torch.no_grad, torch.inference_mode])
def test_masks_that_are_changed_in_place_are_read_again(as_on_a_gpu, grads):
    model = joint()
    model.__class__ = Changing
    with grads(), entropylab.record(model) as rec:
        mask = lengths(7, 7, 4)
        for _ in range(3):
            model(**inputs(encoder_attention_mask=mask))
    agree(rec.dataset, model.calls())


def test_masks_in_new_memory_every_time(as_on_a_gpu):
    counts = [(7, 4), (2, 6), (7, 7), (7, 4), (2, 6)]
    agree(*recorded(joint(), *(inputs(encoder_attention_mask=lengths(7, *each)) for each in counts)))


class Cloning(Multihead):
    """Self-attention whose keys are handed over as another tensor."""

    def forward(self, tokens):
        keys = tokens.clone() if self.context is None else self.context
        return self.inner(tokens, keys, keys, need_weights=False)[0]


@pytest.mark.parametrize(("context", "kind"), [(None, "self"), (normal(2, TOKENS, WIDTH, seed=5), "cross")])
def test_queries_and_keys_are_compared_once(as_on_a_gpu, context, kind):
    net = net_of(Cloning, {}, context)
    plain = reads(lambda: run(net))
    with entropylab.record(net) as rec:
        counts = [reads(lambda: run(net)) - plain for _ in range(3)]
    assert counts[0] > 0 and counts[1:] == [0, 0]
    assert list(rec.dataset.kind.values) == [kind]
