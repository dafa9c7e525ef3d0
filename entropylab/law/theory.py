"""Formulas for the entropy of attention rows, as functions of arrays; entropies in nats.

The first part is the law and where it can hold. The second holds in any layer: it takes logits as they are, rows along
the last axis but one and keys along the last, -inf where the mask leaves a key out, which then is not one of the N.
Knows nothing of Datasets, tensors or models.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..gaussian import entropy_given_variance, table

Array = NDArray[Any]

TOLERANCE = 0.1
"""What the law may be off by [nats] before a threshold counts as passed."""


SKEWED = 0.05
"""Of |k3|/3 + |k4|/8 [nats], past which logits are so far from Gaussian that the law can be off by `TOLERANCE`: the
least that the simulation in ``recipes/thresholds.py`` finds with any of eight seeds, rounded down."""


def finite_term(sigma2: ArrayLike, tokens: ArrayLike) -> Array:
    """What finite N adds to the law [nats] for independent Gaussian logits: (2 s2 e^s2 - e^s2 + 1) / (2N).

    Good while e^s2 << N. ``sigma2`` is the variance that logits were drawn with.
    """
    s2 = np.asarray(sigma2, float)
    with np.errstate(over="ignore"):
        return ((2 * s2 - 1) * np.exp(s2) + 1) / (2 * np.asarray(tokens, float))


def largest_sigma2(tokens: ArrayLike, tolerance: float = TOLERANCE) -> Array:
    """The measured sigma^2 up to which N Gaussian logits keep to the law log N - sigma^2/2 within ``tolerance`` [nats].

    Past it few keys carry the row. It is 0.49 log N for N = 16 and 0.64 log N for N = 4096: no fixed share of freezing,
    2 log N.
    """
    sigma2 = table()["sigma"].astype(float) ** 2
    number = np.asarray(tokens, float)[..., None]
    off = abs(entropy_given_variance(sigma2, number) - np.log(number) + sigma2 / 2)
    past = (off > tolerance).argmax(-1)[..., None]
    high, low = (np.take_along_axis(off, place, -1) for place in (past, past - 1))
    share = (tolerance - low) / (high - low)
    return (sigma2[past - 1] + share * (sigma2[past] - sigma2[past - 1]))[..., 0]


def gaussian_entropy(sigma: ArrayLike, tokens: ArrayLike) -> Array:
    """Entropy h(sigma, N) [nats] that N independent Gaussian logits have on average, at any sigma and N.

    The random energy model without an approximation: h = F - sigma dF/dsigma, where F = E log sum_j exp(sigma g_j) is
    the integral over all u of exp(-e^u) - phi(e^u)^N with phi(t) = E exp(-t e^(sigma g)). Both integrals are sums over
    a fine grid, which for integrands as smooth as these is exact to about 1e-10.

    sigma is the standard deviation that logits were drawn with; for a few keys that measured over them is smaller.
    Average h over rows, never take h of a mean sigma: in one layer that alone was 0.8 nats.
    Sources: B. Derrida, Phys. Rev. B 24, 2613 (1981), for the model; the integral is Frullani's.

    Args:
        sigma: at least 0, broadcastable with ``tokens``. Of more than 100 different ones, h is interpolated from a
            grid, to about 1e-6 nats.
        tokens: N, at least 1; an average over rows may be a fraction.
    """
    sigma, tokens = np.broadcast_arrays(np.asarray(sigma, float), np.asarray(tokens, float))
    result = np.full(sigma.shape, np.nan)
    for number in np.unique(tokens[tokens >= 1]):
        here = (tokens == number) & (sigma >= 0) & np.isfinite(sigma)
        values, places = np.unique(sigma[here], return_inverse=True)
        if len(values) <= 100:
            result[here] = np.array([gaussian_of(value, number) for value in values])[places]
            continue
        from scipy.interpolate import CubicSpline  # takes longer to import than all that is used otherwise

        grid = np.linspace(values[0], values[-1], 1 + max(30, int(np.ceil((values[-1] - values[0]) / 0.05))))
        result[here] = CubicSpline(grid, [gaussian_of(value, number) for value in grid])(values)[places]
    return result


def gaussian_of(sigma: float, tokens: ArrayLike) -> Array:
    """`gaussian_entropy` of one sigma and one N, or several, for which the larger part of the work is done once."""
    tokens = np.asarray(tokens, float)
    width = 0.2
    u = np.arange(-9 * sigma - np.log(tokens.max()) - 40, 9 * sigma + 5, width)
    step = min(0.2, width / sigma) if sigma else 0.2
    g = np.arange(-9, 9 + step, step)
    density = np.exp(-(g**2) / 2) * step / np.sqrt(2 * np.pi)
    energy = np.exp(np.minimum(u[:, None] + sigma * g, 700))
    log_phi = np.log1p(-np.minimum(-np.expm1(-energy) @ density, 1 - 1e-16))
    moved = (energy * np.exp(-energy)) @ (density * g)  # minus dphi/dsigma
    free = np.exp(-np.exp(np.minimum(u, 700))) - np.exp(tokens[..., None] * log_phi)
    slope = tokens[..., None] * np.exp((tokens[..., None] - 1) * log_phi) * moved
    return np.asarray((free - sigma * slope).sum(-1) * width)


def row_entropy(logits: ArrayLike) -> Array:
    """Entropy [nats] of the softmax of every row: (..., keys) -> (...)."""
    return _row(np.asarray(logits, float))[0]


def sensitivity(logits: ArrayLike) -> Array:
    """Var_A[s], the attention-weighted variance of the logits [nats^2]: (..., keys) -> (...).

    dH/d log m = -Var_A[s] for a multiplier m on the scale, at that m: entropy falls strictly as the scale grows.
    """
    return _row(np.asarray(logits, float))[1]


def _row(logits: Array) -> tuple[Array, Array]:
    """Entropy and Var_A of rows. A key at -inf has weight 0, and 0 times its logit is 0."""
    shifted = logits - logits.max(-1, keepdims=True)
    weight = np.exp(shifted)
    known = np.where(weight > 0, shifted, 0.0)
    total = weight.sum(-1)
    mean = (weight * known).sum(-1) / total
    return np.log(total) - mean, (weight * (known - mean[..., None]) ** 2).sum(-1) / total


def rarefied_entropy(logits: ArrayLike, tokens: int, draws: int = 32, seed: int = 0) -> Array:
    """Mean entropy [nats] of every row over random subsets of ``tokens`` of its own keys: (..., keys) -> (...).

    What a row's entropy would be at a smaller size if its keys were exchangeable; no distribution is assumed and
    nothing is fitted. Named after rarefaction in ecology (H. L. Sanders, Am. Nat. 102, 243, 1968). From ``draws``
    subsets a row; for all of a row's keys it is its entropy. NaN where a row has fewer keys.

    Measured on two small models: the drift between sizes was predicted within 0.03 to 0.12 nats (rms over layers),
    where the law was 0.45 to 1.1 off.
    """
    logits = np.asarray(logits, float)
    rng = np.random.default_rng(seed)
    keys = np.isfinite(logits)
    total = np.zeros(logits.shape[:-1])
    for _ in range(draws):
        order = np.where(keys, rng.random(logits.shape), np.inf)
        chosen = np.argpartition(order, tokens - 1, axis=-1)[..., :tokens] if tokens < logits.shape[-1] else ...
        total += row_entropy(logits if chosen is ... else np.take_along_axis(logits, chosen, -1))
    return np.where(keys.sum(-1) >= tokens, total / draws, np.nan)


def local_slope(logits: ArrayLike) -> Array:
    """Slope dH/dlog N of every row at its own N, from one size: (..., keys) -> (...); 1 for uniform attention.

    The derivative of rarefaction, by leaving out one key: the sum over keys j of H - H(without j), where H(without j) =
    (H + A_j log A_j) / (1 - A_j) + log(1 - A_j). About 1 - sum_j A_j^2 (H + log A_j - 1/2) while every A_j is small. In
    rows that one key dominates, entropy without it is computed from the other keys. NaN for a single key, or none.
    """
    logits = np.asarray(logits, float)
    known = np.isfinite(logits)
    top = logits.argmax(-1)[..., None]
    with np.errstate(invalid="ignore", divide="ignore"):
        weight = np.exp(logits - np.take_along_axis(logits, top, -1))
        weight /= weight.sum(-1, keepdims=True)
        entropy = row_entropy(logits)[..., None]
        each = weight * np.log(np.where(weight > 0, weight, 1.0))
        without = (entropy + each) / (1 - weight) + np.log1p(-weight)
        others = logits.copy()
        np.put_along_axis(others, top, -np.inf, -1)
        np.put_along_axis(without, top, row_entropy(others)[..., None], -1)  # only this A_j can be near 1
    return np.where(known.any(-1), np.where(known, entropy - without, 0.0).sum(-1), np.nan)


def joint_slope(image_weight: ArrayLike, image_mean: ArrayLike, text_mean: ArrayLike) -> Array:
    """Slope dH/dlog N of joint attention, whose image keys alone grow with the picture: p (1 - (1-p) (e_img - e_text)).

    Args:
        image_weight: p, the attention that goes to image keys.
        image_mean: e_img, the attention-weighted mean of the logits within the image keys [nats].
        text_mean: e_text, that within the text keys [nats].
    """
    p = np.asarray(image_weight, float)
    return p * (1 - (1 - p) * (np.asarray(image_mean, float) - np.asarray(text_mean, float)))


def fraction_removed(variance: ArrayLike, trained: ArrayLike, slope: ArrayLike) -> Array:
    """The part of the drift that the paper's factor sqrt(log N / log T) removes near T: Var_A[s] / (2 log T slope).

    Exact as N goes to T, whatever the logits' distribution. Against what was measured in the embedded models: from 64
    to 72 pixels within 0.03 in the U-Net's layers and 0.05 in the joint model's; from 64 to 96 pixels within 0.09, but
    in the joint model's first layer, whose entropy hardly drifts, 0.15 to 0.27 too low.

    Args:
        variance: `sensitivity` at the training size [nats^2], mean over rows.
        trained: T, keys at the training size [tokens].
        slope: dH/dlog N there, measured or `local_slope`, mean over rows.
    """
    return np.asarray(variance, float) / (2 * np.log(np.asarray(trained, float)) * np.asarray(slope, float))


def log_power(entropy: ArrayLike, slope: ArrayLike, variance: ArrayLike, tokens: ArrayLike) -> Array:
    """The power p of log N that a factor m = (log N / log T)^p must have about this N to keep H / log N as it is.

    p = (slope log N - H) / Var_A[s], from one size and whatever the logits' distribution: N moves H by slope dlog N,
    and m by -Var_A dlog m, so that H / log N stays where dlog m / dlog log N is p. With 0 in the place of the entropy
    it is the power that keeps H itself, 1 / (2 `fraction_removed`). Local: at another N it is another.

    The paper's factor is p = 1/2, and Gaussian rows under the law, with slope 1 and Var_A = sigma^2, ask for just that.
    The formula is ours. Karakida and Hayase (arXiv:2605.12697, of which we know the abstract) derive powers from 1/2 to
    2 from how many logits lie within each gap of a row's largest; `critical_power` is nearer to what they ask.

    Args:
        entropy: H [nats], mean over rows that share m; 0 for the power that keeps H.
        slope: dH/dlog N, measured or `local_slope`, mean over the rows.
        variance: `sensitivity` [nats^2], mean over the rows.
        tokens: N.
    """
    return (np.asarray(slope, float) * np.log(tokens) - np.asarray(entropy, float)) / np.asarray(variance, float)


def critical_power(logits: ArrayLike, parts: int = 4, seed: int = 0) -> Array:
    """The power of log N with which the multiplier grows at which attention collapses: (..., rows, keys) -> (...).

    At the multiplier that brings the mean entropy of rows to log 2, two keys' worth, the largest logits of a row are
    being told apart and no others count. The power is how that multiplier changes from random ``1 / parts`` of the keys
    to all of them, dlog m / dlog log N: a matter of the upper tails of rows alone, however far from collapse the layer
    is. Gaussian rows have 0.8 from 64 to 256 keys, 0.6 from 1024 to 4096, and come down to 1/2, slowly; exponential
    tails have 0, heavier ones less than 0, and logits that end at a largest value more than 3.

    The definition is ours; see `log_power`. Rows share their number of keys. NaN where no multiplier does it.
    """
    rows = np.random.default_rng(seed).permuted(np.asarray(logits, float), axis=-1)
    number = rows.shape[-1] // parts
    few = rows[..., : parts * number].reshape(*rows.shape[:-2], -1, number)
    collapse = [np.log(multiplier_for(each, np.full(each.shape[:-2], np.log(2)))) for each in (few, rows)]
    return (collapse[1] - collapse[0]) / np.log(np.log(rows.shape[-1]) / np.log(number))


def one_size_multiplier(logits: ArrayLike, ratio: float, slope: ArrayLike | None = None) -> Array:
    """The multiplier m on the scale that keeps entropy at N = ratio T at what it is at T, from rows at T alone.

    Solves H(m; the rows at T) = H_T - slope log(N/T), H being the mean over rows, by Newton's method within brackets on
    dH/d log m = -Var_A[s]. Below 1 for N < T. NaN where no m does it: for a target outside 0 to log T.

    Args:
        logits: (..., rows, keys) at T, rows that share an m, such as those of a head.
        ratio: N / T.
        slope: dH/dlog N, of shape (...); by default the mean of `local_slope` over rows.
    """
    logits = np.asarray(logits, float)
    known = local_slope(logits).mean(-1) if slope is None else np.asarray(slope, float)
    return multiplier_for(logits, row_entropy(logits).mean(-1) - known * np.log(ratio))


def multiplier_for(logits: Array, target: Array) -> Array:
    """The multiplier at which the mean entropy of rows (..., rows, keys) is ``target`` (...) [nats]; NaN if none."""
    low, high = np.full(target.shape, -14.0), np.full(target.shape, 14.0)
    m = np.zeros(target.shape)  # log m
    for _ in range(80):
        entropy, variance = (value.mean(-1) for value in _row(logits * np.exp(m)[..., None, None]))
        low, high = np.where(entropy > target, m, low), np.where(entropy > target, high, m)
        with np.errstate(divide="ignore", invalid="ignore"):
            guess = m + (entropy - target) / variance
        following = np.where((guess > low) & (guess < high), guess, (low + high) / 2)
        if np.all(abs(following - m) < 1e-12):
            break
        m = following
    return np.where(abs(m) < 13, np.exp(m), np.nan)
