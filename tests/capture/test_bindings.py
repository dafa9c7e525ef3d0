"""Attention functions under other names than PyTorch's: imported, held by classes, instances, functions, closures."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import flex_attention as flex
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

import entropylab

from ..attention import together
from ..seeds import normal
from . import imported
from .nets import OwnAttention, agree, net_of, recorded, run
from .test_transformers import made

ORIGINAL = F.scaled_dot_product_attention


class Usual(OwnAttention):
    """Attends by ``attended``; here as every module should, below by other names."""

    def forward(self, tokens):
        return together(self.attended(*self.sides(tokens)))

    def attended(self, query, key, value):
        return F.scaled_dot_product_attention(query, key, value)


class Imported(Usual):
    def attended(self, query, key, value):
        return scaled_dot_product_attention(query, key, value)


class FromHelper(Usual):
    def attended(self, query, key, value):
        return imported.attended(query, key, value)


class OfClass(Usual):
    attended = F.scaled_dot_product_attention


class Static(Usual):
    attended = staticmethod(F.scaled_dot_product_attention)


class OfInstance(Usual):
    def __init__(self):
        super().__init__()
        self.attended = F.scaled_dot_product_attention


class Default(Usual):
    def attended(self, query, key, value, attend=F.scaled_dot_product_attention):
        return attend(query, key, value)


class KeywordDefault(Usual):
    def attended(self, query, key, value, *, scale=None, attend=F.scaled_dot_product_attention):
        return attend(query, key, value, scale=scale)


def closing_over(attend):
    def attended(*sides):
        return attend(*sides)

    return attended


class Closure(Usual):
    def __init__(self):
        super().__init__()
        self.attended = closing_over(closing_over(F.scaled_dot_product_attention))


class ByProcessor(OwnAttention):
    class Processor:
        def __call__(self, attn, tokens):
            return together(scaled_dot_product_attention(*attn.sides(tokens)))

    def __init__(self):
        super().__init__()
        self.processor = self.Processor()

    def forward(self, tokens):
        return self.processor(self, tokens)


WAYS = [
    Imported, FromHelper, OfClass, Static, OfInstance, Default, KeywordDefault, Closure, ByProcessor
]  # fmt: skip


def names_of_sdpa(net):
    """What is bound where, by all the ways of this file."""
    part = net.attn
    return (
        scaled_dot_product_attention,
        imported.attend,
        vars(OfClass)["attended"],
        Static.attended,
        Default.attended.__defaults__,
        dict(KeywordDefault.attended.__kwdefaults__),
        dict(vars(part)).get("attended"),
        closing_over(ORIGINAL).__closure__[0].cell_contents,
    )


@pytest.mark.parametrize("attn", WAYS)
def test_sdpa_under_another_name_is_measured_and_rescaled_as_under_its_own(attn):
    usual, net = net_of(Usual), net_of(attn)
    before = names_of_sdpa(net)
    rec = recorded(net, strict=True, forwards=1)
    assert agree(rec, net.attn.logits)
    assert not agree(rec, net.attn.logits * 1.01)
    with entropylab.rescale(usual, 1.5, train_size=8):
        wanted = run(usual)
    with pytest.raises(KeyboardInterrupt), entropylab.rescale(net, 1.5, train_size=8), entropylab.record(net) as rec:
        assert torch.equal(run(net), wanted)
        raise KeyboardInterrupt
    assert agree(rec, net.attn.logits * 1.5)
    assert torch.equal(run(net), run(usual))
    assert not torch.equal(run(net), wanted)
    assert all(one is other or one == other for one, other in zip(before, names_of_sdpa(net), strict=True))


@pytest.mark.parametrize("attn", [Imported, Closure])
def test_a_recording_that_ends_leaves_another_its_names(attn):
    net, other = net_of(attn), net_of(attn)
    outer = entropylab.rescale(net, 1.5, train_size=8)
    with entropylab.record(net) as rec:
        run(net)
    scaled = run(net)
    with entropylab.record(other) as beside:
        outer.remove()
        run(other)
        assert torch.equal(run(net), run(other))
    assert agree(rec, net.attn.logits * 1.5) and agree(beside, other.attn.logits)
    assert not torch.equal(scaled, run(net))
    assert scaled_dot_product_attention is ORIGINAL


def test_a_name_that_was_bound_before_somebody_replaced_sdpa_is_seen_once(monkeypatch):
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *args, **more: ORIGINAL(*args, **more) * 1.0)
    for attn in (Imported, Usual):
        rec = recorded(net := net_of(attn), strict=True)
        assert list(rec.dataset.layer.values) == ["model.attn"]
        assert agree(rec, net.attn.logits)


def test_a_name_that_has_led_to_sdpa_only_since_the_last_recording_is_seen(monkeypatch):
    net = net_of(FromHelper)
    monkeypatch.setattr(imported, "attend", lambda query, key, value: value)
    with pytest.warns(entropylab.EntropyLabWarning, match="could not be measured"), entropylab.record(net) as rec:
        run(net)
    assert list(rec.unmeasured) == ["model.attn"]
    monkeypatch.setattr(imported, "attend", ORIGINAL)
    assert agree(recorded(net, strict=True), net.attn.logits)
    assert imported.attend is ORIGINAL


def of_sdpa():
    """What leads to it as a compiled function does."""

    def attend(*sides):
        return attend._torchdynamo_orig_callable(*sides)

    attend._torchdynamo_orig_callable = ORIGINAL
    return attend


def test_a_name_that_leads_to_sdpa_by_a_function_where_a_freed_one_lay_is_seen(monkeypatch):
    """Python gives the memory of a function, and with it its id, to the next one."""
    net = net_of(FromHelper)
    monkeypatch.setattr(imported, "attend", lambda query, key, value: value)
    with pytest.warns(entropylab.EntropyLabWarning, match="could not be measured"), entropylab.record(net):
        run(net)
    freed, kept = id(imported.attend), []
    imported.attend = None
    while id(imported.attend) != freed and len(kept) < 100:
        kept.append(imported.attend)
        imported.attend = of_sdpa()
    assert id(imported.attend) == freed, "this test shows nothing"
    assert agree(recorded(net, strict=True), net.attn.logits)


class OwnFlex(OwnAttention):
    def forward(self, tokens):
        return together(flex_attention(*self.sides(tokens)))


compiled_flex = torch.compile(flex_attention)


class CompiledFlex(OwnAttention):
    def forward(self, tokens):
        return together(compiled_flex(*self.sides(tokens)))


@pytest.mark.usefixtures("quick_flex")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("attn", [OwnFlex, CompiledFlex])
def test_flex_attention_that_was_imported_or_compiled_is_measured_and_rescaled(attn):
    net = net_of(attn)
    with entropylab.rescale(net, 1.5, train_size=8), entropylab.record(net, strict=True) as rec:
        run(net)
    assert agree(rec, net.attn.logits * 1.5)
    assert flex_attention is flex.flex_attention


class OfTransformers(nn.Module):
    """A layer of transformers on its own, where nothing is masked."""

    def __init__(self, implementation):
        super().__init__()
        self.layer = made("llama", implementation).layers[0].self_attn

    def forward(self, tokens):
        turned = torch.ones(1, tokens.shape[1], 8), torch.zeros(1, tokens.shape[1], 8)
        return self.layer(tokens, position_embeddings=turned, attention_mask=None)[0]


@pytest.mark.usefixtures("quick_flex")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_flex_attention_of_transformers_is_measured_and_leaves_no_compiled_copy_of_ours():
    from transformers.integrations import flex_attention as theirs

    found = []
    for implementation in ("flex_attention", "eager"):
        model = OfTransformers(implementation)
        with torch.no_grad(), entropylab.record(model, strict=True) as rec:
            model(normal(2, 11, 32))
        found.append(rec.dataset.drop_attrs())
    np.testing.assert_allclose(found[0].entropy, found[1].entropy, atol=1e-5)
    assert theirs.flex_attention is flex.flex_attention
    assert theirs.WrappedFlexAttention._instance is None


def test_what_another_model_calls_is_not_measured():
    net, other = net_of(Imported), net_of(Imported)
    with entropylab.record(net) as rec:
        run(net)
        run(other)
    assert rec.dataset.sizes["step"] == 1
