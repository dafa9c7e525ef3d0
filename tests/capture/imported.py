"""A module of the model's package that has SDPA under a name of its own; no class of the model is defined here."""

from torch.nn.functional import scaled_dot_product_attention as attend


def attended(query, key, value):
    return attend(query, key, value)
