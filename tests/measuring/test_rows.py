"""``rows=n``: a fixed random subset of the query rows, its mean unbiased, its standard error right."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import entropylab

QUERIES, KEYS, WIDTH = 400, 64, 8


class Plain(torch.nn.Module):
    """Nothing but an attention call."""

    def forward(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(query, key, key)


def recorded(query, key, **options):
    with entropylab.record(layer := Plain(), **options) as rec:
        layer(query, key)
    return rec.dataset.squeeze()


def uneven(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Query rows (1, heads, queries, d) of very different sharpness."""
    generator = torch.Generator().manual_seed(seed)
    query, key = (torch.randn(1, 4, tokens, WIDTH, generator=generator) for tokens in (QUERIES, KEYS))
    return query * 6 * torch.rand(1, 1, QUERIES, 1, generator=generator), key


@pytest.fixture(scope="module")
def errors() -> tuple[np.ndarray, np.ndarray]:
    """Deviations of the subset's mean entropy from the mean over all rows, and the standard errors: (trial, head)."""
    trials = [(recorded(*uneven(seed), rows=50), recorded(*uneven(seed))) for seed in range(60)]
    apart = np.array([(few.entropy - every.entropy).values for few, every in trials])
    return apart, np.array([few.entropy_se.values for few, _ in trials])


def test_the_mean_is_unbiased(errors) -> None:
    apart, _ = errors
    bias, spread = apart.mean(), apart.std() / np.sqrt(apart.size)
    assert abs(bias) < 3 * spread
    assert abs((apart + 0.1).mean()) > 3 * spread, "a bias of 0.1 nats would be noticed"


@pytest.mark.parametrize(("width", "least", "most"), [(1.0, 0.60, 0.76), (1.96, 0.90, 0.99)])
def test_the_error_bar_covers_the_mean_over_all_rows(errors, width, least, most) -> None:
    apart, error = errors
    assert least < (np.abs(apart) < width * error).mean() < most
    assert not least < (np.abs(apart) < width * error / 2).mean() < most, "bars half as long would not"


def test_without_a_subset_there_is_no_error() -> None:
    query, key = uneven(0)
    assert "entropy_se" not in recorded(query, key)
    np.testing.assert_array_equal(recorded(query, key, rows=QUERIES).entropy_se, 0)
    np.testing.assert_array_equal(recorded(query, key, rows=QUERIES).entropy, recorded(query, key).entropy)


def test_the_subset_is_the_same_in_every_run_and_other_for_other_lengths() -> None:
    query, key = uneven(0)
    one, two = (recorded(query, key, rows=50) for _ in range(2))
    np.testing.assert_array_equal(one.entropy, two.entropy)
    assert int(one.rows) == 50
    moved = recorded(query.roll(1, dims=-2), key, rows=50)
    assert not np.array_equal(one.entropy, moved.entropy)


def test_the_variance_alone_needs_no_pass_over_the_keys(monkeypatch) -> None:
    """sigma^2 = scale^2 q^T Cov(K) q: neither a map nor an attention call."""
    from entropylab.entropy import native, sdpa

    for backend, name in ((sdpa, "attend"), (native, "asked")):
        monkeypatch.setattr(backend, name, lambda *_: pytest.fail("attention was computed"))
    query, key = uneven(2)
    logits = query.double() @ key.double().mT / WIDTH**0.5
    found = recorded(query, key, statistics="sigma2")
    np.testing.assert_allclose(found.sigma2, logits.var(-1, unbiased=False).mean(-1)[0], rtol=1e-5)
    with pytest.raises(pytest.fail.Exception, match="attention was computed"):
        recorded(query, key)
