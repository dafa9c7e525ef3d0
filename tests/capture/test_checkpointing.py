"""Gradient checkpointing: parts of a forward are computed again in the backward pass, unseen and unchanged."""

import pytest
import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from torch.utils.checkpoint import checkpoint

import entropylab

from ..seeds import normal
from .nets import TOKENS, WIDTH, Method, Multihead, OwnAttention, net_of


def new_joint():
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        out_channels=4,
        pos_embed_max_size=12,
    )


def new_unet():
    return UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )


def joint_call(side):
    return normal(2, 4, side, side), normal(2, 6, 16, seed=1), normal(2, 16, seed=2), torch.tensor([5, 5])


def unet_call(side):
    return normal(2, 4, side, side), torch.tensor([5, 5]), normal(2, 6, 16, seed=1)


MODELS = {"joint": (new_joint, joint_call), "U-Net": (new_unet, unet_call)}
PAIRS = pytest.mark.parametrize(("name", "reentrant"), [("joint", True), ("U-Net", False)])

ROUNDING = 1e-7
"""Of gradients, which may be added in another order."""


def again(reentrant):
    """What diffusers calls to compute a part, and to compute it once more later."""
    return lambda part, *arguments: checkpoint(part, *arguments, use_reentrant=reentrant)


def new_model(name, reentrant=None):
    """A model in training, sharpened, checkpointed unless ``reentrant`` is None."""
    torch.manual_seed(0)
    model = MODELS[name][0]().train()
    with torch.no_grad():
        for weight_name, weight in model.named_parameters():
            if "to_q" in weight_name or "to_k" in weight_name:
                weight.mul_(4)
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
    return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


def same(one, other, atol=0.0):
    pairs = zip(one, other, strict=True)
    return len(one) == len(other) and all(torch.allclose(a, b, rtol=0, atol=atol) for a, b in pairs)


@PAIRS
def test_training_goes_on_while_it_is_recorded(name, reentrant):
    model = new_model(name, reentrant)
    plain = trained(model, name)
    with entropylab.record(model) as rec:
        assert all(same(plain, trained(model, name)) for _ in range(2))
    usual = new_model(name)
    with entropylab.record(usual) as once:
        for _ in range(2):
            trained(usual, name)
    assert rec.unmeasured == {}
    assert rec.dataset.sizes["step"] == 2
    assert rec.dataset.drop_attrs().equals(once.dataset.drop_attrs())


@PAIRS
def test_gradients_of_a_rescaled_model_are_those_without_checkpoints(name, reentrant):
    """Also of a forward at one size that is computed again after one at another."""
    found = []
    for how in (None, reentrant):
        model = new_model(name, how)
        with entropylab.rescale(model, train_size=8 if name == "U-Net" else 32):
            found.append([trained(model, name, sides) for sides in ((8,), (12, 8, 10))])
    assert all(same(one, other, ROUNDING) for one, other in zip(*found, strict=True))


def test_equality_of_gradients_would_notice_another_scale():
    plain = trained(new_model("U-Net"), "U-Net", (12,))
    model = new_model("U-Net", False)
    with entropylab.rescale(model, 1.001):
        assert not same(plain, trained(model, "U-Net", (12,)), ROUNDING)


def test_a_forward_before_the_rescaling_is_computed_again_without_it():
    arguments = unet_call(12)
    plain, model = new_model("U-Net"), new_model("U-Net", False)
    plain(*arguments).sample.square().mean().backward()
    loss = model(*arguments).sample.square().mean()
    with entropylab.rescale(model, 1.5):
        loss.backward()
    assert same([w.grad for w in plain.parameters()], [w.grad for w in model.parameters()])


@pytest.mark.parametrize(("attn", "reentrant"), [(OwnAttention, False), (Method, True), (Multihead, False)])
def test_a_whole_denoiser_that_is_computed_again(attn, reentrant):
    """Its root runs in the backward pass: that is no forward of its own. Nor do parts miss their attention."""

    def gradients(net, how):
        net.zero_grad()
        tokens = normal(2, TOKENS, WIDTH).requires_grad_()
        given = (tokens, torch.tensor(2.0))
        again(how)(net, *given).square().sum().backward()
        return [tokens.grad, *(weight.grad.clone() for weight in net.parameters())]

    net = net_of(attn)
    plain = gradients(net, reentrant)
    with entropylab.record(net, strict=True) as rec:
        assert all(same(plain, gradients(net, reentrant)) for _ in range(2))
    assert rec.dataset.sizes["step"] == 2
    assert rec.dataset.sizes["layer"] == 1
