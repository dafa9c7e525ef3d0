"""The one exception type that callers of entropylab see."""


class EntropyLabError(ValueError):
    """Something that was handed to entropylab is not usable.

    The message names the argument, what was expected and what came.

    Examples:
        >>> import torch
        >>> entropylab.row_statistics(torch.zeros(1, 5, 8), torch.zeros(1, 9, 4))
        Traceback (most recent call last):
            ...
        entropylab.errors.EntropyLabError: q (..., heads, queries, d) and k (..., heads, keys, d) must agree in ...
    """


class EntropyLabWarning(UserWarning):
    """Something was left out of a result, which names it."""
