"""``record``: the right numbers of every layer, head, step, branch and size, and a name for what has none."""

import diffusers
import numpy as np
import pytest
import torch
from torch import nn

import entropylab
from entropylab import EntropyLabError, EntropyLabWarning

from ..attention import PlainAttention
from ..maps import materialised
from ..sampling import sample
from ..seeds import normal
from ..zoo import BY_NAME
from ..zoo.joint_parts import texts, two_steps
from .layers import Denoiser, run

WIDTH = 8
has_videos = pytest.mark.skipif(not hasattr(diffusers, "LTXVideoTransformer3DModel"), reason="diffusers before 0.32")


@pytest.mark.parametrize("name", ["random_pipe", "embedded"])
def test_every_layer_and_head_against_float64_maps(name, request):
    pipe = request.getfixturevalue(name)
    options = {"size": (72, 40), "steps": 2}
    plain = sample(pipe, **options)
    with entropylab.record(pipe, statistics=["entropy", "sigma2", "third", "sensitivity"]) as rec:
        assert torch.equal(sample(pipe, **options), plain)
    with materialised(pipe.unet) as maps:
        sample(pipe, **options)
    ds = rec.dataset
    assert rec.unmeasured == {} and list(ds.layer.values) == list(maps), "nor of text encoder or VAE"
    compare(ds, maps)
    with pytest.raises(AssertionError):
        compare(ds.assign(entropy=ds.entropy.roll(head=1, roll_coords=False)), maps)
    assert list(ds.branch.values) == ["uncond", "cond"]
    assert (int(ds.height[0]), int(ds.width[0])) == (72, 40)
    np.testing.assert_array_equal(ds.timestep, pipe.scheduler.timesteps.numpy())
    if name == "random_pipe":
        selfs = ds.isel(layer=ds.kind == "self")
        assert set(selfs.tokens.values.ravel()) == {180, 45} and set(selfs.train_tokens.values) == {256, 64}
        assert set(ds.tokens.isel(layer=ds.kind == "cross").values.ravel()) == {24}
        assert set(ds.block.values) == {"down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1"}


def compare(ds, maps):
    """Entropy and sigma^2 within 1e-4 of independent maps, for every layer, head, step, branch and sample."""
    for layer, calls in maps.items():
        entropies, variances = (torch.stack(each) for each in zip(*calls, strict=True))
        wanted = {
            "entropy": (entropies.mean(-1), 1e-4),
            "sigma2": (variances.mean(-1), 1e-4),
            "entropy_std": (entropies.std(-1, unbiased=False), 2e-4),
        }
        for name, (values, tolerance) in wanted.items():
            measured = ds[name].sel(layer=layer).isel(size=0, scaling=0, head=slice(values.shape[-1]))
            measured = measured.transpose("step", "branch", "sample", "head").values
            values = values.unflatten(1, measured.shape[1:3]).numpy()
            np.testing.assert_allclose(measured, values, atol=tolerance, rtol=1e-4)


class Bare(nn.Module):
    """Attention on a grid (batch, channels, [frames,] height, width), or on tokens (batch, tokens, channels).

    The second layer needs more than 30 tokens.
    """

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attn, self.more = PlainAttention(WIDTH), PlainAttention(WIDTH)

    def forward(self, hidden_states, timestep):
        tokens = hidden_states.flatten(2).mT if hidden_states.ndim > 3 else hidden_states
        tokens = 3 * self.attn(3 * tokens)
        return self.more(tokens) if tokens.shape[1] > 30 else tokens


def of_shapes(*shapes, **options):
    """What is recorded of a denoiser on its own that is called with these shapes, whose values are of their area."""
    model = Bare()
    with torch.no_grad(), entropylab.record(model, strict=True, **options) as rec:
        for shape in shapes:
            model(normal(*shape, seed=shape[-1]), torch.tensor(1.0))
    return rec.dataset


def grid(side):
    return (2, WIDTH, side, side)


def test_each_size_of_a_denoiser_on_its_own_has_the_numbers_it_has_alone():
    ds = of_shapes(grid(5), grid(8), grid(10))
    assert ds["size"].values.tolist() == ["5x5", "8x8", "10x10"]
    assert ds.height.values.tolist() == ds.width.values.tolist() == [5, 8, 10]
    np.testing.assert_array_equal(ds.tokens.sel(layer="model.attn"), [25, 64, 100])
    np.testing.assert_array_equal(ds.tokens.sel(layer="model.more"), [np.nan, 64, 100])
    for place, side in ((1, 8), (2, 10)):
        alone = of_shapes(grid(side)).entropy.isel(size=0)
        np.testing.assert_array_equal(ds.entropy.isel(size=place), alone)
        assert not np.array_equal(ds.entropy.isel(size=3 - place), alone)
    assert entropylab.fit(ds).slope == pytest.approx(entropylab.fit(ds.sel(layer=["model.attn"])).slope)
    smallest = entropylab.check(ds).smallest(0.1).set_index("layer")
    assert smallest.tokens_max.tolist()[0] == 100 and np.isnan(smallest.tokens_max["model.more"])
    assert entropylab.fit(ds).slope != pytest.approx(entropylab.fit(ds.isel(size=slice(1, None))).slope)


def test_forwards_of_one_size_are_steps_and_another_size_between_them_begins_anew():
    ds = of_shapes(*[grid(6)] * 3, *[grid(8)] * 2, *[grid(6)] * 3)
    assert dict(ds.sizes)["size"] == 2
    assert ds.entropy.notnull().all(["layer", "head"]).sum(["sample", "step"]).values.ravel().tolist() == [12, 4]


def test_tokens_without_a_grid_are_told_apart_by_their_number():
    ds = of_shapes((2, 40, WIDTH), (2, 60, WIDTH), keep=("layer",))
    assert ds["size"].values.tolist() == ["input 40x8", "input 60x8"]
    assert set(ds.height.values) == set(ds.width.values) == {-1}
    np.testing.assert_array_equal(ds.tokens.sel(layer="model.attn"), [40, 60])
    assert of_shapes(*[(2, 40, WIDTH)] * 2)["size"].values.tolist() == ["unknown"]


UNMEASURED = {
    "three of four images": ({"choose": lambda tokens: tokens[:3]}, "layers.0"),
    "six of four images": ({"choose": lambda tokens: torch.cat([tokens, tokens[:2]])}, "layers.0"),
    "no key": ({"mask": torch.zeros(6, 6, dtype=torch.bool)}, "no key"),
    "hidden": ({"hidden": True}, "could not be measured"),
}


@pytest.mark.parametrize("case", UNMEASURED)
def test_a_layer_that_can_not_be_measured_is_named(case):
    change, said = UNMEASURED[case]
    model = Denoiser()
    vars(model.layers[0]).update(change)
    with pytest.warns(EntropyLabWarning, match=said), entropylab.record(model) as rec:
        run(model)
    assert set(rec.unmeasured) == {"model.layers.0"} and "model.layers.0" in rec.dataset.attrs["unmeasured"]
    assert list(rec.dataset.layer.values) == ["model.layers.1"]
    with pytest.raises(EntropyLabError, match=said), entropylab.record(model, strict=True):
        run(model)


@pytest.mark.parametrize("first", [True, False])
def test_a_layer_that_hides_in_some_forwards_is_named(first):
    model = Denoiser()
    with pytest.warns(EntropyLabWarning, match="layers.1"), entropylab.record(model) as rec:
        for hidden in (first, not first):
            model.layers[1].hidden = hidden
            run(model)
    assert set(rec.unmeasured) == {"model.layers.1"} and rec.dataset.sizes["layer"] == 2


def test_nothing_to_measure():
    model = Denoiser(layers=1)
    with entropylab.record(model, layers="joint") as rec:
        with pytest.raises(EntropyLabError, match="nothing was measured yet"):
            _ = rec.dataset
        run(model)
    with pytest.raises(EntropyLabError, match=r"1 attention layer ran, and none is chosen by layers=.'joint'."):
        _ = rec.dataset
    model.layers[0].hidden = True
    with pytest.warns(UserWarning, match="could not be measured"), entropylab.record(model) as rec:
        run(model)
    with pytest.raises(EntropyLabError, match=r"1 attention layer ran, and none could be measured: model.layers.0"):
        _ = rec.dataset
    for thing, message in (("pipe", "a diffusers pipeline or a torch.nn.Module. Got str"), (nn.Linear(2, 2), "Linear")):
        with pytest.raises(EntropyLabError, match=message), entropylab.record(thing):
            pytest.fail("nothing may run")


def test_steps_that_had_several_timesteps_say_none(random_pipe):
    """Of two calls where they differ, and of the images of a batch that is trained on."""
    with entropylab.record(random_pipe) as rec:
        for steps in (2, 3):
            sample(random_pipe, steps=steps)
    assert rec.dataset.sizes["step"] == 3
    np.testing.assert_array_equal(rec.dataset.timestep, [np.nan, np.nan, 1])
    with entropylab.record(random_pipe) as rec:
        for _ in range(2):
            sample(random_pipe, steps=2)
    np.testing.assert_array_equal(rec.dataset.timestep, [501, 1])
    inputs = torch.zeros(2, 4, 8, 8), torch.zeros(2, 5, random_pipe.unet.config.cross_attention_dim)
    with entropylab.record(random_pipe.unet) as rec:
        for times in ([5, 5], [5, 7]):
            random_pipe.unet(inputs[0], torch.tensor(times), inputs[1])
    np.testing.assert_array_equal(rec.dataset.timestep, [5, np.nan])


def test_labels_that_sizes_or_rules_do_not_share_are_of_none(random_pipe):
    """Prompts and timesteps of calls that differ, in the Dataset and in the maps, whose steps are kept."""
    red, blue = ("a red car",), ("a blue house",)
    with entropylab.record(random_pipe, maps=True, keep=["step"]) as rec:
        sample(random_pipe, prompts=red, steps=2)
        sample(random_pipe, prompts=red, steps=3)
    (group, *_) = rec.maps["64x64"].children.values()
    np.testing.assert_array_equal(group.timestep, [np.nan, np.nan, 1])
    assert group.prompt.values.tolist() == [*red, *red]
    with entropylab.record(random_pipe, maps=True) as rec:
        sample(random_pipe, prompts=red, steps=2)
        with entropylab.rescale(random_pipe, "sqrt_log"):
            sample(random_pipe, prompts=blue, steps=3)
    (group, *_) = rec.maps["64x64"].children.values()
    assert "prompt" not in rec.dataset.coords and "prompt" not in group.coords
    np.testing.assert_array_equal(rec.dataset.timestep, [np.nan, np.nan, 1])
    for prompts, known in (((red, red), True), ((red, blue), False)):
        with entropylab.record(random_pipe) as rec:
            for size, each in zip((32, 64), prompts, strict=True):
                sample(random_pipe, size=(size, size), prompts=each, steps=1)
        assert ("prompt" in rec.dataset.coords) == known


@has_videos
def test_tokens_of_calls_that_differ_are_their_mean():
    """Of texts of 11 and of 27 tokens, in either order, beside 48 of the video."""
    family = BY_NAME["Mochi"]
    pipe, found = family.build(), []
    for order in ((11, 27), (27, 11)):
        with entropylab.record(pipe, layers="joint") as rec:
            for length in order:
                two_steps(pipe, *family.size, num_frames=7, **texts(length, (length,), (length,)))
        found.append(rec.dataset.tokens.values)
        assert rec.dataset["keys"].min() < found[-1].min() and rec.dataset["keys"].max() > found[-1].max()
        np.testing.assert_allclose(found[-1][0], rec.dataset["keys"].mean(["branch", "sample", "step", "head"])[0, 0])
    np.testing.assert_allclose(*found)


@has_videos
def test_videos_of_several_lengths_are_sizes_of_their_own():
    """CogVideoX packs nothing, LTX all: two and three frames of latents, of 4x6 tokens each."""
    for name, text, lengths in (("CogVideoX", 11, (5, 9)), ("LTX", 0, (9, 17))):
        family = BY_NAME[name]
        call = texts(11) if text else texts(11, (9,), (6,))
        with entropylab.record(pipe := family.build(), layers=["joint", "self"], maps=True) as rec:
            for frames in lengths:
                two_steps(pipe, *family.size, num_frames=frames, **call)
        height, width = family.size
        named = [f"{height}x{width} {frames} frames" for frames in lengths]
        assert rec.dataset["size"].values.tolist() == list(rec.maps) == named
        assert rec.dataset.height.values.tolist() == [height] * 2
        for place, frames in enumerate((2, 3)):
            assert set(rec.dataset.tokens.isel(size=place).values) == {24 * frames + text}
            with entropylab.record(pipe, layers=["joint", "self"]) as alone:
                two_steps(pipe, *family.size, num_frames=lengths[place], **call)
            assert alone.dataset["size"].item() == f"{height}x{width}"
            np.testing.assert_allclose(rec.dataset.entropy[place], alone.dataset.entropy[0], rtol=1e-5)
        assert not np.allclose(*rec.dataset.entropy, rtol=1e-5)
        assert rec.dataset.train_tokens.isnull().all(), "each length has its own"
    ds = of_shapes((2, WIDTH, 3, 5, 5), (2, WIDTH, 4, 5, 5))
    assert ds["size"].values.tolist() == ["5x5 input 8x3", "5x5 input 8x4"]
    np.testing.assert_array_equal(ds.tokens.sel(layer="model.attn"), [75, 100])


def test_a_step_that_stands_before_the_class_and_is_not_heard_is_said_to_be_why(random_pipe):
    own = random_pipe.scheduler.step
    random_pipe.scheduler.step = lambda *args, **more: own(*args, **more)
    with entropylab.record(random_pipe) as rec:
        random_pipe("a red car", height=32, width=32, num_inference_steps=1)
    with pytest.raises(EntropyLabError, match="no `step` of its scheduler was heard"):
        _ = rec.dataset


def test_loops_without_a_step_are_not_missed_in_silence_beside_others(random_pipe):
    """A sampler of one's own takes the scheduler's timesteps alone."""
    scheduler, text = random_pipe.scheduler, random_pipe.encode_prompt("a red car", "cpu", 1, False)[0]
    with pytest.warns(EntropyLabWarning, match="2 runs left nothing"), entropylab.record(random_pipe) as rec:
        sample(random_pipe, (32, 32), steps=2)
        for _ in range(2):
            scheduler.set_timesteps(2)
            for timestep in scheduler.timesteps:
                random_pipe.unet(normal(1, 4, 8, 8), timestep, text)
    assert rec.dataset.sizes["sample"] == 2
