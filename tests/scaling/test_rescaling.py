"""The scaling factor: its values, that it really changes what the model computes, and only there."""

import gc
import math

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

import entropylab
from entropylab import EntropyLabError
from entropylab.pipelines import tokens_at
from entropylab.scaling import RULES
from entropylab.scaling.rules import sqrt_log

from ..attention import PlainAttention
from ..sampling import sample
from ..state import state_of_pipeline


def test_sqrt_log_is_the_papers_formula():
    assert sqrt_log(4096, 4096) == 1
    assert sqrt_log(1024, 4096) == pytest.approx((math.log(1024) / math.log(4096)) ** 0.5)
    assert sqrt_log(1024, 4096) < 1 < sqrt_log(9216, 4096)
    assert sqrt_log(1024, 4096) != pytest.approx((math.log(4096) / 1024) ** 0.5)


def test_published_temperatures():
    factor = {name: rule(4096, 1024) for name, rule in RULES.items()}
    assert factor["original"] == 1
    assert factor["scalable_softmax"] == pytest.approx(math.log(4096) / math.log(1024))
    assert factor["proportional"] == factor["sqrt_log"] == pytest.approx(factor["scalable_softmax"] ** 0.5)
    assert factor["yarn"] == pytest.approx((0.1 * math.log(4) + 1) ** 2)
    assert factor["yarn"] != pytest.approx(0.1 * math.log(4) + 1), "both queries and keys are multiplied"
    assert RULES["yarn"](256, 1024) == 1 > RULES["scalable_softmax"](256, 1024)
    assert all(rule(1024, 1024) == 1 for rule in RULES.values())


def test_one_call_compares_all_rules(random_pipe):
    options = {"prompts": ["a red car"], "steps": 1, "layers": "self", "keep": ("layer",), "progress": False}
    ds = entropylab.measure(random_pipe, [64, 96], scaling=tuple(RULES), **options)
    assert ds.scaling.values.tolist() == list(RULES)
    moved = (ds.entropy - ds.entropy.sel(scaling="original")).sel(size="96x96").mean("layer")
    moved = {name: float(moved.sel(scaling=name)) for name in RULES}
    assert moved["original"] == 0 > moved["sqrt_log"] == moved["proportional"] > moved["scalable_softmax"]
    assert moved["yarn"] < moved["sqrt_log"], "0.1 ln s + 1, squared, is more at N = 2.25 T"
    assert float(abs(ds.entropy - ds.entropy.sel(scaling="original")).sel(size="64x64").max()) == 0
    for name in ("scalable_softmax", "proportional"):
        with pytest.raises(EntropyLabError, match=f"rule '{name}' fails for .*: it needs at least 2 tokens"):
            entropylab.measure(random_pipe, [8], scaling=name, **options)


def test_multipliers_are_those_last_used_when_sizes_come_again(random_pipe):
    found = []
    with entropylab.rescale(random_pipe) as handle:
        for size in (96, 128, 96):
            sample(random_pipe, (size, size), steps=1)
            found.append(handle.multipliers)
    assert found[0] == found[2] != found[1]


def test_a_rule_that_sees_the_timestep(random_pipe):
    """It is asked once a layer and step, others once a layer."""
    seen = []

    def fading(tokens, train_tokens, *, timestep):
        seen.append(timestep)
        return 1 + 0.5 * timestep / 1000

    random_pipe.scheduler.set_timesteps(3)
    times = random_pipe.scheduler.timesteps.tolist()
    with entropylab.record(random_pipe, layers="self") as plain:
        sample(random_pipe)
    with entropylab.rescale(random_pipe, fading) as handle, entropylab.record(random_pipe, layers="self") as rec:
        seen.clear()  # it was tried beforehand
        sample(random_pipe)
    assert [float(time) for time in seen] == [time for time in times for _ in range(7)]
    assert all(time.ndim == 0 for time in seen)
    assert list(handle.multipliers.values()) == pytest.approx([1 + 0.5 * times[-1] / 1000] * 7)
    first = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    ratio = (rec.dataset.sigma2.values / plain.dataset.sigma2.values)[0, 0, :, :, 0, 0, :2]
    torch.testing.assert_close(torch.tensor(ratio), torch.full(ratio.shape, (1 + 0.5 * times[0] / 1000) ** 2))
    assert rec.dataset.multiplier.sel(layer=first).isnull().all(), "it changed meanwhile"
    counted = []
    with entropylab.rescale(random_pipe, lambda n, t: counted.append(n) or 1.1):
        counted.clear()
        sample(random_pipe)
    assert len(counted) == 7


def test_a_rule_that_asks_for_a_timestep_where_there_is_none():
    class Timeless(PlainAttention):
        def forward(self, sample):
            return super().forward(sample.flatten(2).mT)

    layer = Timeless(16)
    with pytest.raises(EntropyLabError, match="it asks for the timestep, and the denoiser was handed none"):
        with entropylab.rescale(layer, lambda n, t, timestep: 1.0, train_size=8):
            layer(torch.randn(1, 16, 4, 4))


def test_training_tokens_of_sizes_that_are_not_square_or_do_not_divide_evenly():
    assert [tokens_at(n, (36, 64), (64, 64)) for n in (2304, 576, 144, 40)] == [4096, 1024, 256, 64]
    assert [tokens_at(n, (27, 45), (64, 64)) for n in (27 * 45, 14 * 23, 7 * 12, 4 * 6)] == [4096, 1024, 256, 64]
    assert tokens_at(5 * 144, (36, 64), (64, 64)) == 5 * 256, "five frames"
    assert tokens_at(1000, (36, 64), (64, 65)) is None


def test_every_self_attention_layer_gets_its_own_factor(random_pipe):
    handle = entropylab.rescale(random_pipe)
    with entropylab.record(random_pipe) as rec:
        sample(random_pipe, (40, 72), steps=1)
    handle.remove()
    ds = rec.dataset
    for layer in ds.layer.values:
        tokens, trained = float(ds.tokens.sel(layer=layer)[0]), float(ds.train_tokens.sel(layer=layer))
        if ds.kind.sel(layer=layer) == "self":
            assert trained in (256, 64)
            assert handle.multipliers[layer] == pytest.approx(math.sqrt(math.log(tokens) / math.log(trained)))
        else:
            assert layer not in handle.multipliers


def by_head(tokens, train_tokens):
    return torch.tensor([1.0, 2.0] if train_tokens == 256 else [1.0, 2.0, 1.5, 0.5])


@pytest.mark.parametrize(("rule", "ratios"), [(2.0, [4.0, 4.0]), (by_head, [1.0, 4.0])])
def test_what_is_measured_is_what_the_model_then_uses(random_pipe, rule, ratios):
    """A multiplier of 2 gives sigma^2 times 4 in the first layer, whichever context was entered first."""
    first = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    with entropylab.record(random_pipe) as plain:
        sample(random_pipe, steps=1)
    with entropylab.rescale(random_pipe, rule), entropylab.record(random_pipe) as inner:
        sample(random_pipe, steps=1)
    with entropylab.record(random_pipe) as outer, entropylab.rescale(random_pipe, rule):
        sample(random_pipe, steps=1)
    before, *after = (rec.dataset.sigma2.sel(layer=first).isel(scaling=0, drop=True) for rec in (plain, inner, outer))
    for changed in after:
        ratio = (changed / before).isel(head=slice(2)).mean([dim for dim in before.dims if dim != "head"])
        assert ratio.values == pytest.approx(ratios, rel=1e-4)


def test_identity_at_the_training_size_and_change_elsewhere(random_pipe):
    for size, same in (((64, 64), True), ((32, 32), False), ((96, 96), False)):
        plain = sample(random_pipe, size)
        with entropylab.rescale(random_pipe):
            changed = sample(random_pipe, size)
        assert torch.equal(plain, changed) is same
        assert torch.equal(plain, sample(random_pipe, size))


@pytest.mark.parametrize("rule", ["sqrt_log", by_head])
@pytest.mark.parametrize("prepare", ["fused", "legacy", "sliced"])
def test_output_changes_with_every_processor_and_equally(random_pipe, prepare, rule):
    with entropylab.rescale(random_pipe, rule):
        usual = sample(random_pipe, (96, 96), steps=1)
    if prepare == "fused":
        random_pipe.unet.fuse_qkv_projections()
    elif prepare == "legacy":
        random_pipe.unet.set_attn_processor(AttnProcessor())
    else:
        random_pipe.unet.set_attention_slice(1 if rule is by_head else "auto")
    plain = sample(random_pipe, (96, 96), steps=1)
    with entropylab.rescale(random_pipe, rule), entropylab.record(random_pipe):
        changed = sample(random_pipe, (96, 96), steps=1)
    assert (plain - changed).abs().max() > 1e-4
    torch.testing.assert_close(changed, usual, atol=1e-4, rtol=1e-4)


def test_cross_attention_only_when_asked(random_pipe):
    handle = entropylab.rescale(random_pipe, 1.5, kinds=("cross",))
    sample(random_pipe, steps=1)
    handle.remove()
    assert {path.rsplit(".", 1)[1] for path in handle.multipliers} == {"attn2"}


def test_a_rule_of_ones_own_by_name(random_pipe, monkeypatch):
    monkeypatch.setitem(RULES, "mine", lambda tokens, train_tokens: tokens / train_tokens)
    handle = entropylab.rescale(random_pipe, "mine")
    sample(random_pipe, (32, 32), steps=1)
    handle.remove()
    assert set(handle.multipliers.values()) == {0.25}


def test_a_handle_that_nobody_keeps_goes_on(random_pipe):
    plain = sample(random_pipe)
    entropylab.rescale(random_pipe, 2.0)
    gc.collect()
    assert not torch.equal(plain, sample(random_pipe))
    from entropylab.scaling.rescaling import handles

    for handle in list(handles):
        handle.remove()
    assert torch.equal(plain, sample(random_pipe))


def test_removed_twice_and_after_an_exception(random_pipe):
    before = state_of_pipeline(random_pipe)
    handle = entropylab.rescale(random_pipe)
    handle.remove()
    handle.remove()
    with pytest.raises(ZeroDivisionError), entropylab.rescale(random_pipe):
        _ = 1 / 0
    with entropylab.rescale(random_pipe), pytest.raises(EntropyLabError, match="rescaled already"):
        entropylab.rescale(random_pipe)
    assert state_of_pipeline(random_pipe) == before


def test_a_rule_that_finds_nothing_to_rescale_says_so(random_pipe):
    with pytest.warns(UserWarning, match="rescaled nothing: no layer of kind"):
        with entropylab.rescale(random_pipe, 2.0, kinds="joint"):
            sample(random_pipe, steps=1)


def test_a_layer_of_one_token(random_pipe):
    with pytest.raises(EntropyLabError, match="with N = 1, T = 64: it needs at least 2 tokens"):
        with entropylab.rescale(random_pipe):
            sample(random_pipe, (8, 8), steps=1)


def test_a_denoiser_that_does_not_say_its_training_size(random_pipe):
    random_pipe.unet.register_to_config(sample_size=None)
    with pytest.raises(EntropyLabError, match="pass train_size="):
        entropylab.rescale(random_pipe)
    with entropylab.rescale(random_pipe, train_size=64):
        changed = sample(random_pipe, (96, 96))
    with entropylab.rescale(random_pipe, train_size=(96, 96)):
        assert not torch.equal(changed, sample(random_pipe, (96, 96)))


def test_every_self_attention_layer_of_the_embedded_pipeline_moves_the_right_way(embedded):
    """Entropy rises where N < T and falls where N > T; the broken partner is the inverse factor."""
    options = {"samples": 2, "steps": 4, "layers": "self", "progress": False}
    ds = entropylab.measure(embedded, [32, 96], scaling=("original", "sqrt_log", inverse), **options)
    means = ds.entropy.mean(("branch", "sample", "step", "head"))
    moved = means - means.sel(scaling="original")
    assert bool((moved.sel(scaling="sqrt_log", size="32x32") > 0).all())
    assert bool((moved.sel(scaling="sqrt_log", size="96x96") < 0).all())
    assert bool((moved.sel(scaling="inverse").mean("layer") * moved.sel(scaling="sqrt_log").mean("layer") < 0).all())


def inverse(tokens, train_tokens):
    return 1 / sqrt_log(tokens, train_tokens)


def two(tokens):
    return 1.1


def fails(tokens, train_tokens):
    raise KeyError("no such layer")


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("sqrt_log", {"kinds": ("slef",)}, "kinds must be some of self, cross, joint, temporal"),
        ("sqrt_log", {"train_size": "64"}, "must be an int or a .height, width. pair"),
        ("sqrt-log", {}, "scaling must be one of original, sqrt_log"),
        (0, {}, "finite multiplier > 0"),
        (float("inf"), {}, "finite multiplier > 0"),
        ([1.0], {}, "scaling must be one of.*Got list"),
        (None, {}, "scaling must be one of.*Got NoneType"),
        (two, {}, "callable .N, T. -> multiplier. Got 'two', which fails with N = 256, T = 256: TypeError"),
        (fails, {}, "Got 'fails', which fails with N = 256, T = 256: KeyError"),
        ("mine", {}, "rule 'mine' must give a finite multiplier > 0"),
        (lambda n, t: -1, {}, "must give a finite multiplier > 0"),
        (lambda n, t: "two", {}, "must give a finite multiplier > 0"),
    ],
)
def test_bad_rules_are_refused_before_any_sampling(random_pipe, monkeypatch, rule, options, message):
    monkeypatch.setattr(random_pipe.unet, "forward", None)
    monkeypatch.setitem(RULES, "mine", lambda n, t: float("nan"))
    before = state_of_pipeline(random_pipe)
    with pytest.raises(EntropyLabError, match=message):
        entropylab.rescale(random_pipe, rule, **options)
    assert state_of_pipeline(random_pipe) == before


def test_rules_that_are_called_otherwise(random_pipe):
    class Power:
        def __call__(self, tokens, train_tokens, power=0.5):
            if train_tokens < 64 or tokens == 64:
                raise ValueError("not for so few")
            return (tokens / train_tokens) ** power

    def any_number(*counts):
        return counts[0] / counts[1]

    for rule in (Power(), any_number, math.hypot):
        with entropylab.rescale(random_pipe, rule) as handle:
            sample(random_pipe, (96, 96), steps=1)
        assert min(handle.multipliers.values()) > 1


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda n, t: {256: 1.0}[n], "fails for layer unet.* with N = 576, T = 256: KeyError"),
        (lambda n, t: torch.ones(7), "one multiplier per head: layer .* has 2 heads. Got 7"),
    ],
)
def test_a_rule_that_fails_while_sampling_is_named_with_its_layer(random_pipe, rule, message):
    with pytest.raises(EntropyLabError, match=message), entropylab.rescale(random_pipe, rule):
        sample(random_pipe, (96, 96), steps=1)
