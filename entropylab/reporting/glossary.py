"""The words of a report, for a reader who knows none of them."""

from ..law.validity import THRESHOLDS

GLOSSARY = (
    (
        "entropy H",
        "of a row of attention, −Σ A log A, in nats: 0 if one key has all the weight, log N if all have the same.",
    ),
    ("N", "the number of keys that a row of a layer attends to; it grows with the image, and differs by layer."),
    ("T", "the same number at the size that the model was trained at."),
    ("deficit D", "log N − H: how far a row is from uniform."),
    (
        "σ²",
        "the variance of a row's logits over its keys, measured in the same pass; k3 and k4 are their next cumulants.",
    ),
    (
        "the law",
        "H ≈ log N − σ²/2, exact for Gaussian logits and many keys; the first terms of a series in the cumulants.",
    ),
    (
        "flags",
        "rows where simulation says that the law can be off by 0.1 nats: skewed (|k3|/3 + |k4|/8 above "
        f"{THRESHOLDS.skewed}), small N (finite-N term above {THRESHOLDS.small_n}), near freezing (σ²/(2 log N) above "
        f"{THRESHOLDS.near_freezing}).",
    ),
    ("row, here", "a layer, head and size, its query rows averaged."),
    ("frozen", "σ² > 2 log N: few keys carry a row however many there are."),
    ("drift", "the entropy at a size less that at the training size, the model as it is."),
    ("sqrt_log", "the rule that multiplies the softmax scale by √(log N / log T)."),
    ("errors", "standard errors over samples, each with all its sizes; 95% intervals by Student's t."),
)
