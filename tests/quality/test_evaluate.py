"""``evaluate`` on pictures that a stub draws: the Dataset, paired changes, and errors before any sampling."""

import numpy as np
import pytest
import torch

import entropylab
from entropylab import EntropyLabError
from entropylab.quality.cost import Meter
from entropylab.quality.features import Features
from entropylab.quality.methods import resized
from entropylab.quality.saving import prompt_of, save_pictures

from ..runs.processes import CONTEXT
from ..runs.stub import Stub, judged

PROMPTS = [f"a thing of kind {number}" for number in range(5)]


class Colours(torch.nn.Module):
    """Four features: mean colours, and how uneven the picture is."""

    name = "mean colours"
    num_features = 4

    def forward(self, images):
        values = images.float() / 255
        return torch.cat([values.mean((-2, -1)), values.std((-3, -2, -1))[:, None]], 1)


def painted(pipe, size, prompts, generators):
    """Noise around a random colour; the softmax scale plays no part."""
    colours = [0.5 + 0.2 * torch.randn(3, 1, 1, generator=one) for one in generators]
    noise = [0.1 * torch.randn(3, *size, generator=one) for one in generators]
    return (torch.stack(colours) + torch.stack(noise)).clamp(0, 1)


def reference(count=200):
    return np.random.default_rng(5).normal(0.4, 0.2, (count, 4))


def quick(pipe, sizes=(32, 64), scaling=("original", "sqrt_log"), **options):
    given = {"prompts": PROMPTS, "call": painted, "features": Colours(), "reference": reference(), "samples": 12}
    settings = {"metrics": ("fid", "diversity", "time", "memory"), "resamples": 20, "progress": False}
    return entropylab.evaluate(pipe, list(sizes), scaling, **given | settings | options)


def test_dims_names_units_and_files(random_pipe, tmp_path):
    ds = quick(random_pipe, sizes=(32, (64, 48)), pictures=tmp_path)
    assert dict(ds.sizes) == {"size": 2, "scaling": 2, "bound": 2}
    assert list(ds["size"].values) == ["32x32", "64x48"]
    assert list(ds.width.values) == [32, 48]
    for name in ("fid", "pairwise_distance", "coverage", "recall"):
        assert ds[name].dims == ("size", "scaling")
        assert bool((ds[f"{name}_error"] >= 0).all())
        assert bool((ds[f"{name}_interval"].sel(bound="low") <= ds[name]).all())
        assert bool((ds[f"{name}_interval"].sel(bound="high") >= ds[name]).all())
    for variable in ds.data_vars.values():
        assert variable.attrs["units"] and variable.attrs["long_name"]
    known = {name: ds.attrs[name] for name in ("features", "comparable_with_published_fid", "samples")}
    assert known == {"features": "mean colours", "comparable_with_published_fid": 0, "samples": 12}
    assert bool((ds.time >= 0).all() and (ds.memory > 0).all())
    entropylab.save(ds, tmp_path / "evaluation.nc")
    assert entropylab.open(tmp_path / "evaluation.nc").fid.equals(ds.fid)
    found = sorted((tmp_path / "32x32" / "sqrt_log").iterdir())
    assert [path.name for path in found] == [*(f"{number:04d}.png" for number in range(12)), "part-000000-000011.json"]
    assert prompt_of(found[6]) == PROMPTS[1]


def test_changes_are_seed_by_seed_and_a_method_without_such_sizes_is_left_empty(random_pipe):
    """The stub's pictures are the same under both rules: nothing changes, and that is known without error."""

    def paler(pipe, size, prompts, generators):
        images = painted(pipe, size, prompts, generators)
        return images * 0.5 if size == (32, 32) else images

    rules = ("original", "sqrt_log", "resize", "multidiffusion")
    ds = quick(random_pipe, sizes=[32], scaling=rules, call=paler).isel(size=0)
    first, same, resized, none = (ds.sel(scaling=name) for name in rules)
    assert np.isnan(first.fid_change) and same.fid_change == 0 and (same.fid_change_interval == 0).all()
    assert same.fid_error > 0
    low, high = resized.fid_change_interval.values
    assert low <= resized.fid_change <= high and resized.fid_change != 0
    assert np.isnan(none.fid) and np.isnan(none.time)


def evaluated(folder, stop=None, **options):
    """An evaluation of 72 pictures, three units, that writes down what it draws, and may be stopped."""

    def noting(pipe, size, prompts, generators):
        with open(folder / "drawn.txt", "a") as drawn:
            drawn.write(f"{generators[0].initial_seed()}\n")
        if len(seeds_drawn(folder)) == stop:
            raise KeyboardInterrupt
        return painted(pipe, size, prompts, generators)

    torch.set_num_threads(1)
    given = {"samples": 72, "call": noting, "prompts": PROMPTS, "pictures": folder / "pictures", "batch_size": 4}
    return judged(Stub(), sizes=[8], scaling="original", **given | options)


def seeds_drawn(folder):
    return [int(line) for line in (folder / "drawn.txt").read_text().split()]


def test_an_evaluation_goes_on_where_it_was_stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        evaluated(tmp_path, stop=12)
    ds = evaluated(tmp_path)
    assert seeds_drawn(tmp_path) == [*range(0, 48, 4), *range(32, 72, 4)], "the unit in hand and the last one"
    again = evaluated(tmp_path)
    assert len(seeds_drawn(tmp_path)) == 22 and all(ds[name].equals(again[name]) for name in ds)
    assert ds.fid.equals(evaluated(tmp_path, pictures=None).fid)
    part = tmp_path / "pictures" / "8x8" / "original" / "part-000000-000031.json"
    record = part.read_text()
    with pytest.raises(EntropyLabError, match=r"holds those of something else \(seed: 0 there, 1 now\)"):
        evaluated(tmp_path, seed=1)
    part.write_text("{")
    with pytest.raises(EntropyLabError, match=r"000031\.json is damaged"):
        evaluated(tmp_path)
    for path in part.parent.glob("*.json"):
        path.unlink()
    part.with_name("made.json").write_text(record)
    before = len(seeds_drawn(tmp_path))
    assert evaluated(tmp_path).fid.equals(ds.fid)
    assert len(seeds_drawn(tmp_path)) == before, "an earlier version has finished it"


def test_other_peoples_files_are_left_alone(tmp_path):
    (tmp_path / "pictures" / "8x8" / "original").mkdir(parents=True)
    theirs = tmp_path / "pictures" / "8x8" / "original" / "0000.png"
    theirs.write_text("mine")
    with pytest.raises(EntropyLabError, match="must be an empty folder, or one of evaluate. .* are 8x8"):
        evaluated(tmp_path)
    assert theirs.read_text() == "mine" and not (tmp_path / "drawn.txt").exists()
    theirs.unlink()
    theirs.parent.rmdir()
    theirs.parent.parent.rmdir()
    evaluated(tmp_path, samples=8)
    (tmp_path / "pictures" / "notes.txt").write_text("of what was sampled there")
    assert evaluated(tmp_path, samples=8).attrs["samples"] == 8


def test_processes_share_the_pictures(tmp_path):
    processes = [CONTEXT.Process(target=evaluated, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(seeds_drawn(tmp_path)) == list(range(0, 72, 4)), "each once"


def test_a_folder_of_real_pictures(random_pipe, tmp_path):
    """Resized to every size; for the features of published FID as they are."""
    images = torch.randint(0, 256, (12, 3, 40, 24), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    save_pictures(images, ["p"] * 12, tmp_path)
    found = Features("mean colours", Colours()).reference(tmp_path, (64, 64))
    np.testing.assert_allclose(found.features, Colours()(resized(images, (64, 64))).double(), rtol=1e-6)
    assert found.size == (64, 64)
    given = Features("mean colours", Colours()).reference(images.permute(0, 2, 3, 1).numpy(), (64, 64))
    np.testing.assert_allclose(given.features, found.features, err_msg="pictures in an array are no features")
    published = Features("Inception", Colours(), published=True)
    np.testing.assert_allclose(published.reference(tmp_path, (64, 64)).features, Colours()(images).double(), rtol=1e-6)
    assert published.reference(tmp_path, (32, 32)) is published.reference(tmp_path, (64, 64))


def test_the_embedded_pipeline_needs_no_reference(embedded, sampled, prompts):
    """All metrics, with the pictures that were sampled for the other tests, at the training size."""

    def again(pipe, size, texts, generators):
        return sampled[[generator.initial_seed() for generator in generators]]

    metrics = ("fid", "clip", "diversity", "defects")
    ds = entropylab.evaluate(embedded, [64], "original", call=again, metrics=metrics, resamples=20, progress=False)
    assert ds.attrs["samples"] == len(sampled)
    assert ds.attrs["features"] == ds.attrs["clip_model"] == "emoji image-text features, 32-d"
    assert float(ds.clip_score[0, 0]) > 0.5
    assert 0 < float(ds.fid_real[0]) < float(ds.fid[0, 0])
    assert float(ds.clip_score_real[0]) > float(ds.clip_score[0, 0])
    assert float(ds.disagreement[0, 0]) == pytest.approx(1 - float(ds.clip_score[0, 0]), abs=1e-6)


def test_time_and_memory_are_those_of_what_runs_whatever_ran_before():
    def measured(floats):
        meter = Meter(torch.device("cpu"))
        with meter.batch(1):
            _ = [torch.ones(2**18) for _ in range(floats // 2**18)]
        return meter

    assert Meter(torch.device("cpu"), seconds=[9.0, 1.0, 3.0, 2.0]).time == 2, "without the first"
    assert Meter(torch.device("cpu"), seconds=[9.0]).time == 9
    little, much, again = (measured(floats) for floats in (0, 300 * 2**18, 0))
    assert 250 < much.memory_added < 350
    assert much.memory - little.memory > 200
    assert again.memory_added < 50 and much.memory - again.memory > 200, "not the process's all-time high"


def above(tokens, trained):
    return 1.1


above.__name__ = "../../above"

BAD = [
    ({"scaling": above, "pictures": "pictures"}, "rules must have names that folders can have. Got '../../above'"),
    ({"samples": 7}, "samples must be at least 8 pictures for a Frechet distance in 4 features, two a feature. Got 7"),
    ({"reference": reference(7)}, "reference must be at least 8 pictures"),
    ({"reference": list(np.zeros((7, 8, 8, 3)))}, "reference must be at least 8 pictures"),
    ({"reference": np.zeros(50)}, r"reference must be pictures, or features .* Got shape \(50,\)"),
    ({"reference": np.zeros((50, 3))}, "must have the 4 features of mean colours, all finite. Got 3"),
    ({"reference": np.full((50, 4), np.nan)}, "all finite. Got 4, 0 of 200 numbers finite"),
    ({"reference": None}, "reference must be given for a pipeline or for features other than the embedded"),
    ({"reference": "nowhere"}, "reference must be a folder of pictures"),
    ({"metrics": ("fid", "beauty")}, "metrics must be some of fid, clip"),
    ({"metrics": ("diversity",), "samples": 5}, "samples must be at least 8 for metric 'diversity'"),
    ({"steps": 3}, "with call=, set them there"),
    ({"resamples": 1}, "resamples must be an int >= 2"),
    ({"sizes": [70]}, "multiples of 8 pixels"),
    ({"metrics": ("time",), "reference": None}, "features is for metrics fid and diversity: leave it out"),
    ({"metrics": ("clip",), "features": None}, "reference is for metrics fid and diversity"),
    ({"clip": "a model"}, "clip is for metrics clip and defects"),
    ({"features": "resnet"}, "features must be 'inception' or"),
    ({"sizes": [32], "call": lambda *_: torch.zeros(4, 3, 8, 8)}, "call must give 4 pictures of 32x32 pixels"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_input_is_refused_before_any_sampling(random_pipe, options, message, monkeypatch, tmp_path):
    def never(*_):
        pytest.fail("sampling began")

    monkeypatch.chdir(tmp_path)
    with pytest.raises(EntropyLabError, match=message):
        quick(random_pipe, **{"call": never} | options)
