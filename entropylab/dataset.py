"""Measured Datasets: the names and units of their variables, and how one of ours is known."""

from typing import Any

import xarray as xr

from .errors import EntropyLabError

ATTRIBUTE = "entropylab_version"
"""The attribute by which a Dataset of ours is known."""

UNITS: dict[str, tuple[str, str]] = {
    "entropy": ("nats", "attention entropy of a row, mean over query rows"),
    "entropy_std": ("nats", "attention entropy of a row, standard deviation over query rows"),
    "sigma2": ("nats^2", "variance of a row's logits over the keys, mean over query rows"),
    "third": ("nats^3", "third cumulant of a row's logits over the keys, mean over query rows"),
    "fourth": ("nats^4", "fourth cumulant of a row's logits over the keys, mean over query rows"),
    "sensitivity": ("nats^2", "attention-weighted variance of a row's logits, -dH/d log(scale), mean over query rows"),
    "lse": ("nats", "log-sum-exp of a row's logits, mean over query rows"),
    "mean": ("nats", "mean of a row's logits over the keys, mean over query rows"),
    "gaussian": ("nats", "entropy that Gaussian logits of a row's variance would have, mean over query rows"),
    "unexplained": ("1", "query rows whose entropy is more than two spreads from that of Gaussian logits, a fraction"),
    "slope": ("1", "slope dH/dlog N of a row at its own N, by leaving out a key, mean over query rows"),
    **{
        f"rarefied_{part}": ("nats", f"entropy of a row among a random {part} of its keys, mean over query rows")
        for part in ("half", "quarter", "eighth", "sixteenth")
    },
    "keys": ("tokens", "keys that the mask leaves to a row, mean over query rows"),
    "keys_image": ("tokens", "keys of the image that the mask leaves to a row, mean over query rows"),
    "mass_image": ("1", "weight that a row gives to keys of the image, mean over query rows"),
    "mass_text": ("1", "weight that a row gives to keys of text, mean over query rows"),
    "entropy_between": ("nats", "entropy of a row between the sorts of keys, mean over query rows"),
    "entropy_from_image": ("nats", "weight times entropy of a row within the keys of the image, mean over query rows"),
    "entropy_from_text": ("nats", "weight times entropy of a row within the keys of text, mean over query rows"),
    "entropy_from_other": ("nats", "weight times entropy of a row within all other keys, mean over query rows"),
    "entropy_image": ("nats", "entropy of a row within the keys of the image, mean over query rows"),
    "entropy_text": ("nats", "entropy of a row within the keys of text, mean over query rows"),
    "sigma2_image": ("nats^2", "variance of a row's logits over the keys of the image, mean over query rows"),
    "rows": ("rows", "query rows averaged"),
    "rows_empty": ("rows", "query rows left no key by the mask, not averaged"),
    "rows_bad": ("rows", "query rows with NaN or infinity in their query or keys, not averaged"),
    "samples": ("samples", "samples averaged"),
    "size": ("label", "image size, height x width in pixels"),
    "height": ("pixels", "image height"),
    "width": ("pixels", "image width"),
    "scaling": ("label", "rule for the scaling factor of attention"),
    "branch": ("label", "branch of classifier-free guidance"),
    "sample": ("1", "sample"),
    "prompt": ("label", "prompt of the sample"),
    "seed": ("1", "seed of the sample's noise"),
    "step": ("1", "sampling step"),
    "timestep": ("1", "timestep of the noise schedule"),
    "layer": ("label", "module path of the attention layer"),
    "block": ("label", "block of the denoiser that the layer belongs to"),
    "kind": ("label", "kind of attention: self, cross, joint or temporal"),
    "part": ("label", "what the layer's query rows stand for: image, text, reference, other, all, or unknown"),
    "module": ("label", "path of the module that attends"),
    "head": ("1", "attention head"),
    "multiplier": ("1", "factor on the softmax scale, mean over heads"),
    "tokens": ("tokens", "N, mean number of keys of a row"),
    "y": ("pixels", "centre of a token, from the top of the image"),
    "x": ("pixels", "centre of a token, from the left of the image"),
    "frame": ("1", "frame of the latent video"),
    "token": ("1", "token"),
    "order": ("1", "place of the layer among all, in the order in which data met them"),
    "train_tokens": ("tokens", "T, number of keys of a row at the training size"),
}
"""Units and long name of every variable and coordinate that ``measure`` returns, by name."""


def describe(ds: xr.Dataset) -> xr.Dataset:
    """``ds`` with ``units`` and ``long_name`` on every variable and coordinate that ``UNITS`` knows; a shallow copy."""
    described = ds.copy(deep=False)
    for name, variable in described.variables.items():
        known = units_of(str(name))
        if known is not None:
            variable.attrs = {**variable.attrs, "units": known[0], "long_name": known[1]}
    return described


def units_of(name: str) -> tuple[str, str] | None:
    """Units and long name of a variable; None for one that is not of ours."""
    stem = name.removesuffix("_m2").removesuffix("_sample_std").removesuffix("_se")
    if stem not in UNITS:
        return None
    units, long_name = UNITS[stem]
    if name.endswith("_se"):
        return units, f"{long_name}; standard error, for not all query rows were looked at"
    if name.endswith("_m2"):
        return squared(units), f"{long_name}; sum over samples of squared deviations from their mean"
    return units, f"{long_name}; standard deviation over samples" if name.endswith("_sample_std") else long_name


def squared(units: str) -> str:
    """The square of ``units``: nats^2 of nats, nats^4 of nats^2."""
    base, _, power = units.partition("^")
    return f"{base}^{2 * int(power or 1)}"


def check_ours(ds: Any) -> xr.Dataset:
    """``ds``, if it is a Dataset that was measured."""
    if not isinstance(ds, xr.Dataset):
        raise EntropyLabError(f"ds must be an xarray.Dataset that measure returned. Got {type(ds).__name__}.")
    if ATTRIBUTE not in ds.attrs:
        raise EntropyLabError(
            f"ds must be a Dataset that measure returned, or a part of one. Got one without the attribute {ATTRIBUTE}; "
            "operations that drop it take keep_attrs=True."
        )
    return ds
