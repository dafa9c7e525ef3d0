"""``measure``: sizes x scalings x prompts from the same seeds, online averages, and errors before any sampling."""

import shlex
import sys

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

import entropylab
from entropylab import EntropyLabError

from ..runs import stub

PROMPTS = ["a red car", "a blue house", "a red house"]


def quick(pipe, sizes=(32, 64), **options):
    settings = {"prompts": PROMPTS, "steps": 2, "guidance_scale": 2.0, "progress": False}
    return entropylab.measure(pipe, list(sizes), **settings | options)


def test_dims_coordinates_and_units(random_pipe, tmp_path):
    """Of prompts in a file, which are used in turn; NaN is where a layer has fewer heads, and nowhere else."""
    (tmp_path / "prompts.txt").write_text("a red car\n\n  a blue house \n", encoding="utf-8")
    options = {"prompts": tmp_path / "prompts.txt", "samples": 3, "batch_size": 2, "seed": 5}
    statistics = ("entropy", "sigma2", "sensitivity")
    ds = quick(random_pipe, sizes=(32, (64, 48)), statistics=statistics, **options)
    assert ds.entropy.dims == ("size", "scaling", "branch", "sample", "step", "layer", "head")
    assert dict(ds.sizes) == {"size": 2, "scaling": 1, "branch": 2, "sample": 3, "step": 2, "layer": 14, "head": 4}
    assert list(ds["size"].values) == ["32x32", "64x48"]
    assert (list(ds.height.values), list(ds.width.values)) == ([32, 64], [32, 48])
    assert list(ds.prompt.values) == ["a red car", "a blue house", "a red car"]
    assert list(ds.seed.values) == [5, 6, 7]
    for name in ("entropy", "entropy_std", "sigma2", "sensitivity", "rows", "tokens", "timestep"):
        assert ds[name].attrs["units"] and ds[name].attrs["long_name"]
    assert (ds.attrs["steps"], ds.attrs["guidance_scale"], ds.attrs["seed"]) == (2, 2.0, 5)
    known = ds.entropy.notnull()
    of_layers = {layer.path: layer.heads for layer in entropylab.layers(random_pipe)}
    heads = [of_layers[layer] for layer in ds.layer.values]
    assert known.all(["size", "scaling", "branch", "sample", "step"]).sum("head").values.tolist() == heads
    assert known.any(["size", "scaling", "branch", "sample", "step"]).sum("head").values.tolist() == heads
    entropylab.save(ds, tmp_path / "ds.nc")
    assert entropylab.open(tmp_path / "ds.nc").identical(ds)


def test_seeds_belong_to_samples_not_to_batches(random_pipe):
    one, three = (quick(random_pipe, sizes=[48], batch_size=size, steps=1) for size in (1, 3))
    np.testing.assert_allclose(one.entropy, three.entropy, atol=1e-4)
    other = quick(random_pipe, sizes=[48], batch_size=3, seed=1, steps=1)
    assert np.nanmax(np.abs(other.entropy.values - three.entropy.values)) > 1e-3
    np.testing.assert_allclose(
        other.entropy.isel(sample=0, branch=0, step=0), three.entropy.isel(sample=1, branch=0, step=0), atol=1e-4
    )


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
    alone = quick(random_pipe, sizes=[64])
    np.testing.assert_array_equal(alone.entropy, whole.entropy.sel(size=["64x64"]), "whatever else is measured")


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


@pytest.mark.parametrize("keep", [None, ("layer", "head")])
def test_a_call_that_samples_image_by_image_gives_samples(random_pipe, keep):
    """Its generators tell which image is sampled; two calls for one image are steps of it."""

    def whole(pipe, size, prompts, generators, **options):
        given = {"num_inference_steps": 2, "output_type": "latent", "height": size[0], "width": size[1]}
        pipe(prompt=prompts, generator=generators, **given | options)

    def one_by_one(pipe, size, prompts, generators):
        for prompt, generator in zip(prompts, generators, strict=True):
            whole(pipe, size, [prompt], generator)

    def in_two_stages(pipe, size, prompts, generators):
        for prompt, generator in zip(prompts, generators, strict=True):
            for _ in range(2):
                whole(pipe, size, prompt, [generator], num_inference_steps=1)

    def crosswise(pipe, size, prompts, generators):
        for _ in range(2):
            one_by_one(pipe, size, prompts, generators)

    options = {"prompts": PROMPTS, "batch_size": 2, "progress": False, "seed": 3, "keep": keep}
    at_once, apart, staged = (
        entropylab.measure(random_pipe, [32], call=call, **options) for call in (whole, one_by_one, in_two_stages)
    )
    np.testing.assert_allclose(apart.entropy, at_once.entropy, atol=2e-5)
    if keep is None:
        assert apart.seed.values.tolist() == staged.seed.values.tolist() == [3 + place for place in range(len(PROMPTS))]
        assert apart.prompt.values.tolist() == staged.prompt.values.tolist() == list(PROMPTS)
        assert dict(apart.sizes) == dict(staged.sizes) == dict(at_once.sizes)
        assert not np.allclose(staged.entropy, at_once.entropy, atol=2e-5, equal_nan=True)
    with pytest.raises(EntropyLabError, match="call= must end a sample before it begins another"):
        entropylab.measure(random_pipe, [32], call=crosswise, **options)


def test_no_tensor_as_large_as_a_map_is_allocated(random_pipe):
    """N x N floats of one head, at the size measured, are never allocated at once; the reference control does it."""
    size, tokens = 192, 48 * 48
    largest = largest_allocation(lambda: quick(random_pipe, [size], prompts=["a red car"], steps=1, guidance_scale=1.0))
    plain = largest_allocation(lambda: sample_plainly(random_pipe, size))
    assert plain < 4 * tokens**2
    assert largest <= 1.05 * plain
    random_pipe.unet.set_attn_processor(AttnProcessor())
    control = largest_allocation(lambda: sample_plainly(random_pipe, size))
    assert control >= 4 * tokens**2


def sample_plainly(pipe, size):
    pipe("a red car", height=size, width=size, num_inference_steps=1, guidance_scale=1.0, output_type="latent")


def largest_allocation(run):
    """Bytes of the largest single allocation while ``run`` runs, whoever makes it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    return max(event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]")


async def awaited(ds):
    pytest.fail("nobody awaits it")


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
    ([64], {"steps": 1001}, "steps must be at most 1000, as many as DDIMScheduler has timesteps. Got 1001"),
    ([64], {"guidance_scale": "high"}, "guidance_scale must be a finite number"),
    ([64], {"scaling": "sqrtlog"}, "scaling must be one of original, sqrt_log"),
    ([64], {"scaling": ["original", "original"]}, "each once"),
    ([64], {"seed": 2**70}, "seed must be an int >= 0"),
    ([64], {"call": print, "steps": 3}, "with call=, set them there"),
    ([64], {"maps": True}, "name of a file"),
    ([64], {"maps": "maps.nc", "out": "run"}, "name of a file"),
    ([64], {"maps": "maps.nc", "words": ["red", "RED"]}, "each once"),
    ([64], {"maps": "maps.nc", "words": "hat"}, "words must be in the prompt. Got 'hat'"),
    ([64], {"words": "red"}, "pass maps="),
]
OF_RECORD = [
    ({"statistics": ["entropy", "kurtosis"]}, "statistics must be some of"),
    ({"statistics": []}, "statistics must be some of"),
    ({"statistics": ["rarefied_half"]}, "gaussian, slope, rarefied, each once"),
    ({"rows": 0}, "rows must be an int >= 1"),
    ({"rows": 2.5}, "rows must be an int >= 1"),
    ({"layers": "*attn9*"}, "matches none of the 14 layers"),
    ({"layers": []}, "layers must name at least one"),
    ({"layers": 3}, "layers must name at least one kind or pattern.* Got 3"),
    ({"keep": ["sample", "pixel"]}, "keep must be some of"),
    ({"on_step": awaited}, "on_step must be a plain function, no `async def`"),
    ({"on_step": "print"}, "on_step must be a function of a Dataset, or None. Got 'print'"),
    *(
        ({"words": words, "maps": True}, "each once")
        for words in ([], "", ["red", "RED"], ["red  car", " red car"], ["?"], 3, [None])
    ),
    ({"words": "red", "rows": 3, "maps": False}, "leave rows out"),
    ({"maps": True, "rows": 4}, "leave rows out"),
    ({"maps": "maps.nc"}, "True or False"),
    ({"received": "maps.nc", "maps": True}, "received must be"),
]


def test_bad_input_is_refused_before_any_sampling(random_pipe, monkeypatch):
    monkeypatch.setattr(random_pipe.unet, "forward", lambda *args, **kwargs: pytest.fail("sampling began"))
    for options, message in OF_RECORD:
        with pytest.raises(EntropyLabError, match=message), entropylab.record(random_pipe, **options):
            pytest.fail("nothing may run")
    of_both = [([64], *rest) for rest in OF_RECORD if "maps" not in rest[0]]
    for sizes, options, message in BAD + of_both:
        with pytest.raises(EntropyLabError, match=message):
            entropylab.measure(random_pipe, sizes, **{"prompts": PROMPTS, "progress": False} | options)
    with pytest.raises(pytest.fail.Exception, match="sampling began"):
        quick(random_pipe, steps=1000)


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


SECRET = "hUsh4711"
WITH_SECRETS = [
    "--token", SECRET, "--api_key", SECRET, f"--token={SECRET}", f"HF_TOKEN={SECRET}", "--header",
    f"Authorization: Bearer {SECRET}", f"https://me:{SECRET}@example.org/model",
    f"https://example.org/model?size=3&access_token={SECRET}&x=1", "-c", f"login(token='{SECRET}'); measure(pipe, 64)",
    "-c", f'{{"secret": "{SECRET} and more"}}', "--use", f"hf_{SECRET * 4}", "--sizes", "32",
]  # fmt: skip
WITHOUT = [
    "--sizes", "32", "64", "--samples=4", "--out", "RUN/", "--train-tokens", "64", "--tokens=16", "--author", "me",
    "--keyword", "x", "--passes", "3", "https://example.org/model?size=3", "a" * 20_000, "-" * 20_000,
]  # fmt: skip


def test_the_command_line_is_kept_without_its_secrets(monkeypatch):
    def told(words):
        monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "entropylab", *words])
        return shlex.split(stub.measure(sizes=[32], scaling="original", samples=1).attrs["command"])

    assert told(WITHOUT)[3:] == WITHOUT
    shown = told(WITH_SECRETS)[3:]
    assert SECRET not in str(shown) and str(shown).count("***") == 10
    assert [word for word in shown if "***" not in word] == [word for word in WITH_SECRETS if SECRET not in word]
    assert "https://example.org/model?size=3&access_token=***&x=1" in shown
