"""Runs that are joined: of other samples, sizes and rules, or of the same."""

from pathlib import Path

import pytest

import entropylab
from entropylab import EntropyLabError
from entropylab.measuring.cells import Cells, Counted, LayerLabel
from entropylab.measuring.layout import train_tokens
from entropylab.runs import merge
from entropylab.runs.merging import absorb

from .stub import PROMPTS, SAMPLES, again, bare, files, measure


@pytest.mark.parametrize("keep", [SAMPLES, ("layer", "head")])
def test_runs_of_other_seeds_sizes_and_rules_are_joined(keep: tuple[str, ...], tmp_path: Path) -> None:
    first = measure(tmp_path / "a", keep=keep, prompts=PROMPTS[:6])
    measure(tmp_path / "b", keep=keep, prompts=PROMPTS[6:], seed=6, scaling=(1.5, "original"))
    again(tmp_path / "c", keep=keep, prompts=PROMPTS[6:], seed=6)
    ds = merge([tmp_path / name for name in "abc"])
    assert bare(ds).identical(bare(measure(tmp_path / "whole", keep=keep)))
    assert ds.attrs["seed"] == [0, 6]
    assert not bare(first).identical(bare(ds))


@pytest.mark.parametrize(("growths", "known"), [((48, 48, 48), True), ((48, 96, 96), False), ((96, 96, 48), False)])
def test_units_in_which_a_layer_grows_otherwise_have_no_training_tokens(growths: tuple[int, ...], known: bool) -> None:
    """As when what a ``call`` samples differs: the last unit's growth was that of all."""
    whole, size = Cells(("",)), (32, 32)
    for more in growths:
        part = Cells(("",), layers={"a": LayerLabel("a", "a", "self", "image")}, grown={size: {"a": more}})
        part.counted[size] = {"a": Counted(16, 0, 16, 0)}
        absorb(whole, part)
    (found,) = train_tokens(whole, [size])
    assert found == 64 if known else found != found


def test_runs_that_do_not_belong_together_and_what_is_lost_of_one(run: Path, done: Path, tmp_path: Path) -> None:
    for name, options in {"steps": {"steps": 3}, "shifted": {"seed": 1}, "prompts": {"prompts": PROMPTS[::-1]}}.items():
        again(tmp_path / name, **options)
    with pytest.raises(EntropyLabError, match="runs must have one configuration.*num_inference_steps"):
        merge([run, tmp_path / "steps"])
    for name in ("shifted", "prompts"):
        with pytest.raises(EntropyLabError, match="runs must not share samples partly"):
            merge([run, tmp_path / name])
    for bad in ([], str(run), None):
        with pytest.raises(EntropyLabError, match="runs must be a list of at least one folder"):
            merge(bad)
    with pytest.raises(EntropyLabError, match="holds no run"):
        merge([tmp_path])
    files(run)[1].write_bytes(b"damaged")
    files(run)[3].unlink()
    assert bare(merge([run, done])).identical(bare(entropylab.open(done)))
