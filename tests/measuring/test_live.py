"""``on_step``: every step's Dataset while a pipeline samples or a model is trained; together they are the whole."""

import contextlib
import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr

import entropylab
from entropylab import EntropyLabError, EntropyLabWarning
from recipes.text import WIDTH

from ..sampling import sample
from ..zoo import BY_NAME


def together(found):
    """The Datasets of all steps as one."""
    return xr.concat(found, "step", data_vars="minimal", coords="minimal", compat="override", join="outer")


@pytest.mark.parametrize("keep", [None, ("step", "head"), ()])
def test_the_steps_together_are_the_dataset(random_pipe, keep):
    found, known = [], []
    images = sample(random_pipe, (32, 32), steps=3)
    with entropylab.record(random_pipe, keep=keep, on_step=found.append) as rec:
        watched = sample(random_pipe, (32, 32), steps=3, callback_on_step_end=lambda *_: known.append(len(found)) or {})
    assert torch.equal(images, watched)
    assert known == [1, 2, 3], "they come while it samples"
    assert [ds.step.item() for ds in found] == [0, 1, 2]
    assert [float(ds.timestep[0]) for ds in found] == sorted((float(ds.timestep[0]) for ds in found), reverse=True)
    for name in ("entropy", "sigma2", "entropy_std"):
        whole, steps = rec.dataset[name], together(found)[name]
        steps = steps if "step" in whole.dims else steps.mean("step")
        np.testing.assert_allclose(steps.transpose(*whole.dims), whole, rtol=1e-6)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(found[0].entropy, found[1].entropy, rtol=1e-6)


def test_measure_tells_what_is_sampled(random_pipe, tmp_path):
    found, long = [], []
    options = {"samples": 3, "batch_size": 2, "steps": 2, "prompts": ["a red car"], "progress": False}
    rules = ("original", "sqrt_log")
    ds = entropylab.measure(random_pipe, [32, 64], scaling=rules, on_step=found.append, **options)
    names = [(str(each["size"].item()), str(each.scaling.item())) for each in found]
    assert names == [(size, rule) for size in ("32x32", "64x64") for rule in rules for _ in range(2 * 2)]
    assert [each.seed.values.tolist() for each in found[:4]] == [[0, 1], [0, 1], [2], [2]]
    one = found[-1].squeeze(["size", "scaling", "step"])
    alike = ds.sel(size="64x64", scaling="sqrt_log").isel(step=1, sample=slice(2, 3))
    xr.testing.assert_equal(one.entropy.drop_vars("sample"), alike.entropy.drop_vars("sample"))
    entropylab.measure(random_pipe, [32], out=tmp_path, on_step=long.append, **options)
    assert len(long) == 4 and set(long[0].entropy.dims) == {"size", "scaling", "branch", "step", "layer", "head"}
    with pytest.raises(EntropyLabError, match="on_step is called where the pipeline samples: leave it out with engine"):
        entropylab.measure(entropylab.load, [32], out="nowhere", engine="ray", on_step=print)


@pytest.mark.parametrize("are_errors", [False, True])
def test_whoever_is_told_and_fails_is_told_no_more(random_pipe, are_errors):
    """Where warnings are errors, its failure is raised at the end."""
    told = []

    def fail(ds):
        told.append(ds)
        raise OSError("the logger\nis down")

    plain, said = sample(random_pipe, (32, 32)), "on_step is not called again, after OSError: the logger is down"
    caught = pytest.raises(EntropyLabWarning, match=said) if are_errors else pytest.warns(EntropyLabWarning, match=said)
    with caught, warnings.catch_warnings() if are_errors else contextlib.nullcontext():
        if are_errors:
            warnings.simplefilter("error")
        with entropylab.record(random_pipe, on_step=fail) as rec:
            images = sample(random_pipe, (32, 32))
    assert torch.equal(images, plain)
    assert len(told) == 1 and rec.dataset.sizes["step"] == 3 and rec.unmeasured == {}


def test_ctrl_c_in_it_ends_sampling_and_loses_nothing(random_pipe):
    def interrupt(ds):
        if ds.step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), entropylab.record(random_pipe, on_step=interrupt) as rec:
        sample(random_pipe, (32, 32), steps=3)
    assert rec.dataset.sizes["step"] == 2


def train(unet, watched, wrap=lambda unet: unet, bf16=False):
    """Entropies of two training steps by layer, if they are watched, and all gradients of the last."""
    torch.manual_seed(0)
    found, model = [], wrap(unet)
    text = torch.randn(2, 7, unet.config.cross_attention_dim)
    for _ in range(2):
        latents, times = torch.randn(2, 4, 8, 8), torch.randint(1000, (2,))
        unet.zero_grad()
        with entropylab.record(model, keep=["layer"], on_step=found.append) if watched else contextlib.nullcontext():
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                loss = F.mse_loss(model(latents, times, text).sample.float(), latents)
            loss.backward()
    return found, torch.cat([parameter.grad.flatten() for parameter in unet.parameters() if parameter.grad is not None])


@pytest.fixture
def group(tmp_path):
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_training_is_watched_and_goes_on_as_it_would(random_pipe, group):
    unet = random_pipe.unet.train()
    plain, _ = train(unet, watched=True)
    parallel = torch.nn.parallel.DistributedDataParallel
    for checkpointed, wrap, bf16 in ((False, lambda unet: unet, True), (True, parallel, False)):
        (unet.enable_gradient_checkpointing if checkpointed else unet.disable_gradient_checkpointing)()
        found, gradients = train(unet, True, wrap, bf16)
        _, wanted = train(unet, False, wrap, bf16)
        assert torch.equal(gradients, wanted)
        assert len(found) == 2
        for ours, theirs in zip(found, plain, strict=True):
            np.testing.assert_array_equal(ours.rows, theirs.rows)  # nothing computed again on the way back is counted
            np.testing.assert_allclose(ours.entropy, theirs.entropy, rtol=2e-2 if bf16 else 1e-6)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(plain[0].entropy, plain[1].entropy, rtol=1e-6)


def test_what_it_makes_the_pipeline_do_is_not_measured(random_pipe):
    """It may sample, or ask the denoiser, by the same pipeline: nothing of that is in the record around it."""
    with entropylab.record(random_pipe) as alone:
        sample(random_pipe, steps=3)
    told, own = [], []

    def look(ds):
        told.append(ds.step.item())
        random_pipe.unet(torch.zeros(1, 4, 4, 4), 1, torch.zeros(1, 3, WIDTH))
        scheduler = random_pipe.scheduler
        random_pipe.scheduler = copy.deepcopy(scheduler)
        with entropylab.record(random_pipe) as inner:
            sample(random_pipe, size=(32, 32), steps=1)
        random_pipe.scheduler = scheduler
        own.append(inner.dataset)

    with torch.no_grad(), entropylab.record(random_pipe, on_step=look) as rec:
        sample(random_pipe, steps=3)
    assert told == [0, 1, 2] and all(ds.sizes["step"] == 1 for ds in own)
    xr.testing.assert_identical(rec.dataset.drop_attrs(), alone.dataset.drop_attrs())


@torch.no_grad()
def own_panorama(pipe):
    """A loop of one's own: two views of the picture at each step."""
    scheduler, latents = pipe.scheduler, torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    scheduler.set_timesteps(2)
    for timestep in scheduler.timesteps:
        done = []
        for view in (latents[..., :16], latents[..., 8:]):
            noise = pipe.unet(view, timestep, torch.zeros(1, 3, WIDTH)).sample
            done.append(scheduler.step(noise, timestep, view).prev_sample)
        latents = torch.cat([done[0][..., :12], done[1][..., 4:]], -1)


@pytest.mark.parametrize("is_own", [False, True])
def test_a_step_in_several_views_is_told_once(random_pipe, is_own):
    family = BY_NAME["MultiDiffusion Panorama"]
    pipe, work, found, views = family.build(), family.sample, [], []
    if is_own:
        pipe, work = random_pipe, own_panorama
    pipe.unet.register_forward_hook(lambda *_: views.append(len(found)))
    with entropylab.record(pipe, on_step=found.append) as rec:
        work(pipe)
    assert views == [0, 0, 0, 1], "a step is told when it is known that no view of it is left"
    assert [ds.step.item() for ds in found] == [0, 1]
    np.testing.assert_allclose(together(found).entropy.transpose(*rec.dataset.entropy.dims), rec.dataset.entropy)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(found[0].entropy, found[1].entropy)
