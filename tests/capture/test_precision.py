"""Every precision, and autocast, against float64."""

import pytest
import torch
import torch.nn.functional as F

import entropylab

from ..attention import together
from ..seeds import normal
from .nets import TOKENS, WIDTH, Flex, Method, Multihead, OwnAttention, agree, net_of

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")


@pytest.mark.usefixtures("quick_flex")
@pytest.mark.parametrize(
    ("attn", "dtype"),
    [
        (OwnAttention, torch.float16),
        (Method, torch.bfloat16),
        (Multihead, torch.float16),
        (Multihead, torch.float64),
        (Flex, torch.bfloat16),
    ],
)
def test_every_precision_against_float64(attn, dtype):
    """The reference has the same q and k, which are rounded to the model's precision."""
    net = net_of(attn).to(dtype)
    sides = []
    if attn is Multihead:
        net.attn.inner.register_forward_pre_hook(lambda module, args: sides.append(args[0]))
    tokens = normal(2, TOKENS, WIDTH).to(dtype)
    with torch.no_grad():
        plain = net(tokens, torch.tensor(2.0, dtype=dtype))
        with entropylab.record(net) as rec:
            watched = net(tokens, torch.tensor(2.0, dtype=dtype))
    assert torch.equal(plain, watched)
    ds = rec.dataset
    loose = {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(dtype, 1e-5)
    assert agree(rec, net.attn.logits, atol=loose)
    assert not agree(rec, net.attn.logits * 1.1, atol=loose)
    assert ds.attrs["dtype"] == str(dtype).removeprefix("torch.")


class Sharp(OwnAttention):
    """Keeps q and k as they are handed over."""

    def forward(self, tokens):
        query, key, value = self.sides(tokens)
        self.logits = query.double() @ key.double().transpose(-1, -2) / query.shape[-1] ** 0.5
        return together(F.scaled_dot_product_attention(query, key, value))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_precision_reaches_no_further_than_q_and_k(dtype):
    net = net_of(Sharp).to(dtype)
    with torch.no_grad(), entropylab.record(net) as rec:
        net(normal(2, TOKENS, WIDTH).to(dtype), torch.tensor(2.0, dtype=dtype))
    assert agree(rec, net.attn.logits, atol=1e-5)
    assert not agree(rec, net.attn.logits * 1.001, atol=1e-5)


@pytest.mark.usefixtures("quick_flex")
@pytest.mark.parametrize(
    ("attn", "dtype"), [(OwnAttention, torch.float16), *((attn, torch.bfloat16) for attn in (Method, Multihead, Flex))]
)
def test_autocast(attn, dtype):
    net = net_of(attn)
    tokens = normal(2, TOKENS, WIDTH)
    with torch.no_grad(), torch.autocast("cpu", dtype):
        plain = net(tokens, torch.tensor(2.0))
        with entropylab.record(net) as rec:
            watched = [net(tokens, torch.tensor(2.0)) for _ in range(2)]
    assert all(torch.equal(plain, one) for one in watched)
    assert agree(rec, net.attn.logits, atol=2e-2)
    assert not agree(rec, net.attn.logits * 1.1, atol=2e-2)
    assert rec.unmeasured == {}


def test_autocast_leaves_a_softmax_by_hand_exact():
    """What is measured is what the softmax was handed, in half precision, and no statistic is rounded again."""
    net, handed = net_of(Method), []
    net.attn.by_hand = lambda tokens, by_hand=net.attn.by_hand: handed.append(by_hand(tokens)) or handed[-1]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), entropylab.record(net) as rec:
        net(normal(2, TOKENS, WIDTH), torch.tensor(2.0))
    assert handed[0][0].dtype == torch.bfloat16
    assert agree(rec, handed[0][0], atol=1e-5)


class Normed(OwnAttention):
    """Norms leave q and k in float32 under autocast, and the attention function then casts them."""

    mask = None

    def forward(self, tokens):
        query, key, value = (6 * F.normalize(side.float(), dim=-1) for side in self.sides(tokens))
        self.handed = query, key
        return together(F.scaled_dot_product_attention(query, key, value, self.mask))

    def exact(self, dtype):
        query, key = (side.to(dtype).double() for side in self.handed)
        logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        return logits if self.mask is None else logits + self.mask.to(dtype).double()


@pytest.mark.parametrize(("dtype", "is_masked"), [(torch.bfloat16, True), (torch.float16, False)])
def test_autocast_casts_what_it_casts_for_the_model(dtype, is_masked):
    net = net_of(Normed)
    net.attn.mask = 3 * normal(TOKENS, TOKENS, seed=5) if is_masked else None
    tokens = normal(2, TOKENS, WIDTH)
    with torch.no_grad(), torch.autocast("cpu", dtype):
        plain = net(tokens, torch.tensor(2.0))
        with entropylab.record(net) as rec:
            assert torch.equal(plain, net(tokens, torch.tensor(2.0)))
    assert net.attn.handed[0].dtype == torch.float32
    assert agree(rec, net.attn.exact(dtype), atol=2e-6)
    assert not agree(rec, net.attn.exact(torch.float32), atol=2e-6)
