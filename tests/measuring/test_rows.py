"""``rows=n``, a fixed random subset of the query rows; and statistics of Gaussian rows, of the slope, of fewer keys."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import entropylab
from entropylab import row_statistics

from ..joints import PARTS, inputs, new_joint
from ..maps import entropy_of, logits_of
from ..sampling import sample
from ..seeds import normal

QUERIES, KEYS, WIDTH, HEADS = 400, 64, 8, 240
ASKED = ("entropy", "gaussian", "slope", "rarefied")
RAREFIED = ("rarefied_half", "rarefied_quarter", "rarefied_eighth", "rarefied_sixteenth")
VALUES = ("gaussian", "unexplained", "slope", *RAREFIED)


class Plain(torch.nn.Module):
    """Nothing but an attention call."""

    def forward(self, query, key, mask=None):
        return F.scaled_dot_product_attention(query, key, key, attn_mask=mask)


def recorded(*given, **options):
    with entropylab.record(layer := Plain(), **options) as rec:
        layer(*given)
    return rec.dataset.squeeze(("size", "scaling", "branch", "step", "layer"))


def uneven(heads=4):
    """Query rows (1, heads, queries, d) of very different sharpness, and keys, other ones in every head."""
    query = 6 * normal(1, heads, QUERIES, WIDTH) * torch.rand(1, heads, QUERIES, 1, generator=torch.manual_seed(1))
    return query, normal(1, heads, KEYS, WIDTH, seed=2)


def test_the_mean_of_a_subset_is_unbiased_and_its_error_bar_covers_the_mean_over_all_rows():
    few, every = recorded(*uneven(HEADS), rows=50), recorded(*uneven(HEADS))
    apart, error = (few.entropy - every.entropy).values, few.entropy_se.values
    spread = apart.std() / np.sqrt(apart.size)
    assert abs(apart.mean()) < 3 * spread
    assert abs((apart + 0.1).mean()) > 3 * spread, "a bias of 0.1 nats would be noticed"
    for width, least, most in ((1.0, 0.60, 0.76), (1.96, 0.90, 0.99)):
        assert least < (np.abs(apart) < width * error).mean() < most
        assert not least < (np.abs(apart) < width * error / 2).mean() < most, "bars half as long would not"


def test_the_subset_is_the_same_in_every_run_and_its_error_is_of_what_it_leaves_out():
    query, key = uneven()
    one, two, every = recorded(query, key, rows=50), recorded(query, key, rows=50), recorded(query, key, rows=QUERIES)
    np.testing.assert_array_equal(one.entropy, two.entropy)
    assert int(one.rows) == 50
    assert not np.array_equal(one.entropy, recorded(query.roll(1, dims=-2), key, rows=50).entropy)
    plain = recorded(query, key)
    assert "entropy_se" not in plain
    np.testing.assert_array_equal(every.entropy_se, 0)
    np.testing.assert_array_equal(every.entropy, plain.entropy)


def test_the_variance_alone_is_that_of_the_logits():
    query, key = uneven()
    found = recorded(query, key, statistics="sigma2")
    np.testing.assert_allclose(found.sigma2[0], logits_of(query, key).var(-1, unbiased=False).mean(-1)[0], rtol=1e-5)
    assert "entropy" not in found


def means(query, key, mask=None):
    """Means over rows in float64, from statistics of each row: variable -> (batch, heads).

    What thinning takes away is taken from all rows, of which some may have too few keys to be thinned.
    """
    rows = row_statistics(query.double(), key.double(), mask=mask, statistics=ASKED)
    found = {name: rows[name] for name in ("entropy", "gaussian", "unexplained", "slope")}
    fallen = (rows.entropy[..., None] - rows.rarefied).nanmean(-2)
    thinned = rows.entropy.nanmean(-1)[..., None] - fallen
    found |= {name: value[..., None] for name, value in zip(RAREFIED, thinned.unbind(-1), strict=True)}
    return {name: value.nanmean(-1).numpy() for name, value in found.items()}


@pytest.mark.parametrize("masked", [False, True])
def test_means_over_rows_are_those_of_each_row(masked):
    query, key = normal(2, 3, 60, 8) * 3, normal(2, 3, 40, 8, seed=1)
    mask = None
    if masked:  # a row without keys, one with a single key, and many of which each lacks others
        mask = normal(2, 1, 60, 40, seed=2) > -0.5
        mask[:, :, 0] = False
        mask[:, :, 1] = torch.arange(40) == 3
    ds = recorded(query, key, mask, statistics=ASKED[::-1])
    for name, expected in means(query, key, mask).items():
        np.testing.assert_allclose(ds[name], expected, atol=1e-4, err_msg=name)
    assert int(ds.rows_empty) == (2 if masked else 0)
    assert ds.slope.attrs["units"] == "1" and ds.rarefied_half.attrs["units"] == "nats"


def test_of_more_rows_than_are_thinned():
    """Some of many rows are thinned; with the entropy of all rows that is nearer to that of all than these are."""
    count, key = 1500, normal(1, 12, 64, 8, seed=1)
    query = normal(1, 12, count, 8) * torch.linspace(0, 6, count)[:, None]
    every = means(query, key)
    some, few = (recorded(query, key, statistics=ASKED, rows=rows) for rows in (None, 256))
    np.testing.assert_allclose(some.entropy, every["entropy"], atol=1e-4)
    np.testing.assert_allclose(some.gaussian, every["gaussian"], atol=1e-4)
    np.testing.assert_allclose(some.slope, few.slope)
    for name in set(VALUES) - {"unexplained"}:  # of which the few rows may have none
        assert float((abs(few[name] - every[name]) / few[f"{name}_se"]).max()) < 5, name
    near, far = (float(((one.rarefied_half - every["rarefied_half"]) ** 2).mean()) for one in (some, few))
    assert near**0.5 < 0.5 * far**0.5


def test_in_joint_attention_the_image_alone_grows():
    model, given = new_joint(), inputs(40, 12)
    with entropylab.record(model, statistics=("slope", "rarefied")) as rec, torch.no_grad():
        model(**given)
    one = rec.dataset.sel(layer="model.blocks.0:image").squeeze(("size", "scaling", "branch", "step"))
    (call,) = model.calls()[0]
    image = (call.codes == PARTS.index("image"))[0]
    logits = logits_of(call.query, call.key)[:, :, image]
    keys = torch.arange(logits.shape[-1])
    falls = torch.stack([entropy_of(logits) - entropy_of(logits[..., keys != key]) for key in keys])
    expected = (falls[image].sum(0) * logits.shape[-1] / int(image.sum())).mean(-1)
    np.testing.assert_allclose(one.slope.transpose("sample", "head"), expected, atol=1e-4)
    assert float(abs(falls.sum(0).mean(-1) - expected).max()) > 0.01, "that of all keys is another"
    assert "entropy" not in rec.dataset


def test_pictures_stay_and_runs_and_files_keep_them(random_pipe, tmp_path):
    plain = sample(random_pipe, (32, 32), steps=1)
    with entropylab.record(random_pipe, statistics=ASKED, layers="self") as rec:
        assert torch.equal(sample(random_pipe, (32, 32), steps=1), plain)
    entropylab.save(rec.dataset, tmp_path / "ds.nc")
    kept = entropylab.open(tmp_path / "ds.nc")
    for name in VALUES:
        np.testing.assert_array_equal(kept[name], rec.dataset[name], err_msg=name)
    options = {"sizes": [32], "samples": 2, "steps": 1, "layers": "*mid_block*attn1", "progress": False}
    options |= {"prompts": ["a red car", "a blue house"], "batch_size": 1, "statistics": ASKED}
    ds = entropylab.measure(random_pipe, keep=["layer"], **options)
    run = entropylab.measure(random_pipe, out=tmp_path / "run", unit_samples=1, **options)
    for name in VALUES:
        np.testing.assert_allclose(run[name].mean(["branch", "step", "head"]), ds[name], atol=1e-4, err_msg=name)
        assert f"{name}_m2" in run
