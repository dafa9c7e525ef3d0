"""What watching costs, in Python function calls for every attention call: a number that no noise can blur."""

import cProfile
import pstats
from contextlib import nullcontext
from functools import partial

import pytest

import entropylab
from entropylab.entropy import native

from ..sampling import sample

CALLS = {"record": 59, "seen and not chosen": 27, "rescale": 38}
"""On top of the model's own, at most; 13 of them are PyTorch's and ours for a module that has hooks."""


def calls_a_step(pipe, watched):
    """Python function calls of one step, from two runs that differ in steps alone."""
    counts = []
    with watched:
        sample(pipe, steps=2)  # what is found out once about a model is found out here
        for steps in (2, 4):
            profile = cProfile.Profile()
            profile.enable()
            sample(pipe, steps=steps)
            profile.disable()
            counts.append(pstats.Stats(profile).total_calls)
    return (counts[1] - counts[0]) / 2


@pytest.mark.skipif(native.compiler() is None, reason="no C compiler on this machine")
def test_python_calls_for_an_attention_call(random_pipe):
    layers = len(entropylab.layers(random_pipe))
    plain = calls_a_step(random_pipe, nullcontext())
    watched = {
        "record": partial(entropylab.record, random_pipe),
        "seen and not chosen": partial(entropylab.record, random_pipe, layers="joint"),
        "rescale": partial(entropylab.rescale, random_pipe),
    }
    found = {name: (calls_a_step(random_pipe, begin()) - plain) / layers for name, begin in watched.items()}
    assert all(10 < found[name] < most for name, most in CALLS.items()), found
