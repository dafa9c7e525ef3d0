"""Following values through a first forward: it changes nothing, and is done once for each layout."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import entropylab
from entropylab.capture.session import session
from entropylab.errors import EntropyLabWarning

from ..attention import PlainAttention
from ..joints import inputs, lengths, new_joint
from ..sampling import sample
from ..seeds import normal
from ..zoo import BY_NAME
from ..zoo.joint_parts import flux_call, two_steps
from .nets import TEXT, TOKENS, WIDTH, OwnAttention
from .test_roles import agree, recorded


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


def into_a_part(net, image, text):
    both = torch.zeros(2, TEXT + TOKENS, WIDTH)
    both[:, :TEXT].copy_(text)
    both[:, TEXT:].add_(image)
    return both[:, TEXT:], both[:, :TEXT]


def averaged(net, image, text):
    return tuple(net.averages(tokens.transpose(1, 2)).transpose(1, 2) for tokens in (image, text))


def looked_up(net, image, text):
    places = (image.clamp(-2, 2) * 10 + 20).long()[..., 0]
    return image + normal(50, WIDTH)[places], text


MIXES = {
    "into out": (lambda net, image, text: (torch.add(image, 1.0, out=torch.empty(0)), text), torch.inference_mode),
    "into a part": (into_a_part, torch.enable_grad),
    "averaged": (averaged, torch.inference_mode),
    "dropped": (lambda net, image, text: (net.dropout(image), net.dropout(text)), torch.enable_grad),
    "looked up": (looked_up, torch.inference_mode),
}


@pytest.mark.parametrize(("mix", "grads"), MIXES.values(), ids=MIXES)
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


# Once for each layout


def followed(part):
    """A list that tells of each forward of ``part`` whether it is followed."""
    found = []
    part.register_forward_pre_hook(lambda *_: found.append(torch._C._len_torch_function_stack() > 0))
    return found


def test_a_pipeline_is_followed_once_for_each_size_and_text():
    pipe = BY_NAME["FLUX.1"].build()
    found = followed(pipe.transformer.transformer_blocks[0])
    for _ in range(2):
        for text in (10, 13):
            with entropylab.record(pipe):
                two_steps(pipe, **flux_call(text))
    assert found == [True, False, True, False, False, False, False, False]


@torch.no_grad()
def test_a_u_net_is_followed_once_for_all_sizes(random_pipe):
    unet = random_pipe.unet
    found = followed(unet.mid_block)
    for side in (8, 16):
        with entropylab.record(unet):
            unet(normal(1, 4, side, side), 5, normal(1, 7, unet.config.cross_attention_dim))
    assert found == [True, False]


def reordered(model):
    model.order = ("image", "text")


def replaced(model):
    model.blocks[1] = new_joint(seed=1).blocks[1]


def test_what_was_found_is_forgotten_once_the_model_is_changed():
    model = new_joint(("text", "image"))
    found = followed(model.blocks[0])
    for change in (lambda model: None, reordered, replaced):
        change(model)
        found.clear()
        recorded(model, inputs())
        agree(*recorded(model, inputs()))
        assert found == [False, True, False, False]


@pytest.mark.parametrize("dense", [False, True])
def test_masks_are_compared_only_if_they_decide_where_tokens_stand(dense):
    """The dense model moves text to the front without its padding."""
    model = new_joint()
    model.dense, found = dense, followed(model.blocks[0])
    with torch.no_grad(), entropylab.record(model):
        for counts in ((7, 4), (2, 6), (7, 4)):
            model(**inputs(encoder_attention_mask=lengths(7, *counts)))
    assert found == [True, dense, False]


def test_calls_that_one_recording_does_not_want_are_there_for_another(random_pipe):
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
def test_what_is_known_of_calls_is_bounded_and_forgotten():
    net = PlainAttention(8)
    with entropylab.record(net):
        for tokens in (4, 4, *range(2, 90)):
            net(normal(1, tokens, 8))
        assert 1 < len(session.known) <= 64
    assert not session.known


# Linear layers that are quantised by the range of all their tokens


def by_range(tensor, dtype):
    """A tensor in few bits, and the one scale of all of it."""
    most = torch.finfo(dtype).max if dtype.is_floating_point else torch.iinfo(dtype).max
    tensor = tensor if dtype.is_floating_point else tensor.nan_to_num()
    scale = tensor.abs().amax().clamp(min=1e-12) / most
    return (tensor / scale if dtype.is_floating_point else (tensor / scale).round()).to(dtype), scale


def product(tokens, weight, bias, dtype):
    """A linear layer of two tensors in few bits."""
    (tokens, one), (weight, other) = by_range(tokens, dtype), by_range(weight, dtype)
    found = tokens.float() @ weight.float().t() * (one * other)
    return found if bias is None else found + bias


class OpaqueWeight(torch.Tensor):
    """A weight that quantises what it is multiplied by, where nobody sees it, as torchao's does."""

    dtype_of_products = torch.float8_e4m3fn

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is not F.linear:
            return super().__torch_function__(func, types, args, kwargs or {})
        tokens, weight, bias = (*args, None)[:3]
        plain = weight.as_subclass(torch.Tensor)
        bias = None if bias is None else bias.as_subclass(torch.Tensor)
        return product(tokens, plain, bias, weight.dtype_of_products)


class OpaqueInt8Weight(OpaqueWeight):
    dtype_of_products = torch.int8


@pytest.mark.parametrize(
    ("order", "how", "bad"), [(("text", "image"), OpaqueWeight, 10), ("shuffled", OpaqueInt8Weight, 0)]
)
def test_parts_of_a_quantised_joint_transformer(order, how, bad):
    model, tokens = new_joint(order), torch.randn(2, 5, 8)
    for part in [part for part in model.modules() if type(part) is nn.Linear]:
        part.weight = nn.Parameter(part.weight.detach().as_subclass(how), requires_grad=False)
    tokens[0, 1] = torch.nan
    assert int(model.embed_image(tokens).isnan().any(-1).sum()) == bad, "one NaN makes every token NaN, or goes lost"
    agree(*recorded(model, inputs(), inputs(12, 9)))


class Several(nn.Module):
    """A joint transformer that treats image and text by one function, which is not followed."""

    def __init__(self):
        super().__init__()
        self.inner = new_joint()

    def forward(self, hidden_states, encoder_hidden_states, timestep):
        image, text = torch._foreach_mul([hidden_states, encoder_hidden_states], 1.0)
        return self.inner(image, text, timestep)


@torch.no_grad()
def test_a_model_that_can_not_be_followed_is_tried_once_for_each_layout_and_named():
    model = Several()
    found = followed(model.inner)
    with pytest.warns(EntropyLabWarning, match=r"Several \(.*foreach.*\)") as told, entropylab.record(model) as rec:
        for text in (7, 7, 9, 7, 9):
            model(**inputs(12, text))
    assert found == [True, False, True, False, False]
    assert len(told) == 1
    assert rec.unmeasured == {}
    assert set(rec.dataset.part.values) == {"unknown"}
    told = pytest.warns(EntropyLabWarning, match="could not tell what the tokens of Several stand for")
    with told, entropylab.rescale(model, 1.5):
        model(**inputs())
