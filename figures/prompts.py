"""The embedded pipeline's forty prompts at its training size, ten to a row."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import xarray as xr
from PIL import Image

import shared
from entropylab.models.prompts import embedded_prompts

STEPS, COLUMNS = 25, 10


def measure(source: shared.Source) -> xr.Dataset:
    """The pictures, uint8."""
    prompts = embedded_prompts()
    images = shared.pictures(source, prompts, source.trained, steps=STEPS)
    data = {"pictures": (("prompt", "y", "x", "rgb"), images)}
    return xr.Dataset(data, {"prompt": prompts}, {"entropylab_version": version("entropylab")})


def draw(ds: xr.Dataset, out: Path) -> None:
    """Write prompts.png, pixel by pixel."""
    rows = [np.hstack(row) for row in ds["pictures"].values.reshape(-1, COLUMNS, *ds["pictures"].shape[1:])]
    Image.fromarray(np.vstack(rows)).save(out / "prompts.png")
    print(f"wrote {out / 'prompts.png'}", flush=True)


FILES = {"prompts.nc": measure}

if __name__ == "__main__":
    shared.command(__doc__, FILES, draw)
