"""Folded factors: the pictures of rescaling, from weights that are multiplied meanwhile and given back."""

import pytest
import torch
from torch import nn

import entropylab
from entropylab import EntropyLabError
from entropylab.errors import EntropyLabWarning

from ..sampling import sample
from ..state import state_of_pipeline
from ..zoo import BY_NAME

ATTN = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"


def by_head(tokens, train_tokens):
    return torch.linspace(1.1, 1.4, {256: 2, 64: 4}[train_tokens]) if tokens != train_tokens else 1.0


def held(module):
    """Every parameter, and a copy of what it holds."""
    return [(name, weight, weight.detach().clone()) for name, weight in module.named_parameters()]


def are_back(module, before):
    now = dict(module.named_parameters())
    return all(now[name] is weight and torch.equal(weight, values) for name, weight, values in before)


@pytest.mark.parametrize(("rule", "prepare"), [("sqrt_log", "fused"), (by_head, "compiled")])
def test_the_same_pictures_and_the_very_weights(random_pipe, rule, prepare):
    """Sampling at another size is warned of."""
    options = {"size": (96, 64), "steps": 2}
    plain = sample(random_pipe, **options)
    with entropylab.rescale(random_pipe, rule) as handle:
        unfolded, multipliers = sample(random_pipe, **options), handle.multipliers
    if prepare == "fused":
        random_pipe.unet.fuse_qkv_projections()
    else:
        random_pipe.unet.mid_block.compile(backend="eager")
    before, state = held(random_pipe.unet), state_of_pipeline(random_pipe)
    with entropylab.rescale(random_pipe, rule, size=(96, 64), fold=True) as handle:
        assert handle.multipliers == multipliers
        assert not are_back(random_pipe.unet, before)
        folded = sample(random_pipe, **options)
        with pytest.warns(EntropyLabWarning, match="samples at 64x64, and its factors are folded for 96x64"):
            sample(random_pipe, steps=1)
    assert (folded - unfolded).abs().max() < 1e-3 * (plain - unfolded).abs().max()
    assert are_back(random_pipe.unet, before) and state_of_pipeline(random_pipe) == state


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_are_proved_too(random_pipe, dtype):
    random_pipe.to(dtype=dtype)
    before = held(random_pipe.unet)
    with entropylab.rescale(random_pipe, 1.01, size=96, fold=True):
        weights = random_pipe.unet.get_submodule(ATTN).to_q.weight
        plain = next(values for name, _, values in before if name == f"{ATTN}.to_q.weight")
        torch.testing.assert_close(weights, 1.01 * plain)
    assert are_back(random_pipe.unet, before)


@pytest.mark.parametrize("name", ["Stable Diffusion 3.5", "Lumina-Next"])
def test_norms_and_both_sides_of_joint_attention(name):
    family = BY_NAME[name]
    pipe = family.build()
    plain = family.sample(pipe)
    with entropylab.rescale(pipe, 1.3):
        unfolded = family.sample(pipe)
    options = {"size": family.size, "fold": True, "call": lambda *_: family.sample(pipe)}
    with entropylab.rescale(pipe, 1.3, **options):
        folded = family.sample(pipe)
    assert (folded - unfolded).abs().max() < 1e-3 * (plain - unfolded).abs().max()
    assert torch.equal(family.sample(pipe), plain)


def test_what_is_measured_meanwhile_carries_the_rule_and_its_factors(random_pipe):
    options = {"prompts": ["a red car"], "steps": 1, "layers": "self", "progress": False}
    wanted = entropylab.measure(random_pipe, [96], scaling="sqrt_log", **options)
    with entropylab.rescale(random_pipe, size=96, fold=True):
        found = entropylab.measure(random_pipe, [96], **options)
        with pytest.raises(EntropyLabError, match="rescaled already"):
            entropylab.rescale(random_pipe)
    assert found.scaling.values.tolist() == ["sqrt_log"]
    torch.testing.assert_close(found.entropy.values, wanted.entropy.values, atol=1e-4, rtol=1e-4, equal_nan=True)
    torch.testing.assert_close(found.multiplier.values, wanted.multiplier.values)


def test_the_weights_are_back_after_ctrl_c(random_pipe):
    """Whenever it comes, also while they are proved."""
    before, forwards = held(random_pipe.unet), []
    with pytest.raises(KeyboardInterrupt), entropylab.rescale(random_pipe, size=96, fold=True):
        raise KeyboardInterrupt
    assert are_back(random_pipe.unet, before)

    def interrupts(*_):
        forwards.append(are_back(random_pipe.unet, before))
        if len(forwards) == 2:
            raise KeyboardInterrupt

    with random_pipe.unet.register_forward_pre_hook(interrupts), pytest.raises(KeyboardInterrupt):
        entropylab.rescale(random_pipe, size=96, fold=True)
    assert forwards == [True, False] and are_back(random_pipe.unet, before)
    entropylab.rescale(random_pipe).remove()


class Adapted(nn.Module):
    """A linear with something beside it, as adapters and quantised layers are."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base

    def forward(self, hidden):
        return self.base_layer(hidden) + 0.1 * hidden


def cosine(attn):
    """Queries of length 1, whatever the weights."""
    attn.to_q.register_forward_hook(lambda module, args, output: nn.functional.normalize(output, dim=-1))


def steered(attn):
    """Queries to which something is added that no weight makes."""
    attn.to_q.register_forward_hook(lambda module, args, output: output + 0.5)


def quantised(attn):
    attn.to_q.weight = nn.Parameter(attn.to_q.weight.to(torch.float8_e4m3fn), requires_grad=False)
    attn.to_q.forward = lambda hidden: nn.functional.linear(hidden, attn.to_q.weight.float())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda attn: setattr(attn, "to_q", Adapted(attn.to_q)), "attn1.to_q is no plain linear but Adapted: quanti"),
        (quantised, r"attn1.to_q.weight is quantised \(Parameter, torch.float8_e4m3fn\)"),
        (lambda attn: nn.utils.parametrizations.weight_norm(attn.to_q), r"attn1.to_q.weight is made of others"),
        (lambda attn: setattr(attn.to_k, "weight", attn.to_q.weight), "to_q.weight is shared, by .*to_k.*to_q.weight"),
        (cosine, r"attn1 are not what its weights say: times 1.07.* they come out times 1.00"),
        (steered, r"attn1 are not what its weights say: something is added to them"),
    ],
)
def test_weights_that_cannot_be_folded_are_named(random_pipe, spoil, message):
    spoil(random_pipe.unet.get_submodule(ATTN))
    before = held(random_pipe.unet)
    with pytest.raises(EntropyLabError, match=rf"fold: .*down_blocks.0.attentions.0.transformer_blocks.0.*{message}"):
        entropylab.rescale(random_pipe, size=96, fold=True)
    assert are_back(random_pipe.unet, before)


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("sqrt_log", {"fold": True}, "size= and call= go with fold=True"),
        ("sqrt_log", {"size": 96}, "size= and call= go with fold=True"),
        ("sqrt_log", {"size": 97, "fold": True}, "sizes must be multiples of 8"),
        (lambda n, t, timestep: 1.1, {"size": 96, "fold": True}, "rule .* sees the timestep"),
    ],
)
def test_bad_arguments(random_pipe, rule, options, message):
    with pytest.raises(EntropyLabError, match=message):
        entropylab.rescale(random_pipe, rule, **options)
