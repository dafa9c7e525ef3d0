"""Statistics of Gaussian rows, of the local slope and of fewer keys, as ``record`` and ``measure`` give them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import entropylab
from entropylab import EntropyLabError, row_statistics
from entropylab.measuring import reduce

from ..joints import PARTS, inputs, new_joint
from ..sampling import sample

ASKED = ("entropy", "gaussian", "slope", "rarefied")
RAREFIED = ("rarefied_half", "rarefied_quarter", "rarefied_eighth", "rarefied_sixteenth")
VALUES = ("gaussian", "unexplained", "slope", *RAREFIED)


class Plain(torch.nn.Module):
    """Nothing but an attention call."""

    def forward(self, query, key, mask=None):
        return F.scaled_dot_product_attention(query, key, key, attn_mask=mask)


def tokens(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def recorded(*given, **options):
    with entropylab.record(layer := Plain(), statistics=ASKED[::-1], **options) as rec:
        layer(*given)
    return rec.dataset.squeeze(("size", "scaling", "branch", "step", "layer"))


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
    query, key = tokens(2, 3, 60, 8) * 3, tokens(2, 3, 40, 8, seed=1)
    mask = None
    if masked:  # a row without keys, one with a single key, and many of which each lacks others
        mask = tokens(2, 1, 60, 40, seed=2) > -0.5
        mask[:, :, 0] = False
        mask[:, :, 1] = torch.arange(40) == 3
    ds = recorded(query, key, mask)
    for name, expected in means(query, key, mask).items():
        np.testing.assert_allclose(ds[name], expected, atol=1e-4, err_msg=name)
    assert int(ds.rows_empty) == (2 if masked else 0)
    assert ds.slope.attrs["units"] == "1" and ds.rarefied_half.attrs["units"] == "nats"


def test_of_a_sample_of_rows(monkeypatch):
    """Rarefaction of a sample is nearer to that of all rows than the sample's own mean: its entropy is known of all."""
    off = []
    for number in range(290, 302):  # of which others are chosen each time
        query, key = tokens(1, 4, number, 8) * torch.linspace(0, 6, number)[:, None], tokens(1, 4, 64, 8, seed=1)
        monkeypatch.setattr(reduce, "SAMPLED_ROWS", 1000)
        every = recorded(query, key)
        monkeypatch.setattr(reduce, "SAMPLED_ROWS", 50)
        some, few = recorded(query, key), recorded(query, key, rows=50)
        off.append([float((one.rarefied_half - every.rarefied_half).mean()) for one in (some, few)])
        np.testing.assert_array_equal(some.entropy, every.entropy)
        np.testing.assert_array_equal(some.gaussian, every.gaussian)
        np.testing.assert_allclose(some.slope, few.slope)
        for name in set(VALUES) - {"unexplained"}:  # of which the few rows may have none
            assert float((abs(few[name] - every[name]) / few[f"{name}_se"]).max()) < 5, name
    some, few = np.square(off).mean(0) ** 0.5
    assert some < 0.5 * few


def test_in_joint_attention_the_image_alone_grows():
    model, given = new_joint(), inputs(40, 12)
    with entropylab.record(model, statistics=("slope", "rarefied")) as rec, torch.no_grad():
        model(**given)
    one = rec.dataset.sel(layer="model.blocks.0:image").squeeze(("size", "scaling", "branch", "step"))
    (call,) = model.calls()[0]
    logits = call.query.double() @ call.key.double().transpose(-1, -2) / call.query.shape[-1] ** 0.5
    image = (call.codes == PARTS.index("image"))[0]
    logits = logits[:, :, image]
    whole = entropy(logits)
    fallen = sum(whole - entropy(without(logits, key)) for key in image.nonzero().ravel().tolist())
    expected = (fallen * logits.shape[-1] / int(image.sum())).mean(-1)
    np.testing.assert_allclose(one.slope.transpose("sample", "head"), expected, atol=1e-4)
    free = sum(whole - entropy(without(logits, key)) for key in range(logits.shape[-1])).mean(-1)
    assert float(abs(free - expected).max()) > 0.01, "that of all keys is another"
    assert "entropy" not in rec.dataset


def entropy(logits):
    weight = logits.softmax(-1)
    return -(weight * weight.log()).sum(-1)


def without(logits, key):
    return torch.cat([logits[..., :key], logits[..., key + 1 :]], -1)


def test_pictures_stay_and_runs_and_files_keep_them(random_pipe, tmp_path):
    plain = sample(random_pipe)
    with entropylab.record(random_pipe, statistics=ASKED, layers="self") as rec:
        watched = sample(random_pipe)
    assert torch.equal(torch.as_tensor(plain), torch.as_tensor(watched))
    entropylab.save(rec.dataset, tmp_path / "ds.nc")
    kept = entropylab.open(tmp_path / "ds.nc")
    for name in VALUES:
        np.testing.assert_array_equal(kept[name], rec.dataset[name], err_msg=name)
    options = {"sizes": [32, 64], "samples": 2, "steps": 1, "layers": "self", "progress": False}
    options |= {"prompts": ["a red car", "a blue house"], "batch_size": 1}
    ds = entropylab.measure(random_pipe, statistics=ASKED, keep=["layer"], **options)
    run = entropylab.measure(random_pipe, statistics=ASKED, out=tmp_path / "run", unit_samples=1, **options)
    for name in VALUES:
        mean = run[name].mean(["branch", "step", "head"])
        np.testing.assert_allclose(mean, ds[name], atol=1e-4, err_msg=name)
        assert f"{name}_m2" in run
    assert np.isfinite(ds.rarefied_sixteenth.sel(size="64x64")).all()


def test_unknown_statistics_are_named(random_pipe):
    with (
        pytest.raises(EntropyLabError, match="gaussian, slope, rarefied, each once"),
        entropylab.record(random_pipe, statistics=["rarefied_half"]),
    ):
        pass
