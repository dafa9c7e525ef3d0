"""``measure``: sizes x scalings x prompts from the same seeds, online averages, and errors before any sampling."""

import numpy as np
import pytest
import torch

import entropylab
from entropylab import EntropyLabError

from ..conftest import new_random_pipeline

PROMPTS = ["a red car", "a blue house", "a red house"]


def quick(pipe, sizes=(32, 64), **options):
    settings = {"prompts": PROMPTS, "steps": 2, "guidance_scale": 2.0, "progress": False}
    return entropylab.measure(pipe, list(sizes), **settings | options)


def test_dims_coordinates_and_units(random_pipe):
    ds = quick(random_pipe, sizes=(32, (64, 48)), seed=5, statistics=("entropy", "sigma2", "sensitivity"))
    assert ds.entropy.dims == ("size", "scaling", "branch", "sample", "step", "layer", "head")
    assert dict(ds.sizes) == {"size": 2, "scaling": 1, "branch": 2, "sample": 3, "step": 2, "layer": 14, "head": 4}
    assert list(ds["size"].values) == ["32x32", "64x48"]
    assert (list(ds.height.values), list(ds.width.values)) == ([32, 64], [32, 48])
    assert list(ds.prompt.values) == PROMPTS
    assert list(ds.seed.values) == [5, 6, 7]
    for name in ("entropy", "entropy_std", "sigma2", "sensitivity", "rows", "tokens", "timestep"):
        assert ds[name].attrs["units"]
        assert ds[name].attrs["long_name"]
    assert ds.attrs["steps"] == 2
    assert ds.attrs["guidance_scale"] == 2.0
    assert ds.attrs["seed"] == 5


def test_padding_of_heads_is_nan_and_nothing_else_is(random_pipe):
    ds = quick(random_pipe)
    heads = {layer.path: layer.heads for layer in entropylab.layers(random_pipe)}
    for layer in ds.layer.values:
        counted = ds.entropy.sel(layer=layer).notnull().all(["size", "scaling", "branch", "sample", "step"])
        assert int(counted.sum()) == heads[layer]


def test_prompts_from_a_file_are_used_in_turn(random_pipe, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a red car\n\n  a blue house \n", encoding="utf-8")
    ds = quick(random_pipe, sizes=[32], prompts=path, samples=5, batch_size=2)
    assert list(ds.prompt.values) == ["a red car", "a blue house"] * 2 + ["a red car"]
    entropylab.save(ds, tmp_path / "run.nc")
    assert entropylab.open(tmp_path / "run.nc").identical(ds)


def test_seeds_belong_to_samples_not_to_batches(random_pipe):
    one, three = (quick(random_pipe, sizes=[48], batch_size=size) for size in (1, 3))
    np.testing.assert_allclose(one.entropy, three.entropy, atol=1e-4)
    other = quick(random_pipe, sizes=[48], batch_size=3, seed=1)
    assert np.nanmax(np.abs(other.entropy.values - three.entropy.values)) > 1e-3
    np.testing.assert_allclose(
        other.entropy.isel(sample=0, branch=0, step=0), three.entropy.isel(sample=1, branch=0, step=0), atol=1e-4
    )


def test_the_same_twice_and_whatever_else_is_measured(random_pipe):
    first, second = quick(random_pipe), quick(random_pipe)
    assert first.equals(second)
    alone = quick(random_pipe, sizes=[64])
    np.testing.assert_array_equal(alone.entropy, first.entropy.sel(size=["64x64"]))


def test_online_average_is_the_average(random_pipe):
    whole = quick(random_pipe)
    online = quick(random_pipe, samples=3, batch_size=2, keep=("step", "layer", "head"))
    assert online.entropy.dims == ("size", "scaling", "step", "layer", "head")
    expected = whole.entropy.mean(["branch", "sample"])
    np.testing.assert_allclose(online.entropy, expected, atol=1e-4)
    spread = whole.entropy.mean("branch").var("sample", ddof=1)
    np.testing.assert_allclose(online.entropy_m2 / 2, spread, atol=1e-4)
    assert int(online.samples[0, 0]) == 3
    assert not np.allclose(whole.entropy.isel(branch=0).mean("sample"), expected, atol=1e-4, equal_nan=True)


def test_scalings_share_seeds_and_differ_in_entropy(random_pipe):
    ds = quick(random_pipe, sizes=(32, 64, 96), scaling=("original", "sqrt_log", 1.0, 1.5))
    assert list(ds.scaling.values) == ["original", "sqrt_log", "1", "1.5"]
    at = {name: ds.entropy.sel(scaling=name) for name in ds.scaling.values}
    np.testing.assert_array_equal(at["original"], at["1"])
    np.testing.assert_array_equal(at["original"].sel(size="64x64"), at["sqrt_log"].sel(size="64x64"))
    selfs = ds.kind == "self"
    change = (at["sqrt_log"] - at["original"]).isel(layer=selfs, step=0).mean(("branch", "sample", "head"))
    assert bool((change.sel(size="32x32") > 0).all())
    assert bool((change.sel(size="96x96") < 0).all())
    expected = np.sqrt(np.log(ds.tokens) / np.log(ds.train_tokens)).where(selfs, 1.0)
    np.testing.assert_allclose(ds.multiplier.sel(scaling="sqrt_log"), expected)
    np.testing.assert_array_equal(ds.multiplier.sel(scaling="original"), 1.0)


def test_layer_filter(random_pipe):
    random_pipe.set_progress_bar_config(desc="mine", disable=True)
    ds = quick(random_pipe, sizes=[32], layers=["*mid_block*attn1", "cross"])
    assert set(ds.kind.values) == {"self", "cross"}
    assert sum(ds.kind.values == "self") == 1
    assert random_pipe._progress_bar_config == {"desc": "mine", "disable": True}


def test_a_call_of_ones_own(random_pipe):
    def call(pipe, size, prompts, generators):
        seen.append((size, prompts, [generator.initial_seed() for generator in generators]))
        pipe(prompts, height=size[0], width=size[1], num_inference_steps=1, generator=generators, output_type="latent")

    seen: list = []
    ds = entropylab.measure(random_pipe, [(32, 48)], prompts=PROMPTS, call=call, batch_size=2, progress=False, seed=3)
    assert seen == [((32, 48), PROMPTS[:2], [3, 4]), ((32, 48), PROMPTS[2:], [5])]
    assert ds.sizes["sample"] == 3


def test_no_tensor_as_large_as_a_map_is_allocated(random_pipe):
    """N x N floats of one head, at the size measured, are never allocated at once; the reference control does it."""
    size, tokens = 256, 64 * 64
    largest = largest_allocation(lambda: quick(random_pipe, [size], prompts=["a red car"], steps=1, guidance_scale=1.0))
    plain = largest_allocation(lambda: sample_plainly(random_pipe, size))
    assert plain < 4 * tokens**2
    assert largest <= 1.05 * plain
    random_pipe.unet.set_attn_processor(legacy_processor())
    control = largest_allocation(lambda: sample_plainly(random_pipe, size))
    assert control >= 4 * tokens**2


def sample_plainly(pipe, size):
    pipe("a red car", height=size, width=size, num_inference_steps=1, guidance_scale=1.0, output_type="latent")


def legacy_processor():
    from diffusers.models.attention_processor import AttnProcessor

    return AttnProcessor()


def largest_allocation(run):
    """Bytes of the largest single allocation while ``run`` runs, whoever makes it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    return max(event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]")


BAD = [
    ([], {}, "sizes must name at least one size"),
    ([0], {}, "sizes must be positive"),
    ([64.0], {}, "must be an int or a .height, width. pair"),
    (64, {}, "sizes must be a list"),
    ([70], {}, "multiples of 8 pixels.*Got 70x70; near it: 64x64, 72x72"),
    ([(64, 3)], {}, "near it: 64x8"),
    ([64, (64, 64)], {}, "Got 64x64 more than once"),
    ([64], {"prompts": [3]}, "prompts must name at least one prompt, each a string"),
    ([64], {"prompts": "missing.txt"}, "existing text file. Got 'missing.txt'"),
    ([64], {"prompts": None}, "prompts must be given for a pipeline other than the embedded one"),
    ([64], {"samples": 0}, "samples must be an int >= 1"),
    ([64], {"guidance_scale": "high"}, "guidance_scale must be a finite number"),
    ([64], {"scaling": "sqrtlog"}, "scaling must be one of original, sqrt_log"),
    ([64], {"scaling": ["original", "original"]}, "each once"),
    ([64], {"scaling": -1.0}, "finite multiplier > 0"),
    ([64], {"statistics": ["entropy", "kurtosis"]}, "statistics must be some of"),
    ([64], {"rows": 0}, "rows must be an int >= 1"),
    ([64], {"layers": "*attn9*"}, "matches none of the 14 layers"),
    ([64], {"keep": ["pixels"]}, "keep must be some of"),
    ([64], {"seed": 2**70}, "seed must be an int >= 0"),
    ([64], {"layers": 3}, "layers must name at least one kind or pattern.* Got 3"),
    ([64], {"call": print, "steps": 3}, "with call=, set them there"),
]


def test_bad_input_is_refused_before_any_sampling(random_pipe, monkeypatch):
    monkeypatch.setattr(random_pipe.unet, "forward", lambda *args, **kwargs: pytest.fail("sampling began"))
    for sizes, options, message in BAD:
        with pytest.raises(EntropyLabError, match=message):
            entropylab.measure(random_pipe, sizes, **{"prompts": PROMPTS, "progress": False} | options)


def test_a_pipeline_without_attention():
    levels = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    pipe = new_random_pipeline(**levels, mid_block_type=None)
    with pytest.raises(EntropyLabError, match="has no attention layer to measure"):
        quick(pipe)


def test_a_pipeline_with_a_signature_of_its_own_is_told_to_pass_call(random_pipe):
    class Odd(type(random_pipe)):
        def __call__(self, label):
            raise AssertionError

    random_pipe.__class__ = Odd
    with pytest.raises(EntropyLabError, match="Odd takes no prompt, height, width: pass call="):
        quick(random_pipe)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_carries_what_was_measured(random_pipe, error):
    def call(pipe, size, prompts, generators):
        if size == (64, 64):
            raise error("out of patience")
        pipe(prompts, height=size[0], width=size[1], num_inference_steps=1, generator=generators, output_type="latent")

    with pytest.raises(error) as caught:
        quick(random_pipe, sizes=(32, 64), call=call, steps=None, guidance_scale=None)
    assert list(caught.value.dataset["size"].values) == ["32x32"]
    assert caught.value.dataset.sizes["sample"] == 3


def test_looking_while_sampling_does_not_disturb_what_is_measured(random_pipe):
    def look(pipe, step, timestep, tensors):
        seen.append(rec.dataset.sizes["step"])
        return tensors

    seen: list[int] = []
    with entropylab.record(random_pipe) as rec:
        random_pipe("a car", height=32, width=32, num_inference_steps=3, callback_on_step_end=look)
    assert seen == [1, 2, 3]
    assert dict(rec.dataset.sizes)["step"] == 3
    assert rec.dataset.sizes["sample"] == 1
