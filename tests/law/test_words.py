"""Fits and checks in words, where little was measured: nothing that is not known is shown as a number."""

import entropylab
from tests.datasets import synthetic


def test_a_fit_without_errors_shows_none() -> None:
    fit = entropylab.fit(synthetic(sizes=((32, 32), (64, 64)), samples=1))
    assert repr(fit).startswith("Fit(slope=1.0000, intercept=") and repr(fit).endswith("errors not known)")
    assert "its error is not known" in fit.summary()
    assert "nan" not in fit.summary().lower() + repr(fit).lower()
    with_errors = entropylab.fit(synthetic(sizes=((32, 32), (64, 64)), samples=3, noise=0.1))
    assert "±" in repr(with_errors) and "slope 1? t = " in with_errors.summary()


def test_one_of_a_thing_is_singular() -> None:
    one = synthetic(sizes=((32, 32), (64, 64)), samples=1).isel(layer=[0])
    assert "1 self layer and" in entropylab.fit(one).summary() and "1 sample," in entropylab.fit(one).summary()
    assert "1 sample," in entropylab.check(one).summary()
    several = synthetic(samples=2)
    assert (
        "5 self layers and" in entropylab.fit(several).summary() and "2 samples," in entropylab.fit(several).summary()
    )


def test_simulated_attention_shows_its_shapes() -> None:
    made = entropylab.simulate(tokens=16, d=4, heads=2, queries=3)
    assert repr(made) == "Simulated(q=(1, 2, 3, 4), k=(1, 2, 16, 4), scale=0.5, sigma=1)"
    assert entropylab.simulate_dataset((16, 64), scaling="original", samples=1).scaling.values.tolist() == ["original"]
