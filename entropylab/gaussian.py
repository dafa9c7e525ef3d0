"""Entropy of N Gaussian logits whose variance, measured over them, is known: a table, made by ``recipes/gaussian.py``.

`law.theory.gaussian_entropy` is of logits whose standard deviation is known before they are drawn. Of a row only that
measured over its keys is known; for a few keys the two differ (N = 4, sigma = 2: 0.58 and 0.77 nats).
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file

PATH = Path(__file__).with_name("gaussian.safetensors")


@cache
def table() -> dict[str, NDArray[Any]]:
    """``entropy`` [nats] (tokens, sigma), at numbers of keys ``tokens`` from 1 on, and ``sigma`` from 0 on; float32."""
    return load_file(PATH)


def entropy_given_variance(sigma2: ArrayLike, tokens: ArrayLike) -> NDArray[Any]:
    """Entropy [nats] that N Gaussian logits of measured variance ``sigma2`` have on average; they broadcast.

    Between entries of the table by straight lines in log N and log(1 + sigma), which is within 0.002 nats; past its
    largest sigma, 64, as 1 / sigma. NaN for less than one key.
    """
    from scipy.interpolate import RegularGridInterpolator  # takes longer to import than all that is used otherwise

    known = table()
    sigma2, tokens = np.broadcast_arrays(np.asarray(sigma2, float), np.asarray(tokens, float))
    with np.errstate(invalid="ignore", divide="ignore"):
        sigma, log_tokens = np.sqrt(sigma2), np.log(tokens)
        axes = np.log(known["tokens"].astype(float)), np.log1p(known["sigma"].astype(float))
        places = np.log(tokens), np.log1p(sigma)
        inside = [np.clip(place, axis[0], axis[-1]) for place, axis in zip(places, axes, strict=True)]
        between = RegularGridInterpolator(axes, known["entropy"].astype(float), bounds_error=False)  # but for NaN
        found = between(np.stack(inside, -1)).reshape(sigma2.shape)
        found = found * np.minimum(1, known["sigma"][-1] / sigma)
    return np.where(log_tokens >= 0, found, np.nan)
