"""Gradient checkpointing: parts of a forward are computed again in the backward pass, unseen and unchanged."""

import pytest
import torch
from diffusers import SD3Transformer2DModel
from torch.utils.checkpoint import checkpoint

import entropylab
from recipes.text import WIDTH as TEXT_WIDTH

from ..conftest import new_random_pipeline
from ..seeds import normal
from .bare import sharpened
from .nets import TOKENS, WIDTH, Method, Multihead, OwnAttention, net_of


def new_joint():
    return SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=16, out_channels=4,
        pos_embed_max_size=12,
    )  # fmt: skip


def joint_call(side):
    return normal(2, 4, side, side), normal(2, 6, 16, seed=1), normal(2, 16, seed=2), torch.tensor([5, 5])


def new_unet():
    return new_random_pipeline(sample_size=8).unet


def unet_call(side):
    return normal(2, 4, side, side), torch.tensor([5, 5]), normal(2, 6, TEXT_WIDTH, seed=1)


MODELS = {"joint": (new_joint, joint_call, 32), "U-Net": (new_unet, unet_call, 8)}
PAIRS = pytest.mark.parametrize(("name", "reentrant"), [("joint", True), ("U-Net", False)])

ROUNDING = 1e-7
"""Of gradients, which may be added in another order."""


def again(reentrant):
    """What diffusers calls to compute a part, and to compute it once more later."""
    return lambda part, *arguments: checkpoint(part, *arguments, use_reentrant=reentrant)


def new_model(name, reentrant=None):
    """A model in training, sharpened, checkpointed unless ``reentrant`` is None."""
    torch.manual_seed(0)
    model = sharpened(MODELS[name][0](), 4).train()
    if reentrant is not None:
        model.enable_gradient_checkpointing(again(reentrant))
    return model


def trained(model, name, sides=(8,)):
    """Gradients after forwards at these sizes [latent pixels], and one backward pass for all."""
    model.zero_grad()
    inputs = [MODELS[name][1](side) for side in sides]
    for image, *_ in inputs:
        image.requires_grad_()  # what is checkpointed the reentrant way must have an input with a gradient
    sum(model(*arguments).sample.square().mean() for arguments in inputs).backward()
    return gradients_of(model)


def gradients_of(model):
    return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


def same(one, other, atol=0.0):
    pairs = zip(one, other, strict=True)
    return len(one) == len(other) and all(torch.allclose(a, b, rtol=0, atol=atol) for a, b in pairs)


@PAIRS
def test_training_goes_on_while_it_is_recorded(name, reentrant):
    model = new_model(name, reentrant)
    plain = trained(model, name)
    with entropylab.record(model, strict=True) as rec:
        assert all(same(plain, trained(model, name)) for _ in range(2))
    usual = new_model(name)
    with entropylab.record(usual) as once:
        for _ in range(2):
            trained(usual, name)
    assert rec.dataset.sizes["step"] == 2
    assert rec.dataset.drop_attrs().equals(once.dataset.drop_attrs())


@PAIRS
def test_gradients_of_a_rescaled_model_are_those_without_checkpoints(name, reentrant):
    """Also of a forward at one size that is computed again after one at another."""
    found = []
    for how in (None, reentrant):
        model = new_model(name, how)
        with entropylab.rescale(model, train_size=MODELS[name][2]):
            found.append([trained(model, name, sides) for sides in ((8,), (12, 8, 10))])
    assert all(same(one, other, ROUNDING) for one, other in zip(*found, strict=True))
    with entropylab.rescale(model, 1.001):
        assert not same(found[0][0], trained(model, name), ROUNDING)


def test_a_forward_before_the_rescaling_is_computed_again_without_it():
    arguments = unet_call(12)
    plain, model = new_model("U-Net"), new_model("U-Net", False)
    plain(*arguments).sample.square().mean().backward()
    loss = model(*arguments).sample.square().mean()
    with entropylab.rescale(model, 1.5):
        loss.backward()
    assert same(gradients_of(plain), gradients_of(model))


@pytest.mark.parametrize(("attn", "reentrant"), [(OwnAttention, False), (Method, True), (Multihead, False)])
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
