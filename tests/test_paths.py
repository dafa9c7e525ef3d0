"""The ways in which attention is computed: each is seen or named, disturbs nothing, and is put back."""

import json
import threading
import warnings
from contextlib import ExitStack

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from diffusers.models.attention_processor import Attention, AttnProcessor, SlicedAttnProcessor
from torch import Tensor, nn
from torch.nn.attention import flex_attention as flex

import entropylab
from entropylab.capture import roles
from entropylab.capture.interception import active, running
from entropylab.errors import EntropyLabError, EntropyLabWarning

from .conftest import new_random_pipeline
from .maps import entropy_of, materialised
from .test_record import sample
from .zoo import FAMILIES

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")

WIDTH, HEADS, TOKENS, TEXT = 16, 2, 20, 7
BY_NAME = {family.name: family for family in FAMILIES}
LATER = torch.ones(TOKENS, TOKENS).triu(1).bool()
FAR = (torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)).abs()


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class OwnAttention(nn.Module):
    """Attention that keeps its logits (batch, heads, queries, keys), as they were."""

    def __init__(self):
        super().__init__()
        self.heads = HEADS
        self.to_q, self.to_k, self.to_v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        with torch.no_grad():
            self.to_q.weight.mul_(4)
            self.to_k.weight.mul_(4)

    def sides(self, tokens):
        query, key, value = (
            projection(tokens).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for projection in (self.to_q, self.to_k, self.to_v)
        )
        self.logits = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).detach().clone()
        return query, key, value

    def by_hand(self, tokens):
        """Logits that need a softmax, and values."""
        query, key, value = self.sides(tokens)
        return query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, value

    def forward(self, tokens):
        return together(F.scaled_dot_product_attention(*self.sides(tokens)))


def together(values):
    """(batch, heads, tokens, d) as (batch, tokens, width)."""
    return values.transpose(1, 2).flatten(-2)


class Net(nn.Module):
    """A denoiser with one attention layer, which may run several times in a forward."""

    def __init__(self, attn, times=1):
        super().__init__()
        self.proj, self.attn, self.times = nn.Linear(WIDTH, WIDTH), attn, times

    def forward(self, hidden_states, timestep, encoder_hidden_states=None):
        for _ in range(self.times):
            hidden_states = self.proj(hidden_states) + self.attn(hidden_states * timestep)
        return hidden_states


def net_of(attn, *args, **more):
    """A ``Net`` with attention of this class, the same weights whenever it is made."""
    torch.manual_seed(0)
    return Net(attn(*args), **more).eval()


def run(net, seed=0):
    with torch.no_grad():
        return net(normal(2, TOKENS, WIDTH, seed=seed), torch.tensor(2.0))


def recorded(net, forwards=3, **options):
    """The recorder of some forwards, whose outputs are those of forwards that nobody looked at."""
    plain = [run(net, seed) for seed in range(forwards)]
    with entropylab.record(net, **options) as rec:
        watched = [run(net, seed) for seed in range(forwards)]
    for one, other in zip(plain, watched, strict=True):
        assert torch.equal(one, other)
    return rec


def agree(rec, logits, layer=-1, step=-1, atol=1e-5):
    """Whether a layer's entropies are those of the softmax of its logits: (batch, heads, queries, keys)."""
    found = rec.dataset.entropy.isel(layer=layer, step=step).squeeze(["size", "scaling", "branch"]).values
    wanted = entropy_of(logits).nanmean(-1).numpy()
    return found.shape == wanted.shape and np.allclose(found, wanted, atol=atol, rtol=0)


# What may be left behind


def attentions(*models):
    """Modules that have a processor."""
    return [part for model in models for part in model.modules() if getattr(part, "processor", None) is not None]


def state(*modules):
    """Everything that looking might have changed, as it is now."""
    parts = [part for module in modules for part in module.modules()]
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in parts]
    own = [sorted({"forward", "get_attention_scores"} & set(vars(part))) for part in parts]
    functions = (F.scaled_dot_product_attention, torch.softmax, F.softmax, flex.flex_attention)
    inherited = "softmax" in vars(Tensor), Tensor.softmax
    backends = [vars(part.processor).get("_attention_backend") for part in attentions(*modules)]
    return (
        hooks,
        own,
        functions,
        inherited,
        backends,
        _AttentionBackendRegistry.get_active_backend(),
        torch._C._len_torch_function_stack(),
        len(active),
        running(),
    )


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    before = state()
    yield
    assert state() == before


# Attention by hand


class Method(OwnAttention):
    def forward(self, tokens):
        logits, value = self.by_hand(tokens)
        return together(logits.softmax(-1) @ value)


class Function(OwnAttention):
    def forward(self, tokens):
        logits, value = self.by_hand(tokens)
        return together(F.softmax(logits, dim=3, dtype=torch.float32) @ value)


class ByName(OwnAttention):
    def forward(self, tokens):
        logits, value = self.by_hand(tokens)
        return together(torch.softmax(input=logits, dim=-1) @ value)


class ByModule(OwnAttention):
    def __init__(self):
        super().__init__()
        self.normalise = nn.Softmax(dim=-1)

    def forward(self, tokens):
        logits, value = self.by_hand(tokens)
        return together(self.normalise(logits) @ value)


class ByPart(OwnAttention):
    """A part with no parameters takes the softmax, as in guided diffusion."""

    class Core(nn.Module):
        def forward(self, logits, value):
            return torch.softmax(logits, dim=-1) @ value

    def __init__(self):
        super().__init__()
        self.core = self.Core()

    def forward(self, tokens):
        return together(self.core(*self.by_hand(tokens)))


class HeadsInBatch(OwnAttention):
    def forward(self, tokens):
        logits, value = self.by_hand(tokens)
        return together(logits.flatten(0, 1).softmax(-1).unflatten(0, (-1, HEADS)) @ value)


class HeadsThird(OwnAttention):
    def forward(self, tokens):
        logits, value = self.by_hand(tokens)
        return together(logits.transpose(1, 2).softmax(-1).transpose(1, 2) @ value)


class AttnBlock(nn.Module):
    """As the first diffusion U-Nets have it: one head, and a name that says attn in front."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, tokens):
        logits = torch.bmm(self.q(tokens), self.k(tokens).transpose(1, 2)) / 4
        self.logits = logits.detach().clone()[:, None]
        return torch.bmm(F.softmax(logits, dim=2), self.v(tokens))


@pytest.mark.parametrize("attn", [Method, Function, ByName, ByModule, ByPart, HeadsInBatch, HeadsThird, AttnBlock])
def test_a_softmax_by_hand_is_measured_in_every_forward(attn):
    net = net_of(attn)
    rec = recorded(net)
    assert rec.unmeasured == {}
    assert rec.dataset.sizes["step"] == 3
    if attn is AttnBlock:
        assert np.allclose(
            rec.dataset.entropy.isel(step=-1).values.ravel(), entropy_of(net.attn.logits).mean(-1).ravel(), atol=1e-5
        )
    else:
        assert agree(rec, net.attn.logits)
        assert not agree(rec, net.attn.logits * 1.01)
        assert not agree(rec, net.attn.logits.flip(1))


def test_a_layer_by_hand_that_runs_twice_in_a_forward_is_two():
    rec = recorded(net := net_of(Method, times=2))
    assert list(rec.dataset.layer.values) == ["model.attn", "model.attn:2"]
    assert agree(rec, net.attn.logits, layer=1)
    assert not agree(rec, net.attn.logits, layer=0)


def test_two_recordings_see_the_same_by_hand():
    net = net_of(Method, times=2)
    with entropylab.record(net) as outer, entropylab.record(net) as inner:
        run(net)
    assert outer.dataset.equals(inner.dataset)


class Gated(OwnAttention):
    """Its second softmax mixes three gates."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(WIDTH, 3)

    def forward(self, tokens):
        logits, value = self.by_hand(tokens)
        mixed = together(logits.softmax(-1) @ value)
        return mixed * self.gate(mixed).softmax(-1)[..., :1]


class InTwoSlices(OwnAttention):
    def forward(self, tokens):
        logits, value = self.by_hand(tokens)
        return together(torch.cat([part.softmax(-1) @ value for part in logits.chunk(2, dim=2)], 2))


class Efficient(OwnAttention):
    """Linear attention that says so nowhere: its softmaxes are over channels and over tokens."""

    def forward(self, tokens):
        query, key, value = self.sides(tokens)
        return together(query.softmax(-1) @ (key.transpose(-1, -2).softmax(-1) @ value))


class LinearAttention(OwnAttention):
    def forward(self, tokens):
        query, key, value = self.sides(tokens)
        return together(query @ (key.transpose(-1, -2).softmax(-1) @ value))


class Overwritten(OwnAttention):
    """The logits are gone when the layer is done."""

    def forward(self, tokens):
        logits, value = self.by_hand(tokens)
        weights = logits.softmax(-1)
        logits.zero_()
        return together(weights @ value)


class Exponential(OwnAttention):
    def forward(self, tokens):
        logits, value = self.by_hand(tokens)
        weights = (logits - logits.amax(-1, keepdim=True)).exp()
        return together(weights / weights.sum(-1, keepdim=True) @ value)


UNREADABLE = [
    (Gated, "2 softmaxes by hand"),
    (InTwoSlices, "2 softmaxes by hand"),
    (Efficient, "2 softmaxes by hand"),
    (LinearAttention, "linear attention has no softmax"),
    (Overwritten, "1 softmaxes by hand"),
    (Exponential, "without an attention call that can be seen"),
]


@pytest.mark.parametrize(("attn", "reason"), UNREADABLE)
def test_what_is_surely_no_map_is_named_and_not_measured(attn, reason):
    net = net_of(attn)
    with pytest.warns(EntropyLabWarning, match=rf"model\.attn.*{reason}"):
        rec = recorded(net)
    assert reason in rec.unmeasured["model.attn"]
    with pytest.raises(EntropyLabError, match="nothing was measured"):
        _ = rec.dataset


class Routed(nn.Module):
    """A mixture of experts behind attention: its softmax is over experts."""

    class AttentionRouter(nn.Module):
        def __init__(self):
            super().__init__()
            self.choose = nn.Linear(WIDTH, 4)

        def forward(self, tokens):
            return tokens * self.choose(tokens).softmax(-1).amax(-1, keepdim=True)

    def __init__(self):
        super().__init__()
        self.attn, self.router = OwnAttention(), self.AttentionRouter()

    def forward(self, tokens):
        return self.router(self.attn(tokens))


def test_a_router_is_no_attention():
    rec = recorded(net := net_of(Routed))
    assert list(rec.dataset.layer.values) == ["model.attn.attn"]
    assert agree(rec, net.attn.attn.logits)
    assert rec.unmeasured == {}


def test_attention_by_hand_can_not_be_rescaled_and_says_so():
    net = net_of(Method)
    plain = run(net)
    with pytest.warns(EntropyLabWarning, match="rescaled nothing"), entropylab.rescale(net, 1.5, train_size=8):
        assert torch.equal(run(net), plain)


# Flex attention


class Flex(OwnAttention):
    def __init__(self, score_mod=None, mask=None, positional=False, **more):
        super().__init__()
        self.arguments = (score_mod, mask, None, False) if positional else ()
        self.more = more if positional else {"score_mod": score_mod, "block_mask": mask, **more}

    def forward(self, tokens):
        found = flex.flex_attention(*self.sides(tokens), *self.arguments, **self.more)
        return together(found[0] if isinstance(found, tuple) else found)


def causal(batch, head, query, key):
    return query >= key


CAUSAL = flex.create_block_mask(causal, None, None, TOKENS, TOKENS, device="cpu")
ADDITIVE = {
    "plain": (None, None, lambda logits: logits),
    "block mask": (None, CAUSAL, lambda logits: logits.masked_fill(LATER, -torch.inf)),
    "causal by score": (
        lambda score, batch, head, query, key: torch.where(query >= key, score, -torch.inf),
        None,
        lambda logits: logits.masked_fill(LATER, -torch.inf),
    ),
    "distance by head": (
        lambda score, batch, head, query, key: score - 0.3 * (head + 1) * (query - key).abs(),
        None,
        lambda logits: logits - 0.3 * torch.arange(1, 3)[:, None, None] * FAR,
    ),
    "by image, and a block mask": (
        lambda score, batch, head, query, key: score - 0.2 * batch * (query - key).abs(),
        CAUSAL,
        lambda logits: (logits - 0.2 * torch.arange(2)[:, None, None, None] * FAR).masked_fill(LATER, -torch.inf),
    ),
}


@pytest.fixture
def quick_flex(monkeypatch):
    """Flex attention as it is written: outside of tests it is compiled, if only to be run as it is written."""
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


def test_flex_attention_as_it_comes():
    net = net_of(Flex, *ADDITIVE["by image, and a block mask"][:2])
    assert agree(recorded(net, forwards=1), ADDITIVE["by image, and a block mask"][2](net.attn.logits))


@pytest.mark.usefixtures("quick_flex")
@pytest.mark.parametrize("positional", [False, True])
@pytest.mark.parametrize("name", ADDITIVE)
def test_flex_attention_that_adds_is_measured(name, positional):
    score_mod, mask, reference = ADDITIVE[name]
    net = net_of(Flex, score_mod, mask, positional)
    rec = recorded(net)
    assert agree(rec, reference(net.attn.logits))
    assert name == "plain" or not agree(rec, net.attn.logits)
    assert rec.unmeasured == {}


OTHERWISE = {
    "soft cap": lambda score, *place: 50 * torch.tanh(score / 50),
    "small soft cap": lambda score, *place: 2 * torch.tanh(score / 2),
    "leaky": lambda score, *place: torch.where(score > 0, score, 0.1 * score),
    "square": lambda score, *place: score * score,
    "double": lambda score, *place: score * 2,
    "clamp": lambda score, *place: score.clamp(-2, 2),
}


@pytest.mark.usefixtures("quick_flex")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OTHERWISE)
def test_flex_attention_that_does_more_than_add_is_named(name, dtype):
    """All but the first leave the scores 0 and 1 alone, or add 1 to 1; a soft cap of 50 does so in bfloat16."""
    net = net_of(Flex, OTHERWISE[name]).to(dtype)
    tokens = normal(2, TOKENS, WIDTH).to(dtype)
    with torch.no_grad(), pytest.warns(EntropyLabWarning, match=r"model\.attn"):
        plain = net(tokens, torch.tensor(2.0, dtype=dtype))
        with entropylab.record(net) as rec:
            watched = net(tokens, torch.tensor(2.0, dtype=dtype))
    assert torch.equal(plain, watched)
    assert list(rec.unmeasured) == ["model.attn"]


def test_flex_attention_that_returns_more_is_measured():
    net = net_of(lambda: Flex(return_aux=flex.AuxRequest(lse=True)))
    assert agree(recorded(net), net.attn.logits)


@pytest.mark.usefixtures("quick_flex")
def test_flex_attention_is_rescaled_as_recorded():
    net = net_of(Flex, *ADDITIVE["distance by head"][:2])
    with entropylab.rescale(net, 1.5, train_size=8), entropylab.record(net) as rec:
        scaled = run(net)
    assert not torch.equal(scaled, run(net))
    assert agree(rec, ADDITIVE["distance by head"][2](1.5 * net.attn.logits))


@pytest.fixture
def keep_process_wide():
    """``set_attention_backend`` changes the default of the whole process."""
    before = _AttentionBackendRegistry._active_backend
    yield
    _AttentionBackendRegistry._active_backend = before


@pytest.mark.parametrize("name", ["FLUX.1", "Qwen-Image"])
def test_a_model_set_to_flex_is_measured_as_it_is(name, keep_process_wide, caplog):
    family = BY_NAME[name]
    with entropylab.record(usual := family.build()) as native:
        family.sample(usual)
    other, pipe = family.build(), family.build()
    with entropylab.record(other):
        pipe.transformer.set_attention_backend("flex")
        _AttentionBackendRegistry.set_active_backend(AttentionBackendName.NATIVE)
        before = state(pipe.transformer, other.transformer)
        plain = family.sample(pipe)
        with entropylab.record(pipe) as rec:
            assert torch.equal(family.sample(pipe), plain)
        assert state(pipe.transformer, other.transformer) == before
    assert rec.unmeasured == {}
    xarrays = [recorder.dataset.drop_attrs() for recorder in (rec, native)]
    np.testing.assert_allclose(xarrays[0].entropy, xarrays[1].entropy, atol=1e-4)
    chosen = {getattr(part.processor, "_attention_backend", None) for part in attentions(pipe.transformer)}
    assert chosen == {AttentionBackendName.FLEX}


# nn.MultiheadAttention


class Multihead(nn.Module):
    """``nn.MultiheadAttention`` with whatever arguments; keeps what its map should be by its own weights."""

    def __init__(self, masks=None, batch_first=True, context=None, needs=False, settings=None):
        super().__init__()
        settings = settings or {}
        self.inner = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first, **settings)
        with torch.no_grad():
            for name, weight in self.inner.named_parameters():
                if "proj_weight" in name:
                    weight.mul_(3)
        self.masks, self.context, self.needs = masks or {}, context, needs

    def forward(self, tokens):
        context = tokens if self.context is None else self.context.to(tokens.dtype)
        self.logits = self.reference(tokens.detach(), context.detach())
        if not self.inner.batch_first:
            same = context is tokens
            tokens = tokens.transpose(0, 1)
            context = tokens if same else context.transpose(0, 1)
        found = self.inner(tokens, context, context, need_weights=self.needs, **self.masks)[0]
        return found if self.inner.batch_first else found.transpose(0, 1)

    def reference(self, tokens, context):
        """Masked logits in float64: (batch, heads, queries, keys)."""
        inner = self.inner
        if inner.in_proj_bias.is_meta:
            return None
        packed = inner.in_proj_weight
        weights = packed.chunk(3) if packed is not None else (inner.q_proj_weight, inner.k_proj_weight)
        biases = inner.in_proj_bias.chunk(3)
        query, key = (
            F.linear(side.double(), weight.detach().double(), bias.detach().double())
            .unflatten(-1, (HEADS, -1))
            .transpose(1, 2)
            for side, weight, bias in zip((tokens, context), weights, biases, strict=False)
        )
        logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        for name, mask in self.masks.items():
            if name == "is_causal":
                continue
            mask = mask[:, None, None] if name == "key_padding_mask" else mask
            mask = mask.unflatten(0, (-1, HEADS)) if mask.ndim == 3 else mask
            logits = logits.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
        return logits


PADDING = torch.arange(TOKENS).expand(2, TOKENS) >= torch.tensor([[15], [20]])
MASKS = {
    "none": {},
    "padding": {"key_padding_mask": PADDING},
    "float padding": {"key_padding_mask": torch.where(PADDING, -torch.inf, 0.5 * normal(2, TOKENS))},
    "causal": {"attn_mask": LATER},
    "causal, said so": {"attn_mask": LATER, "is_causal": True},
    "float": {"attn_mask": normal(TOKENS, TOKENS)},
    "by head": {"attn_mask": normal(2 * HEADS, TOKENS, TOKENS)},
    "boolean by head": {"attn_mask": (normal(2 * HEADS, TOKENS, TOKENS) > 1) & ~torch.eye(TOKENS, dtype=torch.bool)},
    "both": {"attn_mask": LATER, "key_padding_mask": PADDING},
    "both float": {"attn_mask": normal(TOKENS, TOKENS), "key_padding_mask": normal(2, TOKENS)},
}


def rows_that_count(masks):
    """Which query rows are no padding: (batch, 1, queries)."""
    padding = masks.get("key_padding_mask")
    if padding is None:
        return torch.ones(2, 1, TOKENS, dtype=torch.bool)
    return (~padding if padding.dtype == torch.bool else padding > -1e4)[:, None]


def multihead_agrees(rec, net, masks):
    wanted = entropy_of(net.attn.logits).masked_fill(~rows_that_count(masks), torch.nan).nanmean(-1).numpy()
    found = rec.dataset.entropy.isel(layer=-1, step=-1).squeeze(["size", "scaling", "branch"]).values
    return np.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("needs", [False, True])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("name", MASKS)
def test_multihead_attention_with_its_masks(name, batch_first, needs):
    net = net_of(Multihead, MASKS[name], batch_first, None, needs)
    rec = recorded(net)
    assert rec.unmeasured == {}
    assert multihead_agrees(rec, net, MASKS[name])
    net.attn.logits = net.attn.logits * 1.02
    assert not multihead_agrees(rec, net, MASKS[name])


def test_the_fast_path_is_taken_while_anybody_looks(monkeypatch):
    original, calls = torch._native_multi_head_attention, []

    def counted(*args, **more):
        calls.append(1)
        return original(*args, **more)

    monkeypatch.setattr(torch, "_native_multi_head_attention", counted)
    recorded(net_of(Multihead), forwards=2)
    assert len(calls) == 4


@pytest.mark.parametrize("settings", [{}, {"kdim": 6, "vdim": 6}])
def test_cross_attention_of_multihead_attention(settings):
    context = normal(2, TEXT, settings.get("kdim", WIDTH), seed=5)
    net = net_of(Multihead, {}, True, context, False, settings)
    rec = recorded(net)
    assert agree(rec, net.attn.logits)
    assert list(rec.dataset.kind.values) == ["cross"]
    assert int(rec.dataset.tokens.squeeze()) == TEXT


@pytest.mark.parametrize("settings", [{"add_bias_kv": True}, {"add_zero_attn": True}])
@pytest.mark.parametrize("needs", [False, True])
def test_multihead_attention_with_more_keys_is_measured_or_named(settings, needs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EntropyLabWarning)
        rec = recorded(net_of(Multihead, {}, True, None, needs, settings))
    assert bool(rec.unmeasured) != bool(rec.cells.timesteps)
    if not rec.unmeasured:
        assert int(rec.dataset.tokens.squeeze()) == TOKENS + 1


@pytest.mark.parametrize("training", [False, True])
def test_multihead_attention_with_gradients(training):
    net = net_of(Multihead).train(training)
    tokens = normal(2, TOKENS, WIDTH).requires_grad_()

    def gradients():
        net.zero_grad()
        net(tokens, torch.tensor(2.0)).square().sum().backward()
        return [weight.grad.clone() for weight in net.parameters()]

    plain = gradients()
    with entropylab.record(net) as rec:
        watched = [gradients(), gradients()]
    assert agree(rec, net.attn.logits)
    for found in watched:
        assert all(torch.equal(one, other) for one, other in zip(plain, found, strict=True))


def test_rescale_says_that_multihead_attention_can_not_be_rescaled():
    net = net_of(Multihead)
    plain = run(net)
    with pytest.warns(EntropyLabWarning, match="rescaled nothing"):
        with entropylab.rescale(net, 1.5, train_size=8), entropylab.record(net) as rec:
            assert torch.equal(run(net), plain)
    assert agree(rec, net.attn.logits)


# Shapes that scaled_dot_product_attention takes

SHAPES = {
    "two dimensions": ((10, 4), (12, 4), None, False),
    "three, and a mask": ((2, 10, 4), (2, 12, 4), (2, 10, 12), False),
    "five": ((2, 3, 2, 10, 4), (2, 3, 2, 12, 4), None, False),
    "five, and a mask": ((2, 3, 2, 10, 4), (2, 3, 2, 12, 4), (2, 1, 1, 10, 12), False),
    "five, and a shorter mask": ((2, 3, 2, 10, 4), (2, 3, 2, 12, 4), (3, 2, 10, 12), False),
    "keys for all images": ((2, 2, 10, 4), (1, 2, 12, 4), None, False),
    "queries for all images": ((1, 2, 10, 4), (2, 2, 12, 4), None, False),
    "keys for all heads": ((2, 2, 10, 4), (2, 1, 12, 4), None, False),
    "queries for all heads": ((2, 1, 10, 4), (2, 2, 12, 4), None, False),
    "keys by head alone": ((2, 2, 10, 4), (2, 12, 4), None, False),
    "grouped": ((2, 4, 10, 4), (2, 2, 12, 4), None, True),
}


class Shaped(nn.Module):
    """Attention on tensors of its own."""

    def __init__(self, query, key, mask=None, grouped=False, scale=0.7):
        super().__init__()
        self.to_q, self.to_k, self.heads = nn.Linear(4, 4), nn.Linear(4, 4), 2
        self.query, self.key = normal(*query), normal(*key, seed=1)
        self.mask = None if mask is None else normal(*mask, seed=2)
        self.grouped, self.scale = grouped, scale

    def forward(self, tokens):
        more = {"enable_gqa": True} if self.grouped else {}
        return F.scaled_dot_product_attention(
            self.query, self.key, self.key, attn_mask=self.mask, scale=self.scale, **more
        )

    def entropies(self):
        key = self.key.repeat_interleave(2, -3) if self.grouped else self.key
        logits = self.query.double() @ key.double().transpose(-1, -2) * float(self.scale)
        return entropy_of(logits if self.mask is None else logits + self.mask)


class ShapedAttention(Shaped):
    pass


class Holder(nn.Module):
    def __init__(self, attn):
        super().__init__()
        self.attn = attn

    def forward(self, hidden_states, timestep):
        return self.attn(hidden_states)


@pytest.mark.parametrize("name", SHAPES)
def test_whatever_shapes_attention_takes(name):
    holder = Holder(ShapedAttention(*SHAPES[name]))
    plain = holder(normal(1, 10, 4), 1)
    with entropylab.record(holder) as rec:
        assert torch.equal(holder(normal(1, 10, 4), 1), plain)
    wanted = holder.attn.entropies().mean(-1)
    wanted = wanted.flatten(0, -2).mean(0) if wanted.ndim > 1 and plain.ndim > 3 else wanted.mean()
    assert np.allclose(rec.dataset.entropy.mean("sample").squeeze().values, wanted, atol=1e-5)


@pytest.mark.parametrize("scale", [torch.tensor(0.3), np.float32(0.3), 0, 1])
def test_scales_that_are_no_floats(scale):
    holder = Holder(ShapedAttention((2, 2, 10, 4), (2, 2, 12, 4), scale=scale))
    with entropylab.record(holder) as rec:
        holder(normal(2, 10, 4), 1)
    assert np.allclose(rec.dataset.entropy.squeeze(), holder.attn.entropies().mean(-1), atol=1e-5)


@pytest.mark.parametrize(("key", "scale", "reason"), [((2, 2, 0, 4), 1.0, "must not be empty"), (None, -1.0, "scale")])
def test_a_call_that_can_not_be_measured_is_named_and_the_model_goes_on(key, scale, reason):
    holder = Holder(ShapedAttention((2, 2, 10, 4), key or (2, 2, 12, 4), scale=scale))
    plain = holder(normal(2, 10, 4), 1)
    with pytest.warns(EntropyLabWarning, match=reason), entropylab.record(holder) as rec:
        assert torch.equal(holder(normal(2, 10, 4), 1), plain)
    assert reason in rec.unmeasured["model.attn"]


# Legacy and sliced processors


class Excite:
    """As Attend-and-Excite has it: keeps the maps of cross-attention, which are made by ``get_attention_scores``."""

    def __init__(self):
        self.maps = []

    def __call__(self, attn: Attention, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(projection(tokens))
            for projection, tokens in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        weights = attn.get_attention_scores(query, key, attention_mask)
        self.maps.append(weights.detach())
        mixed = attn.batch_to_head_dim(torch.bmm(weights, value))
        return attn.to_out[1](attn.to_out[0](mixed))


@pytest.mark.parametrize("processor", [Excite, lambda: SlicedAttnProcessor(3)])
def test_legacy_processors_under_record_and_rescale_at_once(processor):
    pipe = new_random_pipeline(attention_head_dim=(4, 4))
    kinds = ("self", "cross")

    def one_step():
        return sample(pipe, (32, 32), steps=1)

    with entropylab.rescale(pipe, 1.3, kinds=kinds), entropylab.record(pipe) as usual:
        new_way = one_step()
    pipe.unet.set_attn_processor(processor())
    before, plain = state(pipe.unet), one_step()
    with entropylab.record(pipe) as outer, entropylab.rescale(pipe, 1.3, kinds=kinds), entropylab.record(pipe) as inner:
        old_way = one_step()
    assert state(pipe.unet) == before
    assert outer.unmeasured == inner.unmeasured == {}
    assert outer.dataset.equals(inner.dataset)
    np.testing.assert_allclose(outer.dataset.entropy, usual.dataset.entropy, atol=1e-4)
    torch.testing.assert_close(old_way, new_way, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(old_way, plain, atol=1e-3)
    with entropylab.record(pipe) as alone:
        assert torch.equal(one_step(), plain)
    assert float(np.abs(alone.dataset.entropy - usual.dataset.entropy).max()) > 1e-3


def test_the_maps_that_a_processor_keeps_are_those_that_were_measured():
    pipe = new_random_pipeline()
    excite = Excite()
    pipe.unet.set_attn_processor(excite)
    with entropylab.record(pipe) as rec:
        sample(pipe, (32, 32), steps=1)
    maps = [weights.double() for weights in excite.maps]
    heads = {layer.path: layer.heads for layer in entropylab.layers(pipe)}
    for path, weights in zip(rec.dataset.layer.values, maps, strict=True):
        entropy = -torch.special.xlogy(weights, weights).sum(-1).mean(-1).unflatten(0, (2, 2, heads[path]))
        found = rec.dataset.entropy.sel(layer=path).isel(head=slice(heads[path])).squeeze(["size", "scaling", "step"])
        np.testing.assert_allclose(found.transpose("branch", "sample", "head"), entropy, atol=1e-4)


# Backends that hide the call


@pytest.fixture
def hiding(monkeypatch):
    """A backend that computes attention out of sight; whoever calls it is counted."""
    calls = []

    def out_of_sight(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        calls.append(1)
        query, key, value = (side.permute(0, 2, 1, 3) for side in (query, key, value))
        mixed = torch._C._nn.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
        return mixed.permute(0, 2, 1, 3)

    name = AttentionBackendName.XFORMERS
    monkeypatch.setitem(_AttentionBackendRegistry._backends, name, out_of_sight)
    monkeypatch.setitem(_AttentionBackendRegistry._constraints, name, [])
    names = {"query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa"}
    monkeypatch.setitem(_AttentionBackendRegistry._supported_arg_names, name, names)
    return calls


def hide(model, backend=AttentionBackendName.XFORMERS):
    for part in attentions(model):
        if hasattr(part.processor, "_attention_backend"):
            part.processor._attention_backend = backend


@pytest.mark.parametrize("as_text", [False, True])
def test_a_backend_that_hides_is_switched_to_native_and_back(hiding, as_text):
    family = BY_NAME["FLUX.1"]
    pipe, other = family.build(), family.build()
    hide(pipe.transformer, "xformers" if as_text else AttentionBackendName.XFORMERS)
    hide(other.transformer)
    before = state(pipe.transformer, other.transformer)
    with entropylab.record(pipe) as rec:
        family.sample(pipe)
        assert hiding == []
        family.sample(other)
        assert len(hiding) > 0
    assert rec.unmeasured == {}
    assert state(pipe.transformer, other.transformer) == before


def test_a_process_wide_default_that_hides_stays_what_it_is(hiding, monkeypatch):
    monkeypatch.setattr(_AttentionBackendRegistry, "_active_backend", AttentionBackendName.XFORMERS)
    family = BY_NAME["FLUX.1"]
    pipe, other = family.build(), family.build()
    before = state(pipe.transformer, other.transformer)
    with entropylab.record(pipe) as rec:
        assert _AttentionBackendRegistry._active_backend == AttentionBackendName.XFORMERS
        family.sample(pipe)
        assert hiding == []
        family.sample(other)
        assert len(hiding) > 0
    assert rec.unmeasured == {}
    assert state(pipe.transformer, other.transformer) == before
    monkeypatch.undo()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_backends_are_put_back_after_an_exception(hiding, error):
    pipe = BY_NAME["FLUX.1"].build()
    hide(pipe.transformer)
    before = state(pipe.transformer)
    with pytest.raises(error), entropylab.record(pipe), entropylab.rescale(pipe, 1.2, train_size=64):
        raise error("in between")
    assert state(pipe.transformer) == before


def test_who_looks_longest_puts_the_backend_back(hiding):
    family = BY_NAME["FLUX.1"]
    pipe = family.build()
    hide(pipe.transformer)
    before = state(pipe.transformer)
    handle = entropylab.rescale(pipe, 1.2, train_size=64)
    with entropylab.record(pipe) as rec:
        handle.remove()
        family.sample(pipe)
    assert rec.unmeasured == {} and hiding == []
    assert state(pipe.transformer) == before


def test_the_backend_would_hide(hiding):
    """The partner: a backend set after recording began is out of sight, and said to be."""
    family = BY_NAME["FLUX.1"]
    pipe = family.build()
    with pytest.warns(EntropyLabWarning, match="could not be measured"), entropylab.record(pipe) as rec:
        hide(pipe.transformer)
        family.sample(pipe)
    assert len(hiding) > 0
    ran = [layer.path for layer in entropylab.layers(pipe)]
    assert list(rec.unmeasured) == ran


def test_a_legacy_processor_of_a_library_is_an_error(random_pipe):
    from diffusers.models.attention_processor import XFormersAttnProcessor

    path = "mid_block.attentions.0.transformer_blocks.0.attn1"
    random_pipe.unet.get_submodule(path).set_processor(XFormersAttnProcessor())
    before = state(random_pipe.unet)
    for context in (entropylab.record, entropylab.rescale):
        with pytest.raises(EntropyLabError, match=r"mid_block.*XFormersAttnProcessor.*set another processor"):
            with context(random_pipe):
                pytest.fail("nothing may run")
    assert state(random_pipe.unet) == before
    random_pipe.unet.set_default_attn_processor()
    entropylab.rescale(random_pipe, 1.1).remove()


# What was not measured


def test_linear_attention_is_named_as_such():
    family = BY_NAME["Sana"]
    pipe = family.build()
    with pytest.warns(EntropyLabWarning, match="linear attention has no softmax"), entropylab.record(pipe) as rec:
        family.sample(pipe)
    assert rec.unmeasured and all("linear attention has no softmax" in why for why in rec.unmeasured.values())
    listed = json.loads(rec.dataset.attrs["unmeasured"])
    assert [line.split(":")[0] for line in listed] == list(rec.unmeasured)
    ran = {layer.path for layer in entropylab.layers(pipe)}
    assert set(rec.unmeasured) | set(rec.dataset.module.values) == ran
    with pytest.raises(EntropyLabError, match="linear attention") as caught, entropylab.record(pipe, strict=True):
        family.sample(pipe)
    assert caught.value.dataset.drop_attrs().equals(rec.dataset.drop_attrs())


def test_strict_has_no_dataset_if_there_is_none():
    net = net_of(Exponential)
    with pytest.raises(EntropyLabError, match=r"model\.attn") as caught, entropylab.record(net, strict=True):
        run(net)
    assert not hasattr(caught.value, "dataset")


def test_strict_does_not_hide_another_error():
    net = net_of(Exponential)
    with pytest.raises(ZeroDivisionError), entropylab.record(net, strict=True):
        run(net)
        raise ZeroDivisionError


def test_a_forward_that_is_called_past_the_model_is_named():
    net = net_of(OwnAttention)
    with torch.no_grad(), pytest.warns(EntropyLabWarning, match=r"call model\(...\)"), entropylab.record(net) as rec:
        net.forward(normal(2, TOKENS, WIDTH), torch.tensor(2.0))
    assert list(rec.unmeasured) == ["model.attn"]


# Precision


@pytest.mark.usefixtures("quick_flex")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("attn", [OwnAttention, Method, Multihead, Flex])
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


@pytest.mark.usefixtures("quick_flex")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attn", [OwnAttention, Method, Multihead, Flex])
def test_autocast(attn, dtype):
    net = net_of(attn)
    tokens = normal(2, TOKENS, WIDTH)
    with torch.no_grad(), torch.autocast("cpu", dtype):
        plain = net(tokens, torch.tensor(2.0))
        with entropylab.record(net) as rec:
            watched = [net(tokens, torch.tensor(2.0)) for _ in range(2)]
    assert all(torch.equal(plain, one) for one in watched)
    assert agree(rec, net.attn.logits, atol=2e-2)
    assert rec.unmeasured == {}


def test_autocast_leaves_a_softmax_by_hand_exact():
    """What is measured is what the softmax was handed, in half precision, and no statistic is rounded again."""
    net, handed = net_of(Method), []
    net.attn.by_hand = lambda tokens, by_hand=net.attn.by_hand: handed.append(by_hand(tokens)) or handed[-1]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), entropylab.record(net) as rec:
        net(normal(2, TOKENS, WIDTH), torch.tensor(2.0))
    assert handed[0][0].dtype == torch.bfloat16
    assert agree(rec, handed[0][0], atol=1e-5)


# Compiled denoisers


def whole(net):
    return torch.compile(net, backend="eager")


def in_place(net):
    net.compile(backend="eager")
    return net


def by_block(net):
    net.attn = torch.compile(net.attn, backend="eager")
    return net


def by_method(net):
    net.forward = torch.compile(net.forward, backend="eager")
    net.attn.forward = torch.compile(net.attn.forward, backend="eager")
    return net


@pytest.fixture
def dynamo():
    """Dynamo, with nothing compiled before or after."""
    import torch._dynamo

    torch._dynamo.reset()
    yield torch._dynamo
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("how", [whole, in_place, by_block, by_method])
def test_compiled_denoisers(how, dynamo):
    usual = recorded(net_of(OwnAttention))
    net = how(net_of(OwnAttention))
    run(net)
    rec = recorded(net)
    assert rec.unmeasured == {}
    assert rec.dataset.drop_attrs().equals(usual.dataset.drop_attrs())
    with entropylab.rescale(net, 1.5, train_size=8):
        assert not torch.equal(run(net), run(net_of(OwnAttention)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_repeated_blocks_compiled(dynamo):
    family = BY_NAME["FLUX.1"]
    pipe = family.build()
    with entropylab.record(pipe) as usual:
        family.sample(pipe)
    pipe = family.build()
    pipe.transformer.compile_repeated_blocks(backend="eager")
    plain = family.sample(pipe)
    before = state(pipe.transformer)
    with entropylab.record(pipe) as rec:
        assert torch.equal(family.sample(pipe), plain)
    assert state(pipe.transformer) == before
    assert rec.dataset.drop_attrs().equals(usual.dataset.drop_attrs())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_stance_of_the_compiler_is_put_back(dynamo):
    net = in_place(net_of(OwnAttention))
    with torch.compiler.set_stance("eager_on_recompile"):
        before = dynamo.eval_frame._stance
        with entropylab.record(net), entropylab.record(net):
            run(net)
            assert dynamo.eval_frame._stance != before
        assert dynamo.eval_frame._stance == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_other_compiled_parts_stay_compiled(dynamo):
    """A VAE compiled as one graph, say, decodes while somebody records the denoiser."""
    net, counter = net_of(OwnAttention), []

    def counting(graph, inputs):
        counter.append(1)
        return graph.forward

    other = torch.compile(net_of(Method), backend=counting, fullgraph=True)
    another = torch.compile(net_of(OwnAttention), backend=counting, fullgraph=True)
    with entropylab.record(net) as rec:
        run(net)
        assert torch.equal(run(other), run(net_of(Method)))
        assert torch.equal(run(another), run(net_of(OwnAttention)))
    assert len(counter) == 2
    assert rec.dataset.sizes["step"] == 1


# Offloading


@pytest.mark.parametrize("attn", [OwnAttention, Method, Multihead])
def test_offloaded_layer_by_layer(attn):
    """Accelerate gives layers their weights when they run, and no earlier."""
    import accelerate

    usual = recorded(net_of(attn))
    net = net_of(attn)
    accelerate.cpu_offload(net, execution_device="cpu", preload_module_classes=["MultiheadAttention"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EntropyLabWarning)
        rec = recorded(net)
    if rec.unmeasured:
        assert attn is Multihead
    else:
        assert rec.dataset.entropy.equals(usual.dataset.entropy)


def test_offloaded_as_a_whole(random_pipe):
    import accelerate

    with entropylab.record(random_pipe) as usual:
        plain = sample(random_pipe, size=(32, 32), steps=2)
    _, hook = accelerate.cpu_offload_with_hook(random_pipe.unet, execution_device="cpu")
    with entropylab.record(random_pipe) as rec:
        assert torch.equal(sample(random_pipe, size=(32, 32), steps=2), plain)
    assert rec.dataset.entropy.equals(usual.dataset.entropy)
    hook.remove()


# Threads


def in_thread(work):
    """Do ``work`` in a thread, and return what it returns."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.usefixtures("quick_flex")
@pytest.mark.parametrize("attn", [OwnAttention, Method, Multihead, Flex])
def test_a_denoiser_that_runs_in_another_thread(attn):
    usual = recorded(net_of(attn))
    net = net_of(attn)
    with entropylab.record(net) as rec:
        watched = [in_thread(lambda seed=seed: run(net, seed)) for seed in range(3)]
    assert all(torch.equal(one, run(net, seed)) for seed, one in enumerate(watched))
    assert rec.dataset.drop_attrs().equals(usual.dataset.drop_attrs())


def test_a_pipeline_in_another_thread(random_pipe):
    with entropylab.record(random_pipe) as usual:
        plain = sample(random_pipe, size=(32, 32), steps=2)
    with entropylab.record(random_pipe) as rec:
        assert torch.equal(in_thread(lambda: sample(random_pipe, size=(32, 32), steps=2)), plain)
    assert rec.dataset.drop_attrs().equals(usual.dataset.drop_attrs())


def test_two_pipelines_at_once_in_two_threads():
    """Both first forwards, which are followed, run side by side."""
    pipes = [new_random_pipeline(), new_random_pipeline(attention_head_dim=(4, 4))]
    usual, plain = [], []
    for pipe in pipes:
        with entropylab.record(pipe) as rec:
            plain.append(sample(pipe, size=(32, 32), steps=2))
        usual.append(rec.dataset)
        roles.forget(pipe.unet)
    images, start = {}, threading.Barrier(2)

    def work(index):
        start.wait()
        images[index] = sample(pipes[index], size=(32, 32), steps=2)

    with entropylab.record(pipes[0]) as one, entropylab.record(pipes[1]) as two:
        threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index, rec in enumerate((one, two)):
        assert torch.equal(images[index], plain[index])
        assert rec.dataset.drop_attrs().equals(usual[index].drop_attrs())
    assert not one.dataset.drop_attrs().equals(two.dataset.drop_attrs())


# One within another


def test_two_pipelines_recorded_at_once_keep_apart():
    first, second = new_random_pipeline(), new_random_pipeline(attention_head_dim=(4, 4))
    methods = {name: getattr(type(first), name) for name in ("__call__", "prepare_latents")}
    steps = type(first.scheduler).step, type(first.scheduler).set_timesteps
    with ExitStack() as stack:
        one = stack.enter_context(entropylab.record(first))
        two = stack.enter_context(entropylab.record(second))
        sample(first, size=(32, 32), steps=2)
        sample(second, size=(32, 32), steps=1)
    assert {name: getattr(type(first), name) for name in methods} == methods
    assert (type(first.scheduler).step, type(first.scheduler).set_timesteps) == steps
    assert (one.dataset.sizes["step"], two.dataset.sizes["step"]) == (2, 1)
    with materialised(second.unet) as maps:
        sample(second, size=(32, 32), steps=1)
    layer = str(two.dataset.layer.values[0])
    wanted = maps[layer][0][0].mean(-1).numpy()
    np.testing.assert_allclose(two.dataset.entropy.sel(layer=layer).values.reshape(wanted.shape), wanted, atol=1e-4)


def test_record_in_rescale_in_record():
    net = net_of(OwnAttention)
    plain = run(net)
    with entropylab.record(net) as outer:
        with entropylab.rescale(net, 1.5, train_size=8), entropylab.record(net) as inner:
            scaled = run(net)
        logits = net.attn.logits
        again = run(net)
    assert agree(outer, 1.5 * logits, step=0) and agree(inner, 1.5 * logits)
    assert agree(outer, logits, step=1) and not agree(outer, logits, step=0)
    assert torch.equal(plain, again) and not torch.equal(plain, scaled)


def test_contexts_that_end_in_another_order():
    net = net_of(OwnAttention)
    before = state(net)
    first, second = entropylab.record(net), entropylab.record(net)
    one = first.__enter__()
    two = second.__enter__()
    run(net)
    first.__exit__(None, None, None)
    run(net)
    second.__exit__(None, None, None)
    assert (one.dataset.sizes["step"], two.dataset.sizes["step"]) == (1, 2)
    assert state(net) == before


class Joint(nn.Module):
    """A denoiser with a block in the middle, whose attention has text first."""

    class Middle(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = OwnAttention()

        def forward(self, hidden_states, timestep):
            return self.attn(hidden_states)

    def __init__(self):
        super().__init__()
        self.one, self.middle, self.two = OwnAttention(), self.Middle(), OwnAttention()

    def forward(self, hidden_states, timestep, encoder_hidden_states):
        both = torch.cat([encoder_hidden_states, hidden_states], 1)
        return self.two(self.middle(self.one(both), timestep))[:, encoder_hidden_states.shape[1] :]


def run_joint(net):
    with torch.no_grad():
        return net(normal(2, TOKENS, WIDTH), torch.tensor(2.0), encoder_hidden_states=normal(2, TEXT, WIDTH, seed=1))


def new_joint():
    torch.manual_seed(0)
    return Joint().eval()


@pytest.mark.parametrize("inside_first", [False, True])
def test_a_model_and_a_block_of_it_at_once(inside_first):
    """Neither loses what tokens stand for, and nothing goes on following."""
    net = new_joint()
    plain = run_joint(net)
    with entropylab.record(net) as usual:
        run_joint(net)
    roles.forget(net)
    with ExitStack() as stack:
        contexts = [entropylab.record(net.middle), entropylab.record(net)]
        recorders = [stack.enter_context(context) for context in (contexts if inside_first else contexts[::-1])]
        assert torch.equal(run_joint(net), plain)
        assert torch._C._len_torch_function_stack() == 0
        assert running() is None
    inner, outer = recorders if inside_first else recorders[::-1]
    assert outer.dataset.drop_attrs().equals(usual.dataset.drop_attrs())
    middle = usual.dataset.entropy.sel(layer=[name for name in usual.dataset.layer.values if "middle" in name])
    np.testing.assert_array_equal(inner.dataset.entropy, middle)


# Interrupted in the middle of a first forward, while it is followed


class JointMultihead(Joint):
    class Middle(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

        def forward(self, hidden_states, timestep):
            return self.attn(hidden_states, hidden_states, hidden_states, need_weights=False)[0] + hidden_states


def stop_in_layer(net, error, monkeypatch):
    stop_once(net.two.to_k, "forward", error, monkeypatch)


def stop_in_multihead(net, error, monkeypatch):
    stop_once(torch, "_native_multi_head_attention", error, monkeypatch)


def stop_in_attention(net, error, monkeypatch):
    stop_once(torch.nn.functional, "scaled_dot_product_attention", error, monkeypatch)


def stop_once(owner, name, error, monkeypatch):
    """Let a function fail at its first call."""
    original, armed = getattr(owner, name), [True]

    def failing(*args, **more):
        if armed:
            armed.clear()
            raise error("stop")
        return original(*args, **more)

    monkeypatch.setattr(owner, name, failing)


INTERRUPTIONS = [
    (stop_in_layer, RuntimeError, True),
    (stop_in_layer, KeyboardInterrupt, True),
    (stop_in_layer, KeyboardInterrupt, False),
    (stop_in_multihead, RuntimeError, True),
    (stop_in_multihead, KeyboardInterrupt, True),
    (stop_in_multihead, KeyboardInterrupt, False),
    (stop_in_attention, KeyboardInterrupt, True),
]


@pytest.mark.parametrize(("stop", "error", "caught_inside"), INTERRUPTIONS)
def test_a_first_forward_that_is_interrupted(stop, error, caught_inside, monkeypatch):
    torch.manual_seed(0)
    net = JointMultihead().eval()
    with entropylab.record(net) as usual:
        plain = run_joint(net)
    roles.forget(net)
    with monkeypatch.context() as patch:
        stop(net, error, patch)
        before = state(net)
        with ExitStack() as stack:
            if caught_inside:
                rec = stack.enter_context(entropylab.record(net))
                with pytest.raises(error):
                    run_joint(net)
            else:
                with pytest.raises(error), entropylab.record(net):
                    run_joint(net)
                assert state(net) == before
                rec = stack.enter_context(entropylab.record(net))
            images = [run_joint(net) for _ in range(2)]
        assert state(net) == before
    assert all(torch.equal(one, plain) for one in images)
    assert rec.dataset.sizes["step"] == 2
    for step in range(2):
        found = rec.dataset.isel(step=step).drop_attrs()
        assert found.equals(usual.dataset.isel(step=0).drop_attrs().assign_coords(step=step))


def test_an_interrupted_pipeline_can_be_recorded_again(random_pipe, monkeypatch):
    with entropylab.record(random_pipe) as usual:
        plain = sample(random_pipe, size=(32, 32), steps=2)
    roles.forget(random_pipe.unet)
    block = random_pipe.unet.up_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q
    before = state(random_pipe.unet)
    with entropylab.record(random_pipe) as rec:
        with monkeypatch.context() as patch:
            stop_once(block, "forward", KeyboardInterrupt, patch)
            with pytest.raises(KeyboardInterrupt):
                sample(random_pipe, size=(32, 32), steps=2)
        assert torch._C._len_torch_function_stack() == 0
        assert torch.equal(sample(random_pipe, size=(32, 32), steps=2), plain)
    assert state(random_pipe.unet) == before
    assert rec.dataset.drop_attrs().equals(usual.dataset.drop_attrs())


# Following must write nothing


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


def into_several(net, image, text):
    found = [torch.zeros_like(image), torch.zeros_like(text)]
    torch._foreach_add_(found, [image, text])
    return found


def averaged(net, image, text):
    return tuple(net.averages(tokens.transpose(1, 2)).transpose(1, 2) for tokens in (image, text))


def drawn(net, image, text):
    return torch.normal(image, 0.1), text


def dropped(net, image, text):
    return net.dropout(image), net.dropout(text)


def leaking(net, image, text):
    return F.rrelu(image, training=True), text


def looked_up(net, image, text):
    places = (image.clamp(-2, 2) * 10 + 20).long()[..., 0]
    return image + normal(50, WIDTH)[places], text


@pytest.mark.parametrize("grads", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize(
    "mix",
    [into_out, into_a_part, into_several, averaged, drawn, dropped, leaking, looked_up],
    ids=lambda mix: mix.__name__,
)
def test_a_followed_forward_writes_and_draws_what_it_would(mix, grads):
    """Values are followed by computing twice: what is written to, averaged or drawn must be so once."""
    image, text = normal(2, TOKENS, WIDTH), normal(2, TEXT, WIDTH, seed=1)

    def twice(net):
        torch.manual_seed(1)
        with grads():
            return [net(image.clone(), torch.tensor(2.0), text.clone()) for _ in range(2)]

    torch.manual_seed(0)
    net, other = Mixing(mix).train(), Mixing(mix).train()
    other.load_state_dict(net.state_dict())
    plain = twice(other)
    with entropylab.record(net) as rec:
        watched = twice(net)
    assert all(torch.equal(one, two) for one, two in zip(plain, watched, strict=True))
    for name, weight in other.state_dict().items():
        assert torch.equal(weight, net.state_dict()[name]), name
    assert rec.unmeasured == {}
    if mix not in (dropped, drawn, leaking) and not (mix is into_a_part and grads is torch.inference_mode):
        assert set(rec.dataset.part.values) == {"image", "text"}


def test_a_trace_would_write_twice():
    """The partner: run twice in earnest, a function that averages is found out."""
    torch.manual_seed(0)
    net, other = Mixing(averaged).train(), Mixing(averaged).train()
    other.load_state_dict(net.state_dict())
    arguments = normal(2, TOKENS, WIDTH), torch.tensor(2.0), normal(2, TEXT, WIDTH, seed=1)
    net(*arguments)
    other(*arguments)
    other(*arguments)
    assert not torch.equal(net.averages.running_mean, other.averages.running_mean)


# What is put back


@pytest.mark.usefixtures("quick_flex")
@pytest.mark.parametrize("attn", [OwnAttention, Method, Multihead, Flex])
@pytest.mark.parametrize("context", [entropylab.record, lambda net: entropylab.rescale(net, 1.1, train_size=8)])
def test_everything_is_put_back(attn, context):
    net = net_of(attn)
    before = state(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EntropyLabWarning)
        with context(net):
            run(net)
            assert state(net) != before
    assert state(net) == before


def test_methods_of_pipeline_and_scheduler_are_put_back(random_pipe):
    sample(random_pipe, steps=1)
    classes = [type(random_pipe), type(random_pipe.scheduler)]
    before = [dict(vars(own)) for own in classes], sorted(vars(random_pipe)), sorted(vars(random_pipe.scheduler))
    with entropylab.record(random_pipe), entropylab.rescale(random_pipe, 1.1):
        assert [dict(vars(own)) for own in classes] != before[0]
        sample(random_pipe, steps=1)
    after = [dict(vars(own)) for own in classes], sorted(vars(random_pipe)), sorted(vars(random_pipe.scheduler))
    assert after == before


# What layers() says beforehand

LISTED = [
    "Stable Diffusion 1",
    "Kandinsky 2.2",
    "Stable Cascade prior",
    "PixArt-alpha",
    "Hunyuan-DiT",
    "Lumina-Next",
    "Wan 2.1",
    "LTX",
    "Stable Diffusion 3",
    "FLUX.1",
    "Qwen-Image",
    "Z-Image",
    "CogVideoX",
    "Mochi",
]


@pytest.mark.parametrize("name", LISTED)
def test_layers_are_known_before_sampling(name):
    family = BY_NAME[name]
    pipe = family.build()
    listed = {layer.path: layer for layer in entropylab.layers(pipe)}
    with entropylab.record(pipe) as rec:
        family.sample(pipe)
    ds = rec.dataset
    assert set(ds.module.values) <= set(listed)
    for layer in ds.layer.values:
        known = (
            ds.entropy.sel(layer=layer).notnull().any([dim for dim in ds.entropy.dims if dim not in ("head", "layer")])
        )
        assert listed[str(ds.module.sel(layer=layer).item())].heads == int(known.sum()), layer


def test_layers_say_what_they_attend_to_and_by_whom(random_pipe):
    random_pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.set_processor(AttnProcessor())
    listed = entropylab.layers(random_pipe)
    with entropylab.record(random_pipe) as rec:
        sample(random_pipe, steps=1)
    assert [layer.path for layer in listed] == sorted(rec.dataset.module.values, key=[x.path for x in listed].index)
    assert {layer.path: layer.kind for layer in listed} == dict(
        zip(rec.dataset.module.values, rec.dataset.kind.values, strict=True)
    )
    assert [layer.path for layer in listed if layer.processor == "AttnProcessor"] == [
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1"
    ]
