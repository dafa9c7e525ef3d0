"""Synthetic Datasets in the shape that `entropylab.measure` returns, with a law that is known."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from entropylab.dataset import ATTRIBUTE, describe

SIZES = ((32, 32), (48, 48), (64, 64), (96, 96), (128, 128), (96, 64), (64, 128))
BLOCKS = (
    ("down_blocks.0", 1, 4),
    ("down_blocks.1", 2, 8),
    ("mid_block", 4, 8),
    ("up_blocks.0", 2, 8),
    ("up_blocks.1", 1, 4),
)
"""Block, how much its latents are shrunk, heads."""

NOISY = {"noise": 0.05, "sample_slope": 0.02, "sample_level": 0.1}
"""Samples that differ, for `synthetic`."""

BOTH = ("original", "sqrt_log")
"""Two rules, for `synthetic`."""

SMALL = {"d": 16, "heads": 2, "queries": 32, "samples": 3}
"""What makes `entropylab.simulate_dataset` quick."""


def synthetic(
    *,
    sizes: Sequence[tuple[int, int]] = SIZES,
    scalings: Sequence[str] = ("original",),
    removed: dict[str, float] | None = None,
    branches: Sequence[str] = ("uncond", "cond"),
    samples: int = 6,
    steps: int = 3,
    slope: float = 1.0,
    sigma2: Sequence[float] = (0.8, 1.4, 2.0, 1.2, 0.6),
    noise: float = 0.0,
    sample_slope: float = 0.0,
    sample_level: float = 0.0,
    train: int = 64,
    seed: int = 0,
    average: Sequence[str] = (),
    cumulants: bool = False,
) -> xr.Dataset:
    """H = slope * log N - sigma2/2 in every self-attention layer, 77 keys and no dependence on size in cross-attention.

    Args:
        removed: by scaling, which fraction of the drift from the training size it takes away.
        sigma2: of each block [nats^2]; heads differ around it and their mean is it.
        noise: standard deviation [nats] of independent noise on every number.
        sample_slope, sample_level: standard deviation over samples of a slope about the mean log N, and of a level.
        train: training size [pixels].
        average: dims to average away; "sample" as `measure` does online, with count and m2.
        cumulants: also third and fourth, with deficit = sigma2/2 + third/3 + fourth/8.
    """
    rng = np.random.default_rng(seed)
    coords, heads = coordinates(sizes, scalings, branches, samples, steps, train)
    dims = ("size", "scaling", "branch", "sample", "step", "layer", "head")
    most = max(heads)
    logs = np.log(coords["tokens"][1])
    selves = np.array([kind == "self" for kind in coords["kind"][1]])
    variance = np.full((len(heads), most), np.nan)
    for row, count in enumerate(heads):
        variance[row, :count] = sigma2[row // 2] * (1 + 0.5 * np.linspace(-1, 1, count))
    trained = np.log(coords["train_tokens"][1])
    kept = np.array([1 - (removed or {}).get(name, 0.0) for name in scalings])
    mean = trained + kept[:, None] * (logs - trained)[:, None, :]
    entropy = np.where(selves, slope, 0.1) * mean
    entropy = entropy[:, :, None, None, None, :, None] - variance / 2
    entropy = np.broadcast_to(entropy, (*entropy.shape[:2], len(branches), samples, steps, *variance.shape)).copy()
    own = (
        sample_level * rng.standard_normal(samples)[None, :, None]
        + sample_slope * rng.standard_normal(samples)[None, :, None] * (logs - logs.mean(0))[:, None, :] * selves
    )
    entropy += own[:, None, None, :, None, :, None]
    entropy += noise * rng.standard_normal(entropy.shape)
    full = np.broadcast_to(variance, entropy.shape)
    data = {"entropy": (dims, entropy), "entropy_std": (dims, 0.1 * full), "sigma2": (dims, full)}
    if cumulants:
        data["entropy"] = (dims, entropy - full / 30 - full / 80)
        data |= {"third": (dims, full / 10), "fourth": (dims, full / 10)}
    attrs = {"model": "synthetic", "steps": steps, "seed": seed, "unmeasured": "[]", ATTRIBUTE: "0"}
    ds = xr.Dataset(data, coords=coords, attrs=attrs)
    ds["rows"] = ds["tokens"].round().astype("int64")
    ds["rows_empty"] = xr.zeros_like(ds["rows"])
    return thinned(ds, average)


def under_both(**options: Any) -> xr.Dataset:
    """Samples that differ, as the model is and under a rule that takes 30% of the drift away."""
    return synthetic(**{"scalings": BOTH, "removed": {"sqrt_log": 0.3}} | NOISY | options)


def coordinates(
    sizes: Sequence[tuple[int, int]],
    scalings: Sequence[str],
    branches: Sequence[str],
    samples: int,
    steps: int,
    train: int,
) -> tuple[dict, list[int]]:
    """The coordinates, and how many heads each layer has."""
    layers = [
        (f"unet.{block}.attentions.0.transformer_blocks.0.attn{1 + cross}", block, "cross" if cross else "self", f, h)
        for block, f, h in BLOCKS
        for cross in (0, 1)
    ]

    def keys(height: int, width: int) -> list[float]:
        return [77.0 if kind == "cross" else height / 4 / f * width / 4 / f for _, _, kind, f, _ in layers]

    coords = {
        "size": [f"{height}x{width}" for height, width in sizes],
        "height": ("size", [height for height, _ in sizes]),
        "width": ("size", [width for _, width in sizes]),
        "scaling": list(scalings),
        "branch": list(branches),
        "sample": np.arange(samples),
        "prompt": ("sample", [f"prompt {i}" for i in range(samples)]),
        "seed": ("sample", np.arange(samples)),
        "step": np.arange(steps),
        "timestep": ("step", np.linspace(999, 0, steps)),
        "layer": [layer[0] for layer in layers],
        "block": ("layer", [layer[1] for layer in layers]),
        "kind": ("layer", [layer[2] for layer in layers]),
        "head": np.arange(max(layer[4] for layer in layers)),
        "tokens": (("size", "layer"), np.array([keys(*size) for size in sizes])),
        "train_tokens": ("layer", np.array(keys(train, train))),
    }
    return coords, [layer[4] for layer in layers]


def thinned(ds: xr.Dataset, average: Sequence[str]) -> xr.Dataset:
    """Average dims away, samples with what is needed to merge; float32 as measured."""
    for dim in average:
        statistics = {name: value for name, value in ds.data_vars.items() if dim in value.dims}
        result = ds.mean(dim, keep_attrs=True)
        if dim == "sample":
            for name, value in statistics.items():
                result[f"{name}_m2"] = ((value - value.mean(dim)) ** 2).sum(dim).where(value.notnull().any(dim))
            result["samples"] = (("size", "scaling"), np.full((ds.sizes["size"], ds.sizes["scaling"]), ds.sizes[dim]))
        ds = result
    floats = [name for name, value in ds.data_vars.items() if value.dtype == float]
    return describe(ds.assign({name: ds[name].astype("float32") for name in floats}))


def own_mean(ds: xr.Dataset, name: str = "entropy") -> np.ndarray:
    """(size, sample) mean over self-attention layers, by plain numpy."""
    part = ds[name].isel(scaling=0, layer=ds["kind"].values == "self")
    values = part.transpose("size", "sample", "branch", "step", "layer", "head").values.astype(float)
    return np.nanmean(values, -1).mean((2, 3, 4))


def own_log_tokens(ds: xr.Dataset) -> np.ndarray:
    """(size,) mean log N over self-attention layers, by plain numpy."""
    return np.log(ds["tokens"].values[:, ds["kind"].values == "self"]).mean(1)


def norris() -> pd.DataFrame:
    """NIST StRD, Norris: linear least squares of lower difficulty; certified values in tests/law/test_lines.py."""
    y = """0.1 338.8 118.1 888.0 9.2 228.1 668.5 998.5 449.1 778.9 559.2 0.3 0.1 778.1 668.8 339.3 448.9 10.8 557.7
    228.3 998.0 888.8 119.6 0.3 0.6 557.6 339.3 888.0 998.5 778.9 10.2 117.6 228.9 668.4 449.2 0.2"""
    x = """0.2 337.4 118.2 884.6 10.1 226.5 666.3 996.3 448.6 777.0 558.2 0.4 0.6 775.5 666.9 338.0 447.5 11.6 556.0
    228.1 995.8 887.6 120.2 0.3 0.3 556.8 339.1 887.2 999.0 779.0 11.1 118.3 229.2 669.1 448.9 0.5"""
    return pd.DataFrame({"x": [float(v) for v in x.split()], "y": [float(v) for v in y.split()]})


def replicates(clusters: int = 8, number: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """x and y (replicate, size, sample) with slope 1; samples differ in slope and level."""
    rng = np.random.default_rng(3)
    x = np.broadcast_to(np.log([64, 144, 256, 576, 1024, 384])[:, None], (number, 6, clusters))
    own = rng.normal(0, 0.05, (number, 1, clusters)) * (x - x.mean(1, keepdims=True))
    return x, x - 0.5 + own + rng.normal(0, 0.1, (number, 1, clusters)) + rng.normal(0, 0.02, x.shape)


def flip_byte(path: Path, name: str) -> None:
    """Change a byte of a variable in a file."""
    import h5py

    with h5py.File(path) as file:
        chunk = file[name].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 0xFF
    path.write_bytes(content)
