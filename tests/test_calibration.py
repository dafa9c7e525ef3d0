"""Calibration restores the training-size entropy, layer by layer and head by head."""

import json
import math
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import entropylab
from entropylab import EntropyLabError
from entropylab.calibration import split_prompts
from entropylab.capture import AttentionCall
from entropylab.entropy.rows import Rows
from entropylab.errors import EntropyLabWarning
from entropylab.law.theory import local_slope, one_size_multiplier, row_entropy
from entropylab.measuring.responses import ASKED, Responses, responses_of, slopes_of
from entropylab.scaling.calibrated import MULTIPLIERS, SMALLEST, ByLayer, FromOneSize

from .attention import PlainAttention
from .conftest import new_random_pipeline
from .sampling import sample
from .zoo import BY_NAME

SAMPLING = {"prompts": ["a red car", "a blue house"], "steps": 2, "guidance_scale": 1.0, "progress": False}


@pytest.fixture(scope="module")
def pipe():
    return new_random_pipeline()


@pytest.fixture(scope="module")
def calibration(pipe):
    return entropylab.calibrate(pipe, [(96, 80), 128], tolerance=1e-3, **SAMPLING)


def test_drift_is_gone_at_larger_sizes(pipe, calibration):
    rules = ("original", "sqrt_log", calibration.invariant, calibration.calibrated)
    keep = ("layer", "head")
    ds = entropylab.measure(pipe, [64, (96, 80), 128], scaling=rules, layers="self", keep=keep, **SAMPLING)
    drift = abs(ds.entropy - ds.entropy.sel(size="64x64", scaling="original")).mean(("layer", "head"))
    left = {name: drift.sel(scaling=name).drop_sel(size="64x64") for name in ds.scaling.values}
    assert bool((left["calibrated"] < 0.05 * left["original"]).all())
    assert bool((left["sqrt_log"] < left["original"]).all())
    assert bool((left["sqrt_log"] > 0.05 * left["original"]).all())
    assert bool((left["invariant"] < left["sqrt_log"]).all())


def test_it_is_the_identity_at_the_training_size(pipe, calibration):
    for rule in (calibration.calibrated, calibration.invariant):
        with entropylab.rescale(pipe, rule):
            same = sample(pipe, (64, 64))
        torch.testing.assert_close(same, sample(pipe, (64, 64)))


def test_multipliers_sharpen_above_and_spread_below(pipe, calibration):
    assert float(calibration.dataset.calibrated.min()) > 1
    below = entropylab.calibrate(pipe, [48], iterations=2, **SAMPLING).dataset
    assert float(below.calibrated.max()) < 1
    assert float(below.calibrated.min()) >= SMALLEST


def test_entropy_beyond_log_n_is_out_of_reach_and_said_so(pipe):
    ds = entropylab.calibrate(pipe, [16], iterations=1, **SAMPLING).dataset
    expected = (ds.target < np.log(ds.tokens)).transpose(*ds.reachable.dims)
    np.testing.assert_array_equal(ds.reachable, expected)
    assert not bool(ds.reachable.where(ds.target.notnull(), True).all())
    beyond = ds.target.notnull() & ~ds.reachable
    own = ds.target * np.log(ds.tokens) / np.log(ds.train_tokens)
    np.testing.assert_allclose(ds.aim.where(beyond), own.where(beyond).transpose(*ds.aim.dims))
    assert float(ds.calibrated.where(beyond).min()) > SMALLEST, "no head sits at the bound"


def test_invariant_is_second_order(calibration):
    ds = calibration.dataset.sel(size="128x128")
    expected = np.sqrt(1 + 2 * np.log(ds.tokens / ds.train_tokens) / ds.sigma2)
    np.testing.assert_allclose(ds.invariant, expected, rtol=1e-6)


def test_between_sizes_the_multiplier_is_in_between(calibration):
    layer = str(calibration.dataset.layer.values[0])
    rule = calibration.rule("calibrated")
    counts = [256, 300, 480, 700, 1024]
    factors = torch.stack([rule.factor(layer, count, 256) for count in counts])
    assert torch.equal(factors[0], torch.ones_like(factors[0]))
    assert bool((factors.diff(dim=0) > 0).all())
    middle = (math.log(300) - math.log(256)) / (math.log(480) - math.log(256))
    torch.testing.assert_close(factors[1].log(), middle * factors[2].log())


def test_saved_and_opened(calibration, tmp_path):
    calibration.save(tmp_path / "calibration.nc")
    again = entropylab.Calibration.open(tmp_path / "calibration.nc")
    assert again.dataset.equals(calibration.dataset)
    assert "Calibration of" in repr(again)


def test_bad_input(pipe, calibration, tmp_path):
    with pytest.raises(EntropyLabError, match="scaling 'calibrated' needs a calibration: .*entropylab.calibrate"):
        entropylab.rescale(pipe, "calibrated")
    with pytest.raises(EntropyLabError, match="covers 256 to 1024 tokens of layer .* Got 64"):
        with entropylab.rescale(pipe, calibration.calibrated):
            sample(pipe, (32, 32), steps=1)
    other = new_random_pipeline(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=2,
    )  # fmt: skip
    with pytest.raises(EntropyLabError, match="of another model: .* no such layer"):
        with entropylab.rescale(other, calibration.calibrated):
            sample(other, (96, 96), steps=1)
    ds = entropylab.measure(pipe, [32], **SAMPLING)
    entropylab.save(ds, tmp_path / "run.nc")
    with pytest.raises(EntropyLabError, match="holds no calibration"):
        entropylab.Calibration.open(tmp_path / "run.nc")


class Mixed(nn.Module):
    """Layers that look alike before they run: among the image's tokens, and jointly with the text's, by name."""

    def __init__(self, names):
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(sample_size=4)
        self.before, self.after = nn.Linear(4, 16), nn.Linear(16, 4)
        self.layers = nn.ModuleDict({name: PlainAttention(16) for name in names})

    def forward(self, sample, timestep, encoder_hidden_states):
        tokens = self.before(sample.flatten(2).mT)
        for name, layer in self.layers.items():
            if name.startswith("joint"):
                both = layer(3 * torch.cat([tokens, encoder_hidden_states], 1))
                tokens = tokens + both[:, : tokens.shape[1]]
            elif name.startswith("self"):
                tokens = tokens + layer(3 * tokens)
        return self.after(tokens).mT.unflatten(-1, sample.shape[-2:])


class MixedPipe:
    """Samples in ``steps`` steps, and counts the forwards of its denoiser."""

    vae_scale_factor, default_sample_size, name_or_path = 8, 4, "mixed"

    def __init__(self, *names):
        self.unet, self.forwards = Mixed(names).eval(), 0
        self.components, self.config = {"unet": self.unet}, SimpleNamespace(sample_size=4)

    @torch.no_grad()
    def __call__(self, prompt, height, width, generator, num_inference_steps=3, output_type=""):
        sample = torch.cat([torch.randn(1, 4, height // 8, width // 8, generator=each) for each in generator])
        text = torch.ones(len(sample), 5, 16) * torch.arange(16).cos()
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
        pipe("", 64, 64, [torch.Generator().manual_seed(0)])
    assert "unet.layers.joint_1" not in handle.multipliers
    assert handle.multipliers["unet.layers.self_1"] != 1
    other = MixedPipe("self_1", "joint_1", "self_3", "never")
    calibration.save(tmp_path / "calibration.nc")
    again = entropylab.Calibration.open(tmp_path / "calibration.nc")
    entropylab.rescale(pipe, again.invariant).remove()
    with pytest.raises(EntropyLabError, match=r"of another model.*self_3"):
        entropylab.rescale(other, again.calibrated)


def test_joint_layers_keep_the_entropy_of_their_image_rows():
    pipe = MixedPipe("self_1", "joint_1")
    calibration = entropylab.calibrate(pipe, [64], tolerance=1e-4, iterations=8, **FEW)
    ds = calibration.dataset
    assert ds.kind.values.tolist() == ["self", "joint"]
    assert (ds.growing == ds.train_tokens - [0, 5]).all(), "five tokens are text"
    rules = ("original", calibration.calibrated)
    found = entropylab.measure(pipe, [64], scaling=rules, keep=("layer", "head"), **FEW)
    image = found.entropy.isel(size=0, layer=found.part.isin(["all", "image"]).values)
    left = abs(image.drop_vars("layer") - ds.target.drop_vars("layer")).mean(("layer", "head"))
    assert float(left.sel(scaling="calibrated")) < 0.05 * float(left.sel(scaling="original"))


def rows_of(logits: torch.Tensor) -> Rows:
    """Rows with these logits (heads, rows, keys)."""
    heads, _, keys = logits.shape
    return Rows(
        logits[None], torch.eye(keys, dtype=logits.dtype).expand(1, heads, -1, -1), 1.0, None, False, ("entropy",)
    )


def answers_of(logits: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """What is found of rows with these logits (heads, rows, keys): H(m), and the slope."""
    identity = torch.eye(logits.shape[-1], dtype=logits.dtype).expand(1, len(logits), -1, -1)
    responses = Responses(("self", "cross"), rows=logits.shape[1])
    responses.begin(with_slope=True)
    responses.on_attention(AttentionCall("layer", nn.Identity(), logits[None], identity, None, 1.0, False))
    found = responses.end(["layer"], len(logits))
    return found.response.values[0], found.slope.values[0]


def test_the_rule_from_one_size_is_that_of_the_theory():
    """On rows that do not depend on the size: independent logits, of which more are drawn."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((2, 64, 300))
    response, slope = answers_of(torch.tensor(logits))
    np.testing.assert_allclose(slope, local_slope(logits).mean(-1), atol=1e-9)
    rule = FromOneSize({"layer": response}, {"layer": slope}, {"layer": 300.0})
    for tokens in (200, 1200):
        wanted = one_size_multiplier(logits, tokens / 300)
        np.testing.assert_allclose(rule.factor("layer", tokens, 300), wanted, rtol=2e-3)
    assert (rule.factor("layer", 300, 300) == 1).all()
    beyond, (few,) = rule.factor("layer", 3, 300), response[:1, 30] * np.log(3) / np.log(300)
    assert few < np.log(3) < response[0, 30] and bool((beyond > SMALLEST).all()), "H/log N where H is out of reach"


RNG = np.random.default_rng(1)
HARD = {
    "narrow": 0.1 * RNG.standard_normal((2, 64, 300)),
    "wide": 20 * RNG.standard_normal((2, 64, 300)),
    "heavy tails": RNG.standard_t(3, (2, 64, 300)),
    "a sink": np.concatenate([RNG.standard_normal((2, 64, 300)), np.full((2, 64, 1), 9.0)], -1),
    "two keys": 3 * RNG.standard_normal((2, 64, 2)),
    "alike": np.zeros((2, 64, 50)),
}


@pytest.mark.parametrize("name", HARD)
def test_entropy_under_every_multiplier_is_that_of_the_dense_grid(name):
    """Every second multiplier is looked at, the others are between them; and entropy never rises with the scale."""
    logits = HARD[name]
    found, _ = answers_of(torch.tensor(logits))
    wanted = np.stack([row_entropy(m * logits).mean(-1) for m in MULTIPLIERS], -1)
    np.testing.assert_allclose(found[:, ::2], wanted[:, ::2], atol=1e-9)
    np.testing.assert_allclose(found, wanted, atol=3e-3)
    assert (np.diff(found) <= 0).all()
    if name == "a sink":
        straight = np.stack([np.interp(np.log(MULTIPLIERS), np.log(ASKED), head[::2]) for head in wanted])
        assert abs(straight - wanted).max() > 0.03, "straight lines between them would not do"


def test_text_does_not_grow_with_the_picture():
    """Ten keys of text beside the image's: their slope is that of adding image keys alone, which brute force tells."""
    logits = 2 * torch.randn(4, 50, 310, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[..., :10] += 3
    rows, image = rows_of(logits), torch.arange(310) >= 10
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    without = [
        torch.distributions.Categorical(logits=logits[..., torch.arange(310) != j]).entropy() for j in range(10, 310)
    ]
    for grows in (image[None], slice(10, 310)):
        torch.testing.assert_close(slopes_of(rows, grows)[0], sum(entropy - one for one in without))
    assert abs(slopes_of(rows, slice(10, 310)).mean() - slopes_of(rows, slice(None)).mean()) > 0.05


BIAS = 3 * torch.rand(1, 2, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("mask", [BIAS[0, 0, 0], BIAS[0, 0], BIAS[:, :1], BIAS[:, :, :1], None, torch.arange(6) != 2])
@pytest.mark.parametrize("is_causal", [False, True])
def test_a_multiplier_is_of_the_scale_and_not_of_what_a_mask_adds(mask, is_causal):
    logits = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = responses_of(replace(rows_of(logits), is_causal=is_causal, mask=mask))[0]
    added = torch.zeros_like(logits)
    if mask is not None:
        added = added.masked_fill(~mask, -1e9) if mask.dtype == torch.bool else added + mask
    if is_causal:
        added = added.masked_fill(~torch.ones(6, 6, dtype=torch.bool).tril(), -1e9)
    for place in (0, 15, 30):
        wanted = torch.distributions.Categorical(logits=ASKED[place] * logits + added).entropy().reshape(2, 6)
        torch.testing.assert_close(found[..., place], wanted)
    if mask is not None and mask.dtype != torch.bool and not is_causal:
        scaled = torch.distributions.Categorical(logits=ASKED[30] * (logits + mask)).entropy().reshape(2, 6)
        assert abs(found[..., 30] - scaled).max() > 0.01


def test_half_precision_is_not_rounded_once_more():
    """q times the multiplier is not what the model has in bfloat16: it is computed in float32."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 2, n, 16, generator=generator).bfloat16() for n in (5, 40))
    found = responses_of(Rows(q, k, 0.5, None, False, ("entropy",)))[0]
    logits = (q.double() @ k.double().mT)[0] * 0.5
    for place in (0, 12, 25):
        wanted = torch.distributions.Categorical(logits=ASKED[place] * logits).entropy()
        torch.testing.assert_close(found[..., place].double(), wanted, atol=2e-5, rtol=0)
    rounded = torch.distributions.Categorical(logits=(q * ASKED[25]).double()[0] @ k.double()[0].mT * 0.5).entropy()
    assert abs(rounded - wanted).max() > 1e-3


def test_predicted_works_at_a_size_that_was_not_measured_and_is_judged_on_other_prompts(pipe, calibration):
    ds = calibration.dataset
    assert ds.held_out.dims == ("rule", "size")
    assert json.loads(ds.attrs["judged"]) == {"prompts": SAMPLING["prompts"], "samples": 2, "seed": 2}
    assert bool((ds.held_out.sel(rule="calibrated") > 0.9).all())
    assert bool((ds.held_out.sel(rule="predicted") > ds.held_out.sel(rule="invariant")).all())
    rules, keep = ("original", "sqrt_log", calibration.predicted), ("layer", "head")
    found = entropylab.measure(pipe, [64, 144], scaling=rules, layers="self", keep=keep, **SAMPLING).entropy
    drift = abs(found - found.sel(size="64x64", scaling="original")).sel(size="144x144").mean(("layer", "head"))
    assert float(drift.sel(scaling="predicted")) < 0.4 * float(drift.sel(scaling="original"))
    assert float(drift.sel(scaling="sqrt_log")) > 0.4 * float(drift.sel(scaling="original"))


def test_prompts_are_kept_back_where_there_are_several(pipe):
    texts = [f"picture {number}" for number in range(5)]
    made, judged = split_prompts(pipe, {"prompts": texts, "seed": 7})
    assert (made["prompts"], made["samples"], made["seed"]) == (texts[:4], 4, 7)
    assert judged == {"prompts": texts[4:], "samples": 1, "seed": 11}
    made, judged = split_prompts(pipe, {"prompts": texts, "samples": 2})
    assert (made["prompts"], judged["prompts"], judged["seed"]) == (texts[:2], texts[2:4], 2)


def test_frames_have_multipliers_by_the_pictures_area():
    rule = ByLayer({"t": np.log([16.0, 64.0])}, {"t": np.log([[1.0], [2.0]])}, still=("t",))
    assert rule.factor("t", 16, 16, growth=4.0).item() == pytest.approx(2)
    assert rule.factor("t", 16, 16, growth=2.0).item() == pytest.approx(2**0.5)
    with pytest.raises(EntropyLabError, match="covers 16 to 64 .* Got 144"):
        rule.factor("t", 16, 16, growth=9.0)


def test_a_model_without_self_attention_is_refused_after_one_step():
    pipe = MixedPipe("joint_1", "joint_2")
    with pytest.raises(EntropyLabError, match="kind self, and MixedPipe has none: its 2 layers are of kind joint"):
        entropylab.calibrate(pipe, [64], kinds="self", **FEW)
    assert pipe.forwards == 1


def test_a_family_whose_layers_only_show_their_kind_when_they_run():
    family = BY_NAME["Stable Diffusion 3.5"]
    pipe = family.build()
    options = {"prompts": ["a red car"], "samples": 1, "call": lambda *_: family.sample(pipe), "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EntropyLabWarning)
        found = entropylab.calibrate(pipe, [family.size], train_size=family.size, iterations=1, **options)
    assert set(found.dataset.kind.values) == {"self", "joint"}
    assert json.loads(found.dataset.attrs["uncalibrated"]) == []
