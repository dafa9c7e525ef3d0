"""The scaling factor: its values, that it really changes what the model computes, and only there; and what is told."""

import gc
import math

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

import entropylab
from entropylab import EntropyLabError
from entropylab.law.drift import drift
from entropylab.pipelines import tokens_at
from entropylab.scaling import RULES

from ..attention import PlainAttention
from ..sampling import sample
from ..state import state_of_pipeline

FIRST = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1"
SAMPLING = {"samples": 1, "steps": 1, "prompts": ["a red car"], "layers": "self", "progress": False}
SAMPLING |= {"guidance_scale": 1.0}


def test_the_rules_are_the_published_ones():
    factor = {name: rule(4096, 1024) for name, rule in RULES.items()}
    assert factor["original"] == 1
    assert factor["scalable_softmax"] == pytest.approx(math.log(4096) / math.log(1024))
    assert factor["proportional"] == factor["sqrt_log"] == pytest.approx(factor["scalable_softmax"] ** 0.5)
    assert factor["sqrt_log"] != pytest.approx((math.log(4096) / 1024) ** 0.5)
    assert factor["yarn"] == pytest.approx((0.1 * math.log(4) + 1) ** 2)
    assert factor["yarn"] != pytest.approx(0.1 * math.log(4) + 1), "both queries and keys are multiplied"
    assert RULES["yarn"](256, 1024) == 1 > RULES["sqrt_log"](256, 1024) > RULES["scalable_softmax"](256, 1024)
    assert all(rule(1024, 1024) == 1 for rule in RULES.values())


def inverse(tokens, train_tokens):
    return 1 / RULES["sqrt_log"](tokens, train_tokens)


def test_one_call_compares_all_rules(random_pipe):
    """Entropy of every layer rises where N < T and falls where N > T; the broken partner is the inverse factor."""
    ds = entropylab.measure(random_pipe, [32, 64, 80], scaling=(*RULES, 1.0, np.float32(1.5), inverse), **SAMPLING)
    assert ds.scaling.values.tolist() == [*RULES, "1", "1.5", "inverse"]
    expected = np.sqrt(np.log(ds.tokens) / np.log(ds.train_tokens))
    np.testing.assert_allclose(ds.multiplier.sel(scaling="sqrt_log"), expected)
    np.testing.assert_array_equal(ds.multiplier.sel(scaling="original"), 1.0)
    moved = (ds.entropy - ds.entropy.sel(scaling="original")).mean(("branch", "sample", "step", "head"))
    assert float(abs(moved.sel(scaling="1")).max()) == 0 < float(abs(moved.sel(scaling="1.5")).min())
    assert float(abs(moved.sel(size="64x64", scaling=[*RULES, "inverse"])).max()) == 0
    assert bool((moved.sel(scaling="sqrt_log", size="32x32") > 0).all())
    assert bool((moved.sel(scaling="sqrt_log", size="80x80") < 0).all())
    assert bool((moved.sel(scaling="inverse").mean("layer") * moved.sel(scaling="sqrt_log").mean("layer") <= 0).all())
    larger = moved.sel(size="80x80").mean("layer")
    larger = {name: float(larger.sel(scaling=name)) for name in RULES}
    assert larger["original"] == 0 > larger["sqrt_log"] == larger["proportional"] > larger["scalable_softmax"]
    assert larger["yarn"] < larger["sqrt_log"], "0.1 ln s + 1, squared, is more at N = 1.56 T"
    for name in ("sqrt_log", "scalable_softmax", "proportional"):
        with pytest.raises(EntropyLabError, match=rf"rule '{name}' fails for .* N = 1, T = 64: it needs at least 2"):
            entropylab.measure(random_pipe, [8], scaling=name, **SAMPLING)


def test_training_tokens_of_sizes_that_are_not_square_or_do_not_divide_evenly():
    assert [tokens_at(n, (36, 64), (64, 64)) for n in (2304, 576, 144, 40)] == [4096, 1024, 256, 64]
    assert [tokens_at(n, (27, 45), (64, 64)) for n in (27 * 45, 14 * 23, 7 * 12, 4 * 6)] == [4096, 1024, 256, 64]
    assert tokens_at(5 * 144, (36, 64), (64, 64)) == 5 * 256, "five frames"
    assert tokens_at(1000, (36, 64), (64, 65)) is None


def test_every_self_attention_layer_has_a_factor_of_its_own_and_a_record_tells_it(random_pipe):
    """Of the last size; at the training size nothing changes."""
    with entropylab.record(random_pipe) as rec:
        plain = sample(random_pipe, (40, 72), steps=1), sample(random_pipe, steps=1)
        with entropylab.rescale(random_pipe) as handle:
            for size in ((96, 96), (40, 72)):
                changed = sample(random_pipe, size, steps=1)
            factors = handle.multipliers
            same = sample(random_pipe, steps=1)
    assert torch.equal(plain[1], same) and not torch.equal(plain[0], changed)
    ds = rec.dataset.sel(size="40x72")
    wanted = np.sqrt(np.log(ds.tokens) / np.log(ds.train_tokens)).where(ds.kind == "self", 1.0)
    np.testing.assert_allclose([factors.get(layer, 1.0) for layer in ds.layer.values], wanted)
    assert len(factors) == 7 and max(factors.values()) < 1
    assert list(ds.scaling.values) == ["original", "sqrt_log"]
    np.testing.assert_array_equal(ds.multiplier.sel(scaling="original"), 1.0)
    np.testing.assert_allclose(ds.multiplier.sel(scaling="sqrt_log"), wanted)


def by_head(tokens, train_tokens):
    return torch.tensor([1.0, 2.0] if train_tokens == 256 else [1.0, 2.0, 1.5, 0.5])


@pytest.mark.parametrize(("rule", "ratios"), [(2.0, [4.0, 4.0]), (by_head, [1.0, 4.0])])
def test_what_is_measured_is_what_the_model_then_uses(random_pipe, rule, ratios):
    """A multiplier of 2 gives sigma^2 times 4 in the first layer, whichever context was entered first."""
    options = {"size": (32, 32), "steps": 1}
    with entropylab.record(random_pipe) as plain:
        sample(random_pipe, **options)
    with entropylab.rescale(random_pipe, rule), entropylab.record(random_pipe) as inner:
        sample(random_pipe, **options)
    with entropylab.record(random_pipe) as outer, entropylab.rescale(random_pipe, rule):
        sample(random_pipe, **options)
    before, *after = (rec.dataset.sel(layer=FIRST).isel(scaling=0, drop=True) for rec in (plain, inner, outer))
    for changed in after:
        ratio = (changed.sigma2 / before.sigma2).isel(head=slice(2)).mean(["size", "branch", "sample", "step"])
        assert ratio.values == pytest.approx(ratios, rel=1e-4)
        assert float(changed.multiplier.mean()) == (2 if rule == 2 else 1.5), "one factor per head is averaged"


@pytest.mark.parametrize("prepare", ["fused", "legacy", "sliced"])
def test_output_changes_with_every_processor_and_equally(random_pipe, prepare):
    rules = ("sqrt_log", by_head)
    usual = [rescaled(random_pipe, rule) for rule in rules]
    if prepare == "fused":
        random_pipe.unet.fuse_qkv_projections()
    elif prepare == "legacy":
        random_pipe.unet.set_attn_processor(AttnProcessor())
    else:
        random_pipe.unet.set_attention_slice(1)
    plain = sample(random_pipe, (32, 48), steps=1)
    for rule, wanted in zip(rules, usual, strict=True):
        changed = rescaled(random_pipe, rule)
        assert (plain - changed).abs().max() > 1e-4
        torch.testing.assert_close(changed, wanted, atol=1e-5, rtol=1e-5)


def rescaled(pipe, rule):
    with entropylab.rescale(pipe, rule), entropylab.record(pipe, layers="self"):
        return sample(pipe, (32, 48), steps=1)


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
    ratio = (rec.dataset.sigma2.values / plain.dataset.sigma2.values)[0, 0, :, :, 0, 0, :2]
    torch.testing.assert_close(torch.tensor(ratio), torch.full(ratio.shape, (1 + 0.5 * times[0] / 1000) ** 2))
    assert rec.dataset.multiplier.sel(layer=FIRST).isnull().all(), "it changed meanwhile"
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


def test_rules_and_kinds_of_ones_own(random_pipe, monkeypatch):
    class Power:
        def __call__(self, tokens, train_tokens, power=0.5):
            if train_tokens < 64 or tokens == 64:
                raise ValueError("not for so few")
            return (tokens / train_tokens) ** power

    def any_number(*counts):
        return counts[0] / counts[1]

    monkeypatch.setitem(RULES, "mine", any_number)
    for rule in (Power(), any_number, math.hypot, "mine", 1.5):
        kinds = "cross" if rule == 1.5 else "self"
        with entropylab.rescale(random_pipe, rule, kinds=kinds) as handle:
            sample(random_pipe, (96, 96), steps=1)
        assert min(handle.multipliers.values()) > 1
        assert {path[-5:] for path in handle.multipliers} == {"attn1" if kinds == "self" else "attn2"}
    assert set(handle.multipliers.values()) == {1.5}


def test_handles(random_pipe):
    """One that nobody keeps goes on; one may be removed twice, after an exception it is; there is one at a time."""
    before, plain = state_of_pipeline(random_pipe), sample(random_pipe, steps=1)
    handle = entropylab.rescale(random_pipe)
    handle.remove()
    handle.remove()
    with pytest.raises(ZeroDivisionError), entropylab.rescale(random_pipe):
        _ = 1 / 0
    with entropylab.rescale(random_pipe), pytest.raises(EntropyLabError, match="rescaled already"):
        entropylab.rescale(random_pipe)
    assert state_of_pipeline(random_pipe) == before
    entropylab.rescale(random_pipe, 2.0)
    gc.collect()
    assert not torch.equal(plain, sample(random_pipe, steps=1))
    for each in [each for each in gc.get_objects() if isinstance(each, entropylab.rescale)]:
        each.remove()
    assert state_of_pipeline(random_pipe) == before


def test_a_rule_that_finds_nothing_to_rescale_says_so(random_pipe):
    with pytest.warns(UserWarning, match="rescaled nothing: no layer of kind"):
        with entropylab.rescale(random_pipe, 2.0, kinds="joint"):
            sample(random_pipe, (32, 32), steps=1)


def test_a_denoiser_that_does_not_say_its_training_size(random_pipe):
    random_pipe.unet.register_to_config(sample_size=None)
    with pytest.raises(EntropyLabError, match="pass train_size="):
        entropylab.rescale(random_pipe)
    plain = sample(random_pipe, (96, 96), steps=1)
    for size, same in ((64, False), ((96, 96), True)):
        with entropylab.rescale(random_pipe, train_size=size):
            assert torch.equal(plain, sample(random_pipe, (96, 96), steps=1)) is same


def original(tokens, train_tokens):
    return 1.25


BAD = [
    ("sqrt_log", {"kinds": ("slef",)}, "kinds must be some of self, cross, joint, temporal"),
    ("sqrt_log", {"train_size": "64"}, "must be an int or a .height, width. pair"),
    ("sqrt-log", {}, "scaling must be one of original, sqrt_log"),
    (0, {}, "finite multiplier > 0"),
    (float("inf"), {}, "finite multiplier > 0"),
    ([1.0], {}, "scaling must be one of.*Got list"),
    (None, {}, "scaling must be one of.*Got NoneType"),
    (lambda n: 1.1, {}, "callable .N, T. -> multiplier. Got '<lambda>', which fails with N = 256, T = 256: TypeError"),
    (lambda n, t: {}[n], {}, "Got '<lambda>', which fails with N = 256, T = 256: KeyError"),
    (original, {}, "function must have a name of its own.*'original'"),
    ("mine", {}, "rule 'mine' must give a finite multiplier > 0"),
    (lambda n, t: "two", {}, "must give a finite multiplier > 0"),
]
FAILING = [
    (lambda n, t: {256: 1.0}[n], "fails for layer unet.* with N = 64, T = 256: KeyError"),
    (lambda n, t: torch.ones(7), "one multiplier per head: layer .* has 2 heads. Got 7"),
]


def test_bad_rules_are_refused_before_any_sampling_or_named_with_their_layer(random_pipe, monkeypatch):
    monkeypatch.setitem(RULES, "mine", lambda n, t: float("nan"))
    before = state_of_pipeline(random_pipe)
    for rule, options, message in BAD:
        with pytest.raises(EntropyLabError, match=message):
            entropylab.rescale(random_pipe, rule, **options)
    for rule, message in FAILING:
        with pytest.raises(EntropyLabError, match=message), entropylab.rescale(random_pipe, rule):
            sample(random_pipe, (32, 32), steps=1)
    assert state_of_pipeline(random_pipe) == before


def half(tokens, train_tokens):
    return 0.5


def test_measure_inside_a_rescaling_carries_its_rule(random_pipe):
    """And is what measure does itself; that does not rescale what is rescaled."""
    for rule, name in ((half, "half"), ("sqrt_log", "sqrt_log")):
        own = entropylab.measure(random_pipe, [64, 80], scaling=rule, **SAMPLING)
        with entropylab.rescale(random_pipe, rule):
            inside = entropylab.measure(random_pipe, [64, 80], **SAMPLING)
            for scaling in (1.25, ("original", "sqrt_log")):
                with pytest.raises(EntropyLabError, match=f"rescaled already, by '{name}'.*scaling='original'"):
                    entropylab.measure(random_pipe, [64, 80], scaling=scaling, **SAMPLING)
        assert own.scaling.values.tolist() == inside.scaling.values.tolist() == [name]
        np.testing.assert_array_equal(inside.entropy, own.entropy)
        np.testing.assert_array_equal(inside.multiplier, own.multiplier)
        with pytest.raises(EntropyLabError, match="measured under scaling .original."):
            drift(inside)
    again = entropylab.measure(random_pipe, [64, 80], **SAMPLING)
    assert again.scaling.values.tolist() == ["original"]
    assert not np.array_equal(again.entropy, own.entropy)


def test_a_run_does_not_go_on_under_another_rescaling(random_pipe, tmp_path):
    """Whether it differs in its name or in more than that."""
    options = SAMPLING | {"out": tmp_path / "run", "layers": "*mid_block*attn1"}
    with entropylab.rescale(random_pipe, train_size=64):
        first, again = (entropylab.measure(random_pipe, [64], **options) for _ in range(2))
    assert first.scaling.values.tolist() == again.scaling.values.tolist() == ["sqrt_log"]
    others = [(1.25, {}), (half, {}), ("sqrt_log", {"train_size": 32}), ("sqrt_log", {"kinds": ("self", "cross")})]
    for rule, more in others:
        with entropylab.rescale(random_pipe, rule, **more):
            with pytest.raises(EntropyLabError, match="another configuration"):
                entropylab.measure(random_pipe, [64], **options)
    with pytest.raises(EntropyLabError, match="another configuration"):
        entropylab.measure(random_pipe, [64], **options)
    entropylab.measure(random_pipe, [64], scaling="sqrt_log", **options)  # the same as the first


def test_whatever_rescales_is_told(random_pipe, tmp_path):
    """A call that does, a rule that begins within a run, and a part that is rescaled by itself."""

    def call(pipe, size, prompts, generators):
        with entropylab.rescale(pipe, 1.25):
            return sample(pipe, size, prompts=prompts, steps=1)

    options = {"samples": 1, "prompts": ["a red car"], "layers": "self", "progress": False, "call": call}
    ds = entropylab.measure(random_pipe, [32], **options)
    assert ds.scaling.values.tolist() == ["1.25"]
    np.testing.assert_allclose(ds.multiplier, 1.25)
    with pytest.raises(EntropyLabError, match="sampled under '1.25'"):
        entropylab.measure(random_pipe, [32], out=tmp_path / "run", **options)

    def begin(pipe, step, timestep, tensors):
        if step == 0:
            handles.append(entropylab.rescale(pipe, 1.25))
        return tensors

    handles = []
    with entropylab.record(random_pipe, layers="self") as rec:
        sample(random_pipe, (32, 32), steps=2, callback_on_step_end=begin)
        handles[0].remove()
    assert rec.dataset.scaling.values.tolist() == ["original, then 1.25"]
    assert rec.dataset.multiplier.isnull().all()
    for part, rule in ((random_pipe.unet, 1.25), (random_pipe.unet.mid_block, 1.5)):
        with entropylab.rescale(part, rule), entropylab.record(random_pipe) as rec:
            sample(random_pipe, (32, 32), steps=1)
        assert rec.dataset.scaling.values.tolist() == [str(rule)]
