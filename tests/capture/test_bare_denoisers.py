"""``record`` on denoisers without a pipeline."""

import numpy as np
import pytest
import torch

from entropylab.capture import intercept

from ..maps import entropy_of, logits_of
from ..seeds import normal
from .bare import measured, recorded, sharpened


def every_call(model, **arguments):
    """Entropies of each attention call of a denoiser, (batch, heads, queries), by float64 maps of what is intercepted
    where no mask is."""
    calls = []
    with intercept({"model": model}, calls.append), torch.no_grad():
        model(**arguments)
    assert all(call.mask is None for call in calls)
    return {call.layer: entropy_of(logits_of(call.query, call.key, call.scale)) for call in calls}


def flux_transformer(**options):
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    return sharpened(
        FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=12, pooled_projection_dim=12, axes_dims_rope=(2, 2, 4), **options,
        )
    )  # fmt: skip


def flux_arguments(height, width, text, batch=2):
    places = [(0, y, x) for y in range(height) for x in range(width)]
    return {
        "hidden_states": normal(batch, height * width, 16),
        "encoder_hidden_states": normal(batch, text, 12, seed=1),
        "pooled_projections": normal(batch, 12, seed=2),
        "timestep": torch.full((batch,), 0.5),
        "img_ids": torch.tensor(places, dtype=torch.float32),
        "txt_ids": torch.zeros(text, 3),
    }


def test_a_bare_flux_transformer_called_with_other_lengths_each_time():
    """Text before the image; of another length, and as long as the image, in the same recording."""
    model = flux_transformer()
    for height, width, text in [(3, 4, 5), (3, 4, 7), (4, 4, 16), (2, 3, 5)]:
        given = flux_arguments(height, width, text)
        ds, expected = recorded(model, **given), every_call(model, **given)
        assert set(ds.kind.values) == {"joint"}
        for layer, entropy in expected.items():
            for part, rows in (("text", slice(0, text)), ("image", slice(text, None))):
                one = measured(ds.sel(layer=[f"{layer}:{part}"]))[0]
                np.testing.assert_allclose(one, entropy[..., rows].mean(-1), atol=2e-5)
        assert set(ds.tokens.values.ravel()) == {height * width + text}
        assert set(ds.keys_image.values.ravel()) == {height * width}


def test_reference_tokens_of_a_bare_flux_3():
    """The reference comes as an input of its own, which the model puts behind the image."""
    import diffusers

    if not hasattr(diffusers, "Flux3Transformer2DModel"):
        pytest.skip("this release of diffusers has no FLUX.3")
    torch.manual_seed(0)
    model = diffusers.Flux3Transformer2DModel(
        in_channels=8, cond_in_channels=8, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=12, timestep_channels=16, axes_dims_rope=(2, 2, 2, 2),
    )  # fmt: skip
    places = {"img_ids": 12, "txt_ids": 5, "image_cond_ids": 7}
    given = {
        "hidden_states": normal(2, 12, 8),
        "encoder_hidden_states": normal(2, 5, 12),
        "image_cond_hidden_states": normal(2, 7, 8),
        "timestep": torch.full((2,), 0.5),
        **{name: torch.arange(count)[:, None].expand(count, 4).float() for name, count in places.items()},
    }
    ds = recorded(sharpened(model), **given)
    joint = ds.isel(layer=ds.kind.values == "joint")
    assert sorted(joint.part.values) == ["image", "reference", "text"]
    expected = every_call(model, **given)
    for part, rows in {"text": slice(0, 5), "image": slice(5, 17), "reference": slice(17, None)}.items():
        one = joint.isel(layer=joint.part.values == part)
        np.testing.assert_allclose(measured(one)[0], expected[str(one.module.item())][..., rows].mean(-1), atol=2e-5)
    own = ds.isel(layer=ds.kind.values == "self")
    assert sorted(own.part.values) == ["image", "reference", "text"]
