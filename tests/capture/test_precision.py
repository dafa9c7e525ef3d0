"""Every precision, and autocast, against float64."""

import pytest
import torch
import torch.nn.functional as F

import entropylab

from ..attention import together
from ..seeds import normal
from .nets import EVERY, TOKENS, WIDTH, Multihead, OwnAttention, agree, net_of, usual


def recorded(net, dtype=torch.float32):
    """The recorder of two forwards that are the same as without it."""
    given = normal(2, TOKENS, WIDTH).to(dtype), torch.tensor(2.0, dtype=dtype)
    with torch.no_grad():
        plain = net(*given)
        with entropylab.record(net, strict=True) as rec:
            assert all(torch.equal(plain, net(*given)) for _ in range(2))
    return rec


@pytest.mark.parametrize("cast", [True, False])
@pytest.mark.parametrize("attn", EVERY)
def test_half_precision_and_autocast(attn, cast):
    """The reference has the same q and k, which are rounded to the model's precision."""
    dtype = torch.float16 if attn in (usual, Multihead) and not cast else torch.bfloat16
    net, loose = net_of(attn), 2e-3 if dtype == torch.float16 else 2e-2
    with torch.autocast("cpu", dtype, enabled=cast):
        rec = recorded(net if cast else net.to(dtype), torch.float32 if cast else dtype)
    assert agree(rec, net.attn.logits, atol=loose)
    assert not agree(rec, net.attn.logits * 1.1, atol=loose)
    assert cast or rec.dataset.attrs["dtype"] == str(dtype).removeprefix("torch.")


class Sharp(OwnAttention):
    """Keeps q and k as they are handed over; norms leave them in float32 under autocast, which then casts them."""

    normed, mask = False, None

    def forward(self, tokens):
        self.handed = self.sides(tokens)
        if self.normed:
            self.handed = [6 * F.normalize(side.float(), dim=-1) for side in self.handed]
        return together(F.scaled_dot_product_attention(*self.handed, self.mask))

    def exact(self, dtype):
        query, key = (side.to(dtype).double() for side in self.handed[:2])
        logits = query @ key.mT / query.shape[-1] ** 0.5
        return logits if self.mask is None else logits + self.mask.to(dtype).double()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_precision_reaches_no_further_than_q_and_k(dtype):
    rec = recorded(net := net_of(Sharp).to(dtype), dtype)
    assert agree(rec, net.attn.exact(dtype), atol=1e-5)
    assert not agree(rec, net.attn.exact(dtype) * 1.001, atol=1e-5)


@pytest.mark.parametrize(("dtype", "is_masked"), [(torch.bfloat16, True), (torch.float16, False)])
def test_autocast_casts_what_it_casts_for_the_model(dtype, is_masked):
    net = net_of(Sharp)
    net.attn.normed, net.attn.mask = True, 3 * normal(TOKENS, TOKENS, seed=5) if is_masked else None
    with torch.autocast("cpu", dtype):
        rec = recorded(net)
    assert net.attn.handed[0].dtype == torch.float32
    assert agree(rec, net.attn.exact(dtype), atol=2e-6)
    assert not agree(rec, net.attn.exact(torch.float32), atol=2e-6)


def test_autocast_leaves_a_softmax_by_hand_exact():
    """What is measured is what the softmax was handed, in half precision, and no statistic is rounded again."""
    handed = []

    def noting(query, key, value):
        handed.append(query @ key.mT / query.shape[-1] ** 0.5)
        return handed[-1].softmax(-1) @ value

    net = net_of(noting)
    with torch.autocast("cpu", torch.bfloat16):
        rec = recorded(net)
    assert handed[0].dtype == torch.bfloat16
    assert agree(rec, handed[0], atol=1e-5)
