"""Which images of a denoiser's batch an attention call is about, where it is not about all of them."""

from ..capture import AttentionCall


def images_in(call: AttentionCall, count: int, batch: int) -> slice | None:
    """Which of the ``batch`` images of a denoiser the ``count`` images of a call are; None if that can't be told."""
    if count == batch:
        return slice(0, batch)
    if call.inputs is not None and call.inputs.images is not None and call.inputs.batch == count:
        return call.inputs.images
    return slice(0, count) if is_perturbed(call, count, batch) else None


def is_perturbed(call: AttentionCall, count: int, batch: int) -> bool:
    """Whether a layer leaves the last branch of its batch out, as perturbed-attention guidance does."""
    named = type(getattr(call.module, "processor", None)).__name__.startswith("PAG")
    return named and any(count * branches == batch * (branches - 1) for branches in (2, 3))
