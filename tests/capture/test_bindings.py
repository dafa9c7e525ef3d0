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
from entropylab import EntropyLabWarning

from ..attention import together
from ..seeds import normal
from . import imported
from .nets import WIDTH, OwnAttention, agree, check, net_of, recorded, run, usual
from .test_transformers import made

ORIGINAL = F.scaled_dot_product_attention


class Attending(OwnAttention):
    """Attends by ``attended``; here as every module should, below by other names."""

    def __init__(self):
        super().__init__(lambda *sides: self.attended(*sides))

    def attended(self, query, key, value):
        return F.scaled_dot_product_attention(query, key, value)


class Imported(Attending):
    def attended(self, query, key, value):
        return scaled_dot_product_attention(query, key, value)


class FromHelper(Attending):
    def attended(self, query, key, value):
        return imported.attended(query, key, value)


class OfClass(Attending):
    attended = F.scaled_dot_product_attention


class Static(Attending):
    attended = staticmethod(F.scaled_dot_product_attention)


class OfInstance(Attending):
    def __init__(self):
        super().__init__()
        self.attended = F.scaled_dot_product_attention


class Default(Attending):
    def attended(self, query, key, value, attend=F.scaled_dot_product_attention):
        return attend(query, key, value)


class KeywordDefault(Attending):
    def attended(self, query, key, value, *, scale=None, attend=F.scaled_dot_product_attention):
        return attend(query, key, value, scale=scale)


def closing_over(attend):
    return lambda *sides: attend(*sides)


class Closure(Attending):
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


WAYS = [Imported, FromHelper, OfClass, Static, OfInstance, Default, KeywordDefault, Closure, ByProcessor]


class Chain(nn.Module):
    def __init__(self, kinds):
        super().__init__()
        self.layers = nn.ModuleList(kind() for kind in kinds)

    def forward(self, tokens):
        for layer in self.layers:
            tokens = tokens + layer(tokens)
        return tokens


def names_of_sdpa(net):
    """What is bound where, by all the ways of this file."""
    of_instance, closure = (net.attn.layers[WAYS.index(kind)].attended for kind in (OfInstance, Closure))
    yield from (scaled_dot_product_attention, imported.attend, vars(OfClass)["attended"], Static.attended)
    yield from (of_instance, *Default.attended.__defaults__, KeywordDefault.attended.__kwdefaults__["attend"])
    yield closure.__closure__[0].cell_contents.__closure__[0].cell_contents


def test_sdpa_under_other_names_is_measured_and_rescaled_as_under_its_own():
    own, net = net_of(Chain, [Attending] * len(WAYS)), net_of(Chain, WAYS)
    rec = recorded(net, strict=True)
    for index, layer in enumerate(net.attn.layers):
        assert agree(rec, layer.logits, index) and not agree(rec, layer.logits * 1.02, index), WAYS[index]
    with entropylab.rescale(own, 1.5, train_size=8):
        wanted = run(own)
    with pytest.raises(KeyboardInterrupt), entropylab.rescale(net, 1.5, train_size=8), entropylab.record(net) as rec:
        assert torch.equal(run(net), wanted)
        raise KeyboardInterrupt
    assert all(agree(rec, layer.logits * 1.5, index) for index, layer in enumerate(net.attn.layers))
    assert torch.equal(run(net), run(own)) and not torch.equal(run(net), wanted)
    assert all(each is ORIGINAL for each in names_of_sdpa(net))


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
    assert beside.dataset.sizes["step"] == 2, "what another model calls is not measured"
    assert not torch.equal(scaled, run(net))
    assert scaled_dot_product_attention is ORIGINAL


def test_a_name_that_was_bound_before_somebody_replaced_sdpa_is_seen_once(monkeypatch):
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *args, **more: ORIGINAL(*args, **more) * 1.0)
    check(net_of(Imported))
    check(net_of(usual))


def test_a_name_that_has_led_to_sdpa_only_since_the_last_recording_is_seen(monkeypatch):
    net = net_of(FromHelper)
    monkeypatch.setattr(imported, "attend", lambda query, key, value: value)
    with pytest.warns(entropylab.EntropyLabWarning, match="could not be measured"), entropylab.record(net) as rec:
        run(net)
    assert list(rec.unmeasured) == ["model.attn"]
    monkeypatch.setattr(imported, "attend", ORIGINAL)
    check(net)
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


compiled_flex = torch.compile(flex_attention)


class Mixer(nn.Module):
    """Attends by a table, in a module that does not look like attention."""

    def __init__(self):
        super().__init__()
        self.inner, self.ways = nn.Linear(WIDTH, WIDTH), {"sdpa": F.scaled_dot_product_attention}

    def forward(self, tokens):
        side = self.inner(tokens)[:, None]
        return self.ways["sdpa"](side, side, side)[:, 0]


def test_sdpa_by_a_name_that_is_out_of_reach_is_named_in_every_recording():
    """Its first forward, which is followed, finds it; another one that begins within knows it from that."""
    net = net_of(usual)
    net.proj = Mixer()
    plain = run(net)
    for _ in range(2):
        with pytest.warns(EntropyLabWarning, match="model.proj"), entropylab.record(net) as rec:
            assert torch.equal(run(net), plain)
            with entropylab.record(net) as within:
                run(net)
        assert set(rec.unmeasured) == set(within.unmeasured) == {"model.proj"} and list(rec.dataset.layer) == [
            "model.attn"
        ]
    net.proj.ways = {"sdpa": lambda *sides: F.scaled_dot_product_attention(*sides)}
    recorded(net, strict=True)


@pytest.mark.parametrize("way", [lambda *sides: flex_attention(*sides), lambda *sides: compiled_flex(*sides)])
def test_flex_attention_that_was_imported_or_compiled_is_measured_and_rescaled(way):
    net = net_of(way)
    with entropylab.rescale(net, 1.5, train_size=8), entropylab.record(net, strict=True) as rec:
        run(net)
    assert agree(rec, net.attn.logits * 1.5)
    assert flex_attention is flex.flex_attention


def test_flex_attention_of_transformers_is_measured_and_leaves_no_compiled_copy_of_ours():
    from transformers.integrations import flex_attention as theirs

    found, turned = [], (torch.ones(1, 11, 8), torch.zeros(1, 11, 8))
    for implementation in ("flex_attention", "eager"):
        layer = made("llama", implementation).layers[0].self_attn
        with torch.no_grad(), entropylab.record(layer, strict=True) as rec:
            layer(normal(2, 11, 32), position_embeddings=turned, attention_mask=None)
        found.append(rec.dataset)
    np.testing.assert_allclose(found[0].entropy, found[1].entropy, atol=1e-5)
    assert theirs.flex_attention is flex.flex_attention
    assert theirs.WrappedFlexAttention._instance is None
