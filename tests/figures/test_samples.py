"""The figure of pictures: what is drawn, and how much pictures change."""

from pathlib import Path

import numpy as np
import torch
import xarray as xr

import entropylab
from entropylab.figures import samples

from ..conftest import new_random_pipeline
from ..datasets import BOTH
from .made import whole


def pictures() -> xr.Dataset:
    """Black under "original", a fifth of white under the other rule; the second sample white throughout."""
    values = np.zeros((2, 2, 4, 8, 3), np.uint8)
    values[1, 0], values[:, 1] = 51, 255
    size, home = samples.as_variable(values, "scaling", "sample"), samples.as_variable(values[0, :, :, :4], "sample")
    coords = {"scaling": list(BOTH), "prompt": ("sample", ["a cat", "a dog"])}
    return xr.Dataset({"4x4": home, "4x8": size}, coords, {"train_size": "4x4", "entropylab_version": "0"})


def test_how_much_pictures_change() -> None:
    rows = samples.table(pictures())
    assert rows["prompt"].tolist() == ["a cat", "a dog", "mean"]
    np.testing.assert_allclose(rows["change"], [0.2, 0, 0.1])
    np.testing.assert_allclose(rows["other_pictures"], 1)
    alone = samples.table(pictures().isel(sample=[0]))
    assert alone["other_pictures"].isna().all()
    np.testing.assert_allclose(alone["change"], 0.2)


def test_pictures_have_the_numbers_of_the_paper(tmp_path: Path) -> None:
    small = pictures().rename({"4x4": "8x8", "4x8": "4x4"})
    large = pictures().rename({"4x4": "2x2", "4x8": "4x4"})
    for ds, home, name in ((small, "8x8", "figure3"), (large, "2x2", "figure4"), (pictures(), "4x4", "samples_4x8")):
        paths = samples.files(ds.assign_attrs(train_size=home), tmp_path / name)
        assert sorted(path.name for path in paths) == whole([name])


def test_pictures_are_drawn_row_by_row() -> None:
    (ax,) = samples.draw(pictures(), "4x8").axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["4x4\noriginal", "4x8\noriginal", "4x8\nsqrt_log"]
    shown = [float(image.get_array().mean()) for image in ax.images]
    assert shown == [0, 255, 0, 255, 51, 255]


def test_pictures_are_those_of_the_pipeline(folder: Path) -> None:
    ds = entropylab.open(folder / "pictures.nc")
    pipe = new_random_pipeline()
    seeds = [torch.Generator("cpu").manual_seed(seed) for seed in (0, 1)]
    prompts = ["a red heart", "a banana"]
    for rule in BOTH:
        with entropylab.rescale(pipe, rule):
            own = pipe(prompts, height=96, width=64, num_inference_steps=1, generator=seeds, output_type="np").images
        seeds = [seed.manual_seed(number) for number, seed in enumerate(seeds)]
        np.testing.assert_allclose(ds["96x64"].sel(scaling=rule) / 255, own, atol=0.003)
