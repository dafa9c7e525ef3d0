"""Simulated attention: it has the sigma, cumulants and entropy asked for, and leaves the law when told to."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import entropylab
from entropylab import EntropyLabError, logit_sample, plot, row_statistics, simulate, simulate_dataset
from entropylab.gaussian import entropy_given_variance
from entropylab.law import fit
from entropylab.law.check import check
from entropylab.law.drift import drift
from entropylab.measuring.logits import sampled_logits
from entropylab.simulation import DISTRIBUTIONS, grid

from .conftest import new_random_pipeline
from .datasets import SMALL

ALL = ("entropy", "variance", "third", "fourth")


def means(made: object) -> dict[str, float]:
    """Mean over rows, heads and samples of every statistic."""
    rows = row_statistics(made.q.double(), made.k.double(), scale=made.scale, statistics=ALL)
    return {name: rows[name].mean().item() for name in ALL}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_sigma_is_what_was_asked_for(distribution: str) -> None:
    # Of student_t a few keys make the variance, of every row another.
    widest = {"student_t": np.inf, "low_rank": 0.15}.get(distribution, 0.1)
    for alike in (True, False):
        made = simulate(4096, 32, 1.2, distribution, heads=8, queries=64, alike=alike)
        own = row_statistics(made.q, made.k, scale=made.scale, statistics=("variance",)).variance
        assert own.mean().item() == pytest.approx(1.44, rel=0.06 if alike else 0.35)
        spread = (own.std(-1) / own.mean(-1)).mean().item()
        assert spread < widest if alike else spread > 0.1, "rows differ in sigma where they are not to be alike"


def test_cumulants_have_the_signs_and_the_gamma_variable_the_values_of_the_books() -> None:
    signs = {"gaussian": (0, 0), "student_t": (0, 1), "skewed": (1, 1), "clustered": (0, -1), "low_rank": (0, 0)}
    for distribution, known in signs.items():
        own = means(simulate(2048, 32, 1.0, distribution, heads=8, samples=4, queries=64))
        assert tuple(np.sign(round(own[name] / 2, 1)) for name in ("third", "fourth")) == known, distribution
    own = means(simulate(4096, 16, 0.7, "skewed", shape=4.0, heads=2, samples=8, queries=16))
    assert own["third"] == pytest.approx(0.7**3 * 2 / 4**0.5, rel=0.1)
    assert own["fourth"] == pytest.approx(0.7**4 * 6 / 4, rel=0.25)


@pytest.mark.parametrize("distribution", [name for name in DISTRIBUTIONS if name != "gaussian"])
def test_departure_leads_from_the_law_or_the_series_away(distribution: str) -> None:
    off = {}
    for much in (0.0, 0.5, 1.0):
        made = simulate(2048, 32, 1.2, distribution, departure=much, heads=4, samples=2, queries=64)
        own = means(made)
        off[much] = abs(own["entropy"] - float(entropy_given_variance(own["variance"], 2048)))
    assert off[0.0] < 0.01
    if distribution == "low_rank":
        assert off[1.0] < 0.06, "of low rank, and Gaussian still"
    else:
        assert off[0.0] < off[0.5] < off[1.0]
        assert off[1.0] > 0.05


@pytest.mark.parametrize("distribution", ["skewed", "clustered", "positional"])
def test_the_series_takes_over_from_the_law_as_theory_says(distribution: str) -> None:
    errors = []
    for sigma in (0.6, 0.3):
        made = simulate(4096, 32, sigma, distribution, heads=2, samples=2, queries=32)
        own = means(made)
        series = np.log(4096) - own["variance"] / 2 - own["third"] / 3 - own["fourth"] / 8
        errors.append(abs(own["entropy"] - series))
        assert errors[-1] < 0.25 * abs(own["entropy"] - np.log(4096) + own["variance"] / 2)
    assert errors[1] < errors[0] / 2**4, "what is left is of fifth order in sigma"


def test_seeds_and_models() -> None:
    first, again, other = (simulate(64, 8, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.q, again.q)
    assert torch.equal(first.k, again.k)
    assert not torch.equal(first.k, other.k)
    small, large = (simulate(number, 8, 1.0, "clustered", seed=1, heads=1) for number in (256, 512))
    centres = [torch.unique(made.k.flatten(0, -2).mul(1e4).round(), dim=0) for made in (small, large)]
    assert centres[0].shape[0] == 8
    assert torch.equal(*centres), "more tokens of the same model"
    assert torch.equal(simulate(64, 8, 2.0, seed=3).q, 2 * simulate(64, 8, 1.0, seed=3).q)
    assert torch.linalg.matrix_rank(simulate(64, 8, 1.0, "low_rank", heads=1).k) == 2
    assert simulate(64, 8, 0.0).q.abs().max() == 0
    assert [grid(number) for number in (64, 128, 7)] == [(8, 8), (8, 16), (1, 7)]


# As a Dataset.


def test_a_simulated_dataset_drives_everything(tmp_path: object) -> None:
    ds = simulate_dataset((64, 256, 1024), sigma=(0.5, 1.0), scaling=("original", "sqrt_log", "0.5"), **SMALL)
    assert ds["entropy"].dims == ("size", "scaling", "sample", "layer", "head")
    assert ds["tokens"].values[:, 0].tolist() == [64, 256, 1024]
    assert ds["size"].values.tolist() == ["8x8", "16x16", "32x32"]
    line = fit(ds, by="layer")
    np.testing.assert_allclose(line.slope, 1, atol=0.02)
    np.testing.assert_allclose(line.intercept, [-0.125, -0.5], atol=0.1)
    moved = drift(ds)
    home = moved[(moved["size"] == "16x16") & (moved["scaling"] == "sqrt_log")]
    assert (home["drift"] == 0).all(), "at N = T the factor is 1"
    away = moved[(moved["size"] == "32x32") & (moved["scaling"] == "sqrt_log") & (moved["layer"] == "sigma 1")]
    assert away["fraction_removed"].item() == pytest.approx(1 / (2 * np.log(256)), abs=0.03)
    assert check(ds).has_series
    plot.stabilization(ds, Figure().subplots())
    entropylab.save(ds, f"{tmp_path}/simulated.nc")
    assert entropylab.open(f"{tmp_path}/simulated.nc").equals(ds)


def test_scaling_a_simulation_is_scaling_its_sigma() -> None:
    ds = simulate_dataset((64, 256), sigma=1.0, scaling=("original", "0.5"), **SMALL)
    half = simulate_dataset((64, 256), sigma=0.5, **SMALL)
    scaled = ds["entropy"].sel(scaling="0.5").values
    np.testing.assert_allclose(scaled, half["entropy"].values[:, 0], atol=1e-5)
    assert not np.allclose(ds["entropy"].sel(scaling="original").values, half["entropy"].values[:, 0], atol=1e-2)


BAD = [
    ({"distribution": "cauchy"}, "distribution must be one of gaussian, student_t, .* Got 'cauchy'"),
    ({"departure": 1.5}, "departure must be a number from 0 to 1. Got 1.5"),
    ({"distribution": "student_t", "shape": 2.0}, "shape of 'student_t' must be a number >= 2.5. Got 2.0"),
    ({"sigma": -1.0}, "sigma must be a finite number >= 0. Got -1.0"),
    ({"tokens": (64.0,)}, "tokens must be an int >= 2. Got 64.0"),
    ({"tokens": ()}, r"tokens must be different numbers of keys, at least one. Got \(\)"),
    ({"tokens": 64}, "tokens must be different numbers of keys, at least one. Got 64"),
    ({"scaling": ("calibrated",)}, "scaling must be some of 'original', 'sqrt_log', or numbers. Got 'calibrated'"),
    ({"scaling": (0.5, "0.5")}, "scaling must be one or several that differ"),
    ({"sigma": (1, 1.0)}, r"sigma must be one or several that differ. Got \(1, 1.0\)"),
    ({"statistics": ("lse",)}, "statistics must be some of entropy, sigma2, third, fourth"),
    ({"train_tokens": 0}, "train_tokens must be an int >= 1. Got 0"),
    ({"seed": -1}, "seed must be an int >= 0. Got -1"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_what_can_not_be_simulated(arguments: dict, message: str) -> None:
    with pytest.raises(EntropyLabError, match=message):
        simulate_dataset(**{"tokens": (64,), **arguments})


# Logits of some rows.


def test_sampled_logits_are_those_of_the_map() -> None:
    made = simulate(64, 8, heads=2, queries=32, samples=2)
    whole = made.q @ made.k.transpose(-1, -2) * made.scale
    torch.testing.assert_close(logit_sample(made.q, made.k, made.scale, 100), whole)
    torch.testing.assert_close(logit_sample(made.q, made.k, None, 100), whole)
    few = logit_sample(made.q, made.k, made.scale, 5, seed=1)
    assert few.shape == (2, 2, 5, 64)
    place = [int((whole[0, 0] - row).abs().sum(-1).argmin()) for row in few[0, 0]]
    assert place == sorted(set(place))
    torch.testing.assert_close(few, whole[:, :, place])
    assert not torch.equal(few, logit_sample(made.q, made.k, made.scale, 5, seed=2))
    shared = logit_sample(made.q, made.k[:, :1], made.scale, 100)
    torch.testing.assert_close(shared[:, 0], whole[:, 0])
    assert not torch.allclose(shared[:, 1], whole[:, 1])


def test_masks_leave_logits_out() -> None:
    made = simulate(16, 8, heads=1, queries=8)
    mask = torch.ones(8, 16, dtype=torch.bool)
    mask[:, 10:] = False
    logits = logit_sample(made.q, made.k, made.scale, 4, mask=mask)
    assert logits[..., 10:].isnan().all()
    assert logits[..., :10].isfinite().all()
    bias = torch.where(mask, 0.5, -torch.inf)
    added = logit_sample(made.q, made.k, made.scale, 4, mask=bias)
    torch.testing.assert_close(added[..., :10], logits[..., :10] + 0.5)
    with pytest.raises(EntropyLabError, match="rows must be an int >= 1. Got 0"):
        logit_sample(made.q, made.k, rows=0)
    with pytest.raises(EntropyLabError, match="must agree in leading dimensions"):
        logit_sample(made.q, made.k[..., :4])


def test_logits_of_a_pipeline_and_its_image_as_it_was() -> None:
    pipe = new_random_pipeline()

    def run() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        images.append(pipe("a red car", num_inference_steps=2, generator=generator, output_type="pt").images)
        return images[-1]

    images: list[torch.Tensor] = []
    run()
    found = sampled_logits(pipe, run, "*down_blocks.0*attn1", rows=4)
    assert torch.equal(*images)
    ((path, calls),) = found.items()
    assert path.endswith("attn1")
    assert [tuple(call.shape) for call in calls] == [(2, 2, 4, 256)] * 2
    with pytest.raises(EntropyLabError, match="layers must match one of the 14 layers that ran, such as"):
        sampled_logits(pipe, run, "*attn7")
