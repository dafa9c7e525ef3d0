"""Calibration restores the training-size entropy, layer by layer and head by head."""

import json
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from torch import nn

import entropylab
from entropylab import Calibration, EntropyLabError, EntropyLabWarning
from entropylab.law.theory import local_slope, one_size_multiplier

from .attention import PlainAttention, together
from .conftest import new_random_pipeline
from .datasets import synthetic
from .maps import entropy_of, every_map
from .sampling import sample
from .seeds import generators

SAMPLING = {"prompts": ["a red car", "a blue house"], "steps": 1, "guidance_scale": 1.0, "progress": False}
SMALLEST, LARGEST = 0.1, 10


@pytest.fixture(scope="module")
def pipe():
    return new_random_pipeline()


@pytest.fixture(scope="module")
def calibration(pipe):
    return entropylab.calibrate(pipe, [(96, 80), 128], tolerance=1e-3, **SAMPLING)


def test_drift_is_gone_at_larger_sizes(pipe, calibration):
    rules = ("original", "sqrt_log", calibration.invariant, calibration.predicted, calibration.calibrated)
    keep = ("layer", "head")
    ds = entropylab.measure(pipe, [64, (96, 80), 128], scaling=rules, layers="self", keep=keep, **SAMPLING)
    drift = abs(ds.entropy - ds.entropy.sel(size="64x64", scaling="original")).mean(("layer", "head"))
    np.testing.assert_allclose(drift.sel(size="64x64"), 0, atol=1e-5)
    left = (drift / drift.sel(scaling="original")).drop_sel(size="64x64")
    left = {name: left.sel(scaling=name) for name in ds.scaling.values}
    assert bool((left["calibrated"] < 0.05).all())
    assert bool((left["predicted"] < 0.4).all())
    assert bool((left["invariant"] < left["sqrt_log"]).all())
    assert bool((left["sqrt_log"] > 0.4).all() and (left["sqrt_log"] < 1).all())
    assert float(calibration.dataset.calibrated.min()) > 1
    held_out = calibration.dataset.held_out
    assert held_out.dims == ("rule", "size")
    assert bool((held_out.sel(rule="calibrated") > 0.8).all())
    assert bool((held_out.sel(rule="predicted") > held_out.sel(rule="invariant")).all())


def test_smaller_sizes_and_entropy_that_is_out_of_reach_there(pipe):
    ds = entropylab.calibrate(pipe, [48, 16], iterations=2, held_out=False, **SAMPLING).dataset
    assert float(ds.calibrated.min()) >= SMALLEST and float(ds.calibrated.sel(size="48x48").max()) < 1
    ds = ds.sel(size=["16x16"])
    expected = (ds.target < np.log(ds.tokens)).transpose(*ds.reachable.dims)
    np.testing.assert_array_equal(ds.reachable, expected)
    assert not bool(ds.reachable.where(ds.target.notnull(), True).all())
    beyond = ds.target.notnull() & ~ds.reachable.astype(bool)
    own = ds.target * np.log(ds.tokens) / np.log(ds.train_tokens)
    np.testing.assert_allclose(ds.aim.where(beyond), own.where(beyond).transpose(*ds.aim.dims))
    assert float(ds.calibrated.where(beyond).min()) > SMALLEST, "no head sits at the bound"


def test_invariant_is_second_order(calibration):
    ds = calibration.dataset.sel(size="128x128")
    expected = np.sqrt(1 + 2 * np.log(ds.tokens / ds.train_tokens) / ds.sigma2)
    np.testing.assert_allclose(ds.invariant, expected.clip(SMALLEST, LARGEST), rtol=1e-6)


def test_between_sizes_the_multiplier_is_in_between(calibration):
    layer = str(calibration.dataset.layer.values[0])
    factor = calibration.calibrated.function.factor
    factors = torch.stack([factor(layer, count, 256) for count in (256, 300, 480, 700, 1024)])
    assert torch.equal(factors[0], torch.ones_like(factors[0]))
    assert bool((factors.diff(dim=0) > 0).all())
    middle = (math.log(300) - math.log(256)) / (math.log(480) - math.log(256))
    torch.testing.assert_close(factors[1].log(), middle * factors[2].log())
    with pytest.raises(EntropyLabError, match="it has no layer 'unet.two', but 7 layers such as unet"):
        factor("unet.two", 64, 64)


def test_sizes_with_as_many_tokens_share_their_mean_multiplier():
    """In whatever order; at the training size it is 1."""
    ds = xr.Dataset(
        {"calibrated": (("size", "layer", "head"), [[[1.2]], [[3.0]], [[1.5]], [[2.0]]])},
        {
            "layer": ["t"], "height": ("size", [48, 16, 24, 48]), "width": ("size", [24, 36, 48, 48]),
            "tokens": (("size", "layer"), [[32.0], [16.0], [32.0], [64.0]]), "train_tokens": ("layer", [16.0]),
        },
        {"trained": "[24, 24]"},
    )  # fmt: skip
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        factor = Calibration(ds.isel(size=order)).calibrated.function.factor
        found = [factor("t", tokens, 16).item() for tokens in (16, 32, 64)]
        assert found == pytest.approx([1, (1.2 * 1.5) ** 0.5, 2])


def test_frames_have_multipliers_by_the_pictures_area():
    """Of which there are as many at every size."""
    ds = xr.Dataset(
        {"calibrated": (("size", "layer", "head"), [[[2.0]]])},
        {
            "layer": ["t"], "height": ("size", [64]), "width": ("size", [64]), "tokens": (("size", "layer"), [[16.0]]),
            "train_tokens": ("layer", [16.0]),
        },
        {"trained": "[32, 32]"},
    )  # fmt: skip
    factor = Calibration(ds).calibrated.function.factor
    assert factor("t", 16, 16, growth=4.0).item() == pytest.approx(2)
    assert factor("t", 16, 16, growth=2.0).item() == pytest.approx(2**0.5)
    with pytest.raises(EntropyLabError, match="covers 16 to 64 .* Got 144"):
        factor("t", 16, 16, growth=9.0)


def test_saved_and_opened(calibration, tmp_path):
    calibration.save(tmp_path / "calibration.nc")
    again = Calibration.open(tmp_path / "calibration.nc")
    assert again.dataset.equals(calibration.dataset)
    assert "Calibration of" in repr(again)
    entropylab.save(synthetic(samples=1, steps=1), tmp_path / "run.nc")
    with pytest.raises(EntropyLabError, match="holds no calibration"):
        Calibration.open(tmp_path / "run.nc")


def test_it_knows_which_weights_it_is_of(calibration):
    """In any precision."""
    for dtype in (torch.float16, torch.bfloat16):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            entropylab.rescale(new_random_pipeline().to(dtype=dtype), calibration.calibrated).remove()
    other = new_random_pipeline()
    with torch.no_grad():
        for weight in other.unet.mid_block.parameters():
            weight.copy_(torch.randn_like(weight))
    with pytest.warns(EntropyLabWarning, match="of other weights: 2 of .* layers differ, as unet.mid_block"):
        entropylab.rescale(other, calibration.calibrated).remove()


def test_bad_input(pipe, calibration):
    with pytest.raises(EntropyLabError, match="scaling 'calibrated' needs a calibration: .*entropylab.calibrate"):
        entropylab.rescale(pipe, "calibrated")
    with pytest.raises(EntropyLabError, match="covers 256 to 1024 tokens of layer .* Got 64"):
        with entropylab.rescale(pipe, calibration.calibrated):
            sample(pipe, (32, 32), steps=1)
    for options, said in (({"tolerance": "small"}, r"a positive number \[nats\]"), ({"iterations": 0}, "an int >= 1")):
        with pytest.raises(EntropyLabError, match=f"{next(iter(options))} must be {said}. Got"):
            entropylab.calibrate(pipe, [32], **options)


class Layer(PlainAttention):
    """Attention that is sharp, masked or causal, as its name says; "lower" has the mask that causal attention is."""

    def __init__(self, name):
        super().__init__(16)
        masks = {"masked": BIAS, "lower": LOWER}
        self.sharpness, self.is_causal = (10 if "sharp" in name else 3), "causal" in name
        self.mask = next((mask for part, mask in masks.items() if part in name), None)

    def forward(self, tokens):
        mask = self.mask if self.mask is None else self.mask[: tokens.shape[1], : tokens.shape[1]].to(tokens.dtype)
        sides = self.sides(self.sharpness * tokens)
        return together(F.scaled_dot_product_attention(*sides, mask, is_causal=self.is_causal))


BIAS = 3 * torch.rand(64, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
LOWER = torch.full((64, 64), -torch.inf).triu(1)


class Mixed(nn.Module):
    """Layers that look alike before they run: among the image's tokens, and jointly with the text's, by name."""

    def __init__(self, names):
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(sample_size=4)
        self.before, self.after = nn.Linear(4, 16), nn.Linear(16, 4)
        self.layers = nn.ModuleDict({name: Layer(name) for name in names})

    def forward(self, sample, timestep, encoder_hidden_states):
        tokens = self.before(sample.flatten(2).mT)
        for name, layer in self.layers.items():
            if name.startswith("joint"):
                tokens = tokens + layer(torch.cat([tokens, encoder_hidden_states], 1))[:, : tokens.shape[1]]
            elif name.startswith("self"):
                tokens = tokens + layer(tokens)
        return self.after(tokens).mT.unflatten(-1, sample.shape[-2:])


class MixedPipe:
    """Samples in ``steps`` steps, and counts the forwards of its denoiser."""

    vae_scale_factor, default_sample_size, name_or_path = 8, 4, "mixed"

    def __init__(self, *names, dtype=torch.float32):
        self.unet, self.forwards = Mixed(names).eval().to(dtype), 0
        self.components, self.config = {"unet": self.unet}, SimpleNamespace(sample_size=4)
        self.words = 5

    @torch.no_grad()
    def __call__(self, prompt, height, width, generator, num_inference_steps=3, output_type=""):
        sample = torch.cat([torch.randn(1, 4, height // 8, width // 8, generator=each) for each in generator])
        text = torch.ones(len(sample), self.words, 16) * torch.arange(16).cos()
        sample, text = sample.to(self.unet.before.weight.dtype), text.to(self.unet.before.weight.dtype)
        for step in range(num_inference_steps):
            self.forwards += 1
            sample = sample - self.unet(sample, torch.tensor(float(step)), text) / num_inference_steps
        return sample


FEW = {"prompts": ["a red car", "a blue house"], "steps": 3, "progress": False}


def test_layers_that_turn_out_to_be_joint_keep_their_scale(tmp_path):
    pipe = MixedPipe("self_1", "joint_1", "self_2", "never")
    with pytest.warns(UserWarning, match=r"2 layers keep their scale.*joint_1 \(joint\).*never \(not measured\)"):
        calibration = entropylab.calibrate(pipe, [64], tolerance=1e-4, kinds="self", **FEW)
    ds = calibration.dataset
    assert ds.layer.values.tolist() == ["unet.layers.self_1", "unet.layers.self_2"]
    plain = entropylab.measure(pipe, [64], layers="self", keep=("layer", "head"), **FEW).entropy.squeeze(drop=True)
    assert float(abs(ds.entropy - ds.target).mean()) < 0.5 * float(abs(plain - ds.target).mean())
    with entropylab.rescale(pipe, calibration.calibrated) as handle:
        pipe("", 64, 64, generators(1))
    assert "unet.layers.joint_1" not in handle.multipliers
    assert handle.multipliers["unet.layers.self_1"] != 1
    other = MixedPipe("self_1", "joint_1", "self_3", "never")
    calibration.save(tmp_path / "calibration.nc")
    again = Calibration.open(tmp_path / "calibration.nc")
    entropylab.rescale(pipe, again.invariant).remove()
    with pytest.raises(EntropyLabError, match=r"of another model.*self_3"):
        entropylab.rescale(other, again.calibrated)


def test_joint_layers_keep_the_entropy_of_their_image_rows():
    pipe = MixedPipe("self_1", "joint_1")
    calibration = entropylab.calibrate(pipe, [64], tolerance=1e-4, iterations=8, held_out=False, **FEW)
    ds = calibration.dataset
    assert ds.kind.values.tolist() == ["self", "joint"] and json.loads(ds.attrs["uncalibrated"]) == []
    assert (ds.growing == ds.train_tokens - [0, 5]).all(), "five tokens are text"
    rules = ("original", calibration.calibrated)
    found = entropylab.measure(pipe, [64], scaling=rules, keep=("layer", "head"), **FEW)
    image = found.entropy.isel(size=0, layer=found.part.isin(["all", "image"]).values)
    left = abs(image.drop_vars("layer") - ds.target.drop_vars("layer")).mean(("layer", "head"))
    assert float(left.sel(scaling="calibrated")) < 0.05 * float(left.sel(scaling="original"))


def test_the_size_counts_and_not_how_long_a_prompt_is():
    pipe = MixedPipe("self_1", "joint_1")
    calibration = entropylab.calibrate(pipe, [64], iterations=1, held_out=False, **FEW)

    def multiplier(rule, side, words):
        pipe.words = words
        with entropylab.rescale(pipe, rule) as handle:
            pipe("", side, side, generators(1))
        return handle.multipliers["unet.layers.joint_1"]

    for rule in (calibration.calibrated, calibration.invariant, calibration.predicted):
        assert multiplier(rule, 32, 3) == multiplier(rule, 32, 9) == 1, "the training size"
        assert multiplier(rule, 48, 9) != 1
        found = [multiplier(rule, 64, words) for words in (3, 5, 9)]
        assert found == [found[0]] * 3 and found[0] != 1
    assert multiplier("sqrt_log", 64, 9) != multiplier("sqrt_log", 64, 5)


def test_its_training_size_is_kept():
    """Where the pipeline says another one."""
    pipe = MixedPipe("self_1")
    calibration = entropylab.calibrate(pipe, [64], train_size=48, iterations=1, held_out=False, **FEW)
    for rule in (calibration.calibrated, calibration.predicted):
        for side, is_one in ((48, True), (64, False)):
            with entropylab.rescale(pipe, rule) as handle:
                pipe("", side, side, generators(1))
            assert (handle.multipliers["unet.layers.self_1"] == 1) == is_one
        forwards, another = pipe.forwards, r"train_size of rule .* is \(48, 48\), of its calibration. Got 32"
        with pytest.raises(EntropyLabError, match=another):
            entropylab.rescale(pipe, rule, train_size=32)
        with pytest.raises(EntropyLabError, match=another):
            entropylab.measure(pipe, [64], scaling=("original", rule), train_size=32, **FEW)
        assert pipe.forwards == forwards, "before any work"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_how_entropy_answers_is_that_of_whole_maps(dtype):
    """To the scale, which is not of what a mask adds, and to image keys; half precision is not rounded once more."""
    pipe = MixedPipe("self_1", "self_masked", "joint_1", "self_sharp", dtype=dtype)
    with every_map({"unet": pipe.unet}) as seen:
        pipe(FEW["prompts"], 32, 32, generators(2))
    calibration = entropylab.calibrate(pipe, [64], iterations=1, held_out=False, **FEW)
    ds = calibration.dataset
    assert (ds.response.diff("multiplier") <= 0).all()
    for layer, calls in seen.items():
        logits = torch.cat(calls).transpose(0, 1)[:, :, :16].log()  # head, image and step, row, key
        bias = BIAS[:16, :16].double() if "masked" in layer else torch.zeros(logits.shape[-1])
        wanted = [entropy_of(m * (logits - bias) + bias).mean((1, 2)) for m in ds.multiplier.values]
        ours = ds.response.sel(layer=layer).transpose("multiplier", "head")
        np.testing.assert_allclose(ours, torch.stack(wanted), atol=3e-3)
        np.testing.assert_allclose(ours[::2], torch.stack(wanted)[::2], atol=2e-5)
        assert "masked" not in layer or abs(entropy_of(10 * logits).mean((1, 2)) - wanted[-1]).max() > 0.01
        if "sharp" in layer:
            continue  # without its one key a row has none whose weight float64 holds
        keys = torch.arange(logits.shape[-1])
        falls = [(entropy_of(logits) - entropy_of(logits[..., keys != key])).mean((1, 2)) for key in keys]
        slope = ds.slope.sel(layer=layer)
        np.testing.assert_allclose(slope, sum(falls[:16]), atol=1e-4)
        assert "joint" not in layer or abs(slope.values - sum(falls).numpy()).max() > 1e-3, "text does not grow"
    rows = torch.cat(seen["unet.layers.self_1"]).transpose(0, 1).flatten(1, 2).log().numpy()
    factor = calibration.predicted.function.factor
    np.testing.assert_allclose(ds.slope.sel(layer="unet.layers.self_1"), local_slope(rows).mean(-1), atol=1e-4)
    for tokens in (12, 64):
        wanted = one_size_multiplier(rows, tokens / 16)
        np.testing.assert_allclose(factor("unet.layers.self_1", tokens, 16), wanted, rtol=2e-3)
    assert (factor("unet.layers.self_1", 16, 16) == 1).all()
    assert bool((factor("unet.layers.self_1", 3, 16) > SMALLEST).all()), "H/log N where H is out of reach"


def test_causal_layers_are_those_of_their_mask():
    """Where all rows are looked at, at 16 tokens, and where some are, at 64."""
    found = [
        entropylab.calibrate(MixedPipe(name), [64], rows=None, iterations=2, held_out=False, **FEW).dataset
        for name in ("self_causal", "self_lower", "self_1")
    ]
    for name in ("response", "slope", "target", "calibrated", "entropy"):
        causal, masked, plain = (ds[name].values for ds in found)
        np.testing.assert_allclose(causal, masked, atol=2e-5, err_msg=name)
        assert abs(causal - plain).max() > 0.01


def test_prompts_are_kept_back_where_there_are_several():
    texts = [f"picture {number}" for number in range(5)]
    cases = [
        ({"prompts": texts, "seed": 7}, {"prompts": texts[4:], "samples": 1, "seed": 11}),
        ({"prompts": texts, "samples": 2}, {"prompts": texts[2:4], "samples": 2, "seed": 2}),
        ({"prompts": texts[:2]}, {"prompts": texts[:2], "samples": 2, "seed": 2}),
    ]
    for given, judged in cases:
        found = entropylab.calibrate(MixedPipe("self_1"), [64], iterations=1, steps=1, progress=False, **given)
        assert json.loads(found.dataset.attrs["judged"]) == judged


def test_a_model_without_self_attention_is_refused_after_one_step():
    pipe = MixedPipe("joint_1", "joint_2")
    with pytest.raises(EntropyLabError, match="kind self, and MixedPipe has none: its 2 layers are of kind joint"):
        entropylab.calibrate(pipe, [64], kinds="self", **FEW)
    assert pipe.forwards == 1
