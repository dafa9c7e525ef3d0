"""What a run can answer at all: how many samples, sizes and layers stand behind it, and what is missing."""

from collections.abc import Mapping, Sequence

from ...wording import counted
from ..words import listed


def amount(samples: int, sizes: Sequence[str], layers: int, heads: int) -> list[str]:
    """How much was measured, and what that much allows."""
    inside = f" with {counted(heads, 'head')} in all" if heads else ""
    places = f"{counted(layers, 'layer')}{inside}"
    first = f"Measured: {places} at {counted(len(sizes), 'size')}, in {counted(samples, 'sample')}."
    return [first, *few_samples(samples), *few_sizes(sizes)]


def few_samples(samples: int) -> list[str]:
    """What too few samples take away."""
    if samples == 1:
        return ["One sample says nothing about how pictures differ, so no error below is one of sampling."]
    if samples < 4:
        return [
            f"With {samples} samples there {'is' if samples == 2 else 'are'} only "
            f"{counted(samples - 1, 'degree')} of freedom for errors: 95% intervals are wide, and what can't be told "
            "apart here may well differ."
        ]
    return []


def few_sizes(sizes: Sequence[str]) -> list[str]:
    """What too few sizes take away."""
    if len(sizes) == 1:
        return [
            f"There is one size ({sizes[0]}), so nothing can be said about how entropy changes with size: measure "
            "several, e.g. with --sizes 32 64 128."
        ]
    if len(sizes) == 2:
        return ["Two sizes always lie on a straight line, so its straightness says nothing."]
    return []


def missing(unmeasured: Sequence[str], subset: bool, partial: Sequence[str] = ()) -> list[str]:
    """What was left out."""
    sentences = []
    if unmeasured:
        are = "layer ran and was" if len(unmeasured) == 1 else "layers ran and were"
        named = listed(unmeasured, 4)
        sentences.append(f"{len(unmeasured)} {are} not measured, and nothing here is about them: {named}.")
    if partial:
        have = "layer has" if len(partial) == 1 else "layers have"
        why = "no numbers at some sizes, steps or samples, where others have, so nothing here is about them"
        sentences.append(f"{len(partial)} {have} {why}: {listed(partial, 4)}.")
    if subset:
        sentences.append("Only a random subset of the query rows was looked at, which adds noise of its own.")
    return sentences


def differences(runs: Mapping[str, Mapping[str, str]]) -> list[str]:
    """In what runs differ beside the model, so that a difference in the numbers may be due to it.

    Args:
        runs: run -> setting -> its value in words.
    """
    settings = dict.fromkeys(name for values in runs.values() for name in values)
    differ = [
        f"{name} ({', '.join(values.get(name, 'not said') for values in runs.values())})"
        for name in settings
        if len({values.get(name, "not said") for values in runs.values()}) > 1
    ]
    if not differ:
        return (
            [f"The runs agree in {listed(settings)}, so nothing of that is why they differ below."] if settings else []
        )
    return [f"The runs differ in {listed(differ)}: what differs below may be due to that, and not to the models."]
