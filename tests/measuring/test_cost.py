"""What watching costs, in Python function calls for every attention call: a number that no noise can blur."""

import cProfile
import pstats
from contextlib import nullcontext

import pytest

import entropylab
from entropylab.entropy import native

from ..sampling import sample

CALLS = 110
"""On top of the model's own, at most; most of them are PyTorch's for a module that has a hook."""


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
    watched = calls_a_step(random_pipe, entropylab.record(random_pipe))
    twice = calls_a_step(random_pipe, entropylab.record(random_pipe, layers="cross"))
    assert 10 < (watched - plain) / layers < CALLS
    assert twice < watched
