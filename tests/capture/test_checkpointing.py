"""Gradient checkpointing: parts of a forward are computed again in the backward pass, unseen and unchanged."""

import pytest
import torch
from diffusers import SD3Transformer2DModel
from torch.utils.checkpoint import checkpoint

import entropylab

from ..seeds import normal
from .nets import TOKENS, WIDTH, Multihead, by_hand, net_of, usual
from .test_transformers import sharpened


def again(reentrant):
    """What diffusers calls to compute a part, and to compute it once more later."""
    return lambda part, *arguments: checkpoint(part, *arguments, use_reentrant=reentrant)


def in_training(reentrant=None):
    """A model in training, sharpened, checkpointed unless ``reentrant`` is None."""
    torch.manual_seed(0)
    model = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=16, out_channels=4,
        pos_embed_max_size=12,
    )  # fmt: skip
    sharpened(model, 4).train()
    if reentrant is not None:
        model.enable_gradient_checkpointing(again(reentrant))
    return model


def loss_at(model, side):
    """Of a picture of so many latent pixels along a side."""
    image = normal(2, 4, side, side).requires_grad_()  # without a gradient nothing is checkpointed the reentrant way
    text, pooled = normal(2, 6, 16, seed=1), normal(2, 16, seed=2)
    return model(image, text, pooled, torch.tensor([5, 5])).sample.square().mean()


def trained(model, sides=(8,)):
    """Gradients after forwards at these sizes, and one backward pass for all."""
    model.zero_grad()
    sum(loss_at(model, side) for side in sides).backward()
    return gradients_of(model)


def gradients_of(model):
    return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


def same(one, other, atol=0.0):
    return all(torch.allclose(a, b, rtol=0, atol=atol) for a, b in zip(one, other, strict=True))


def test_training_goes_on_while_it_is_recorded():
    model, other = in_training(True), in_training()
    plain = trained(model)
    with entropylab.record(model, strict=True) as rec:
        assert all(same(plain, trained(model)) for _ in range(2))
    with entropylab.record(other) as once:
        trained(other)
        trained(other)
    assert rec.dataset.sizes["step"] == 2
    assert rec.dataset.drop_attrs().equals(once.dataset.drop_attrs())


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_of_a_rescaled_model_are_those_without_checkpoints(reentrant):
    """Also of a forward at one size that is computed again after one at another."""
    found = []
    for how in (None, reentrant):
        model = in_training(how)
        with entropylab.rescale(model, train_size=32):
            found.append(trained(model, (12, 8, 10)))
    rounding = 1e-7  # gradients may be added in another order
    assert same(*found, rounding)
    with entropylab.rescale(model, 1.001):
        assert not same(found[0], trained(model, (12, 8, 10)), rounding)


def test_a_forward_before_the_rescaling_is_computed_again_without_it():
    plain, model = in_training(), in_training(False)
    loss_at(plain, 12).backward()
    loss = loss_at(model, 12)
    with entropylab.rescale(model, 1.5):
        loss.backward()
    assert same(gradients_of(plain), gradients_of(model))


@pytest.mark.parametrize(("attn", "reentrant"), [(usual, False), (by_hand, True), (Multihead, False)])
def test_a_whole_denoiser_that_is_computed_again(attn, reentrant):
    """Its root runs in the backward pass: that is no forward of its own. Nor do parts miss their attention."""

    def gradients(net):
        net.zero_grad()
        tokens = normal(2, TOKENS, WIDTH).requires_grad_()
        again(reentrant)(net, tokens, torch.tensor(2.0)).square().sum().backward()
        return [tokens.grad, *gradients_of(net)]

    net = net_of(attn)
    plain = gradients(net)
    with entropylab.record(net, strict=True) as rec:
        assert all(same(plain, gradients(net)) for _ in range(2))
    assert (rec.dataset.sizes["step"], rec.dataset.sizes["layer"]) == (2, 1)
