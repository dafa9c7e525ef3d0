"""The one exception type that callers of entropylab see."""


class EntropyLabError(ValueError):
    """Something that was handed to entropylab is not usable.

    The message names the argument, what was expected and what came.
    """


class EntropyLabWarning(UserWarning):
    """Something was left out of a result, which names it."""
