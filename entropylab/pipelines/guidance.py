"""Which guidance branch is which: by the text that it was handed, else by how the pipeline combines the outputs.

The branch that was handed what the pipeline made of its prompt is the conditional one, at any guidance. Where none is,
or several are, the combination tells. Guidance makes a linear combination of the branches' outputs, say
(1 - s) uncond + s cond. The coefficients, found by least squares, tell the conditional branch: its is the largest, in
the direction of their sum (a pipeline may negate). No pipeline need be known for either. All is computed on the device;
the host reads a few numbers when the run is over.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ..capture.memory import stamp_of

MOST_UNEXPLAINED = 0.5
"""Share of what guidance does that the combination may leave unexplained: its strength may vary, or be limited."""


LEAST_SHARE = 0.97
"""Guidance goes beyond the conditional branch: with less than this share of the sum, no branch is known to be that."""


LEAST_NUMBERS = 64
"""Of fewer numbers than these any branches make nearly any combination, which tells nothing then."""


class Handed(NamedTuple):
    """The texts that a denoiser call was handed for so many images: (images, ...) each; or ``listed``, one each.

    Of a video there may be one for each frame of it: (images * frames, ...). ``references`` are pictures beside them.
    """

    texts: Sequence[Tensor]
    images: int
    listed: bool = False
    references: Sequence[Tensor] = ()


class Branch(NamedTuple):
    """What guidance branch ``at`` ``of`` so many in one denoiser call was handed and returned, (samples, ...)."""

    output: Tensor
    handed: Handed
    at: int = 0
    of: int = 1

    @property
    def texts(self) -> Sequence[Tensor]:
        """Its own share of the texts."""
        return self.share(self.handed.texts)

    @property
    def conditions(self) -> list[Tensor]:
        """Its own share of the texts and references."""
        return [*self.share(self.handed.texts), *self.share(self.handed.references)]

    def share(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Its own share of what the call was handed."""
        images = self.handed.images
        if self.handed.listed and len(tensors) == images:
            each = images // self.of
            return tensors[self.at * each : (self.at + 1) * each]
        return [one if one.shape[0] % images else one.chunk(self.of)[self.at] for one in tensors]


class Evidence(NamedTuple):
    """What names the branches of one step; it stays on the device until the run is over."""

    branches: int  # 0 where nothing was measured
    first: int = 0  # how many of them are of the step's first denoiser call
    is_step: bool = True  # else it is a denoiser call that no scheduler follows, and nothing is known of its branches
    products: tuple[Tensor, ...] = ()  # see ``combination``; for each way to find the image in the outputs
    numbers: int = 0  # how many the products are sums over
    alike: Tensor | None = None  # (branches, branches), whether two were handed the same text
    prompted: Tensor | None = None  # (branches,), whether a branch was handed the encoded prompt, if that is known
    doubled: Tensor | None = None  # whether what was taken for samples is two branches; None if that can't be
    halves: "Evidence | None" = None  # the evidence about these two
    has_texts: bool = False  # whether branches were handed texts

    @property
    def tensors(self) -> list[Tensor]:
        """All that stays on the device; asked for in every step, for which torch's tree functions take too long."""
        own = (*self.products, self.alike, self.prompted, self.doubled)
        more = [] if self.halves is None else self.halves.tensors
        return [found for found in own if found is not None] + more

    def sent(self, send: Callable[[Tensor], Tensor]) -> "Evidence":
        """The same, every tensor of it sent elsewhere."""
        return tree_map_only(Tensor, send, self)

    def or_doubled(
        self, halves: Sequence[Branch | None], combined: Tensor, sample: Tensor, prompt: Tensor | None, texts: "Texts"
    ) -> "Evidence":
        """This evidence, with the possibility that the one branch is two, as DiT samples.

        Then the scheduler's sample and the combination are the same in both halves, and what the denoiser returned is
        not.
        """
        same = torch.stack(
            [(one == other).all() for one, other in (both.chunk(2) for both in (combined, sample))]
        ).all()
        one, other = halves
        if one is not None and other is not None:
            same &= (one.output != other.output).any()
        known = evidence(halves, combined.chunk(2)[0], sample.chunk(2)[0], 2, prompt, texts)
        return self._replace(doubled=same, halves=known)

    def decided(self) -> "Evidence":
        """The evidence that holds, now that the host may read it."""
        return self.halves if self.halves is not None and bool(self.doubled) else self

    def names(self) -> list[str]:
        """The names of the branches, in the order in which they were computed; numbers where they can't be told."""
        if not self.branches:
            return []
        if not self.is_step:
            return ["all"]
        if self.branches == 1:
            return ["cond"]
        prompted = [] if self.prompted is None else self.prompted.cpu().numpy().nonzero()[0].tolist()
        if len(prompted) == 1 and self.alike is not None and self.products:
            return self.named(prompted[0], self.alike.cpu().numpy(), self.products[0].cpu().numpy())
        for products in (found.cpu().numpy() for found in self.products if self.numbers >= LEAST_NUMBERS):
            coefficients = combination(products, self.branches)
            if coefficients is not None and self.alike is not None:
                shares = coefficients / coefficients.sum()
                cond = int(np.argmax(shares))
                if shares[cond] < LEAST_SHARE:
                    break
                return self.named(cond, self.alike.cpu().numpy(), products)
        return [f"branch {index}" for index in range(self.branches)]

    def named(self, cond: int, alike: np.ndarray, products: np.ndarray) -> list[str]:
        """Names of all branches, one being known as "cond".

        A branch that repeats it exactly is "cond" too. A further one with its text, or of several a later call with any
        text that was there before, is "perturbed". Others are unconditional.
        """
        names = ["cond"] * self.branches
        for index in range(self.branches):
            apart = products[index, index] + products[cond, cond] - 2 * products[index, cond]
            if index == cond or (alike[index, cond] and apart < 1e-11 * products[cond, cond]):
                continue
            again = index >= self.first and alike[index, :index].any()
            has_its_text = alike[index, cond] and (self.branches > 2 or self.has_texts)
            base = "perturbed" if has_its_text or (self.branches > 2 and again) else "uncond"
            before = sum(name.split()[0] == base for name in names[:index])
            names[index] = f"{base} {before + 1}" if before else base
        return names


NO_EVIDENCE = Evidence(1, is_step=False)
"""Of a denoiser call that no scheduler follows."""


def agreed(found: Sequence[list[str]]) -> list[list[str]]:
    """The names of the branches in every step: where they can't be told, those of the other steps, if these agree."""
    certain = {tuple(names) for names in found if names and not names[0].startswith("branch ")}
    alike = {count: [names for names in certain if len(names) == count] for count in {len(names) for names in found}}
    return [
        list(alike[len(names)][0]) if tuple(names) not in certain and len(alike[len(names)]) == 1 else names
        for names in found
    ]


def combination(products: np.ndarray, branches: int) -> np.ndarray | None:
    """Coefficients of the branches in the combination; None if it is no such combination.

    ``products`` are inner products of the branches' outputs, the scheduler's sample where it may be mixed in, and the
    combination, (n, n).
    """
    if not np.isfinite(products).all():
        return None
    size = np.sqrt(np.diag(products)).clip(1e-30)
    scaled = products / np.outer(size, size)
    found, unexplained = least_squares(scaled)
    weights = np.zeros((len(size) - branches + 1, len(size)))
    weights[0, :branches] = 1 / branches
    weights[1:, branches:] = np.eye(len(size) - branches)
    _, without_guidance = least_squares(weights @ scaled @ weights.T)
    if without_guidance < 1e-13 or unexplained > MOST_UNEXPLAINED * without_guidance:
        return None
    return found[:branches] * size[-1] / size[:branches]


def least_squares(products: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients of all but the last in the last, from inner products, and how much of its square is left over."""
    found = np.linalg.lstsq(products[:-1, :-1], products[:-1, -1], rcond=1e-14)[0]
    return found, float(products[-1, -1] - found @ products[:-1, -1])


@torch.no_grad()
def evidence(
    branches: Sequence[Branch | None], combined: Any, sample: Any, first: int, prompt: Tensor | None, texts: "Texts"
) -> Evidence:
    """What names the branches of a step, in the order of computation; None where one is not known.

    The pipeline hands its scheduler the combination and a sample, (samples, ...). ``prompt`` is what it made of its
    prompt, (samples, tokens, channels), ``texts`` what was asked of texts before.
    """
    known = [branch for branch in branches if branch is not None]
    if len(known) < 2 or len(known) < len(branches) or not isinstance(combined, Tensor):
        return Evidence(len(branches), first)
    has_sample = isinstance(sample, Tensor) and sample.is_floating_point() and sample.ndim == combined.ndim
    combined = combined[tuple(slice(0, side) for side in sample.shape)] if has_sample else combined
    more = [sample] if has_sample and sample.shape == combined.shape else []
    found = []
    home = known[0].output.device  # denoisers, or their calls, may be spread over several
    for outputs in zip(*(fitted(branch.output.to(home), combined) for branch in known), strict=False):
        if all(output is not None for output in outputs):
            rows = torch.cat([part.reshape(1, -1) for part in (*outputs, *more, combined)]).double()
            found.append(rows @ rows.T)
    alike, prompted = texts.judged(known, prompt, home)
    about: dict[str, Any] = {"numbers": combined.numel(), "has_texts": len(known[0].handed.texts) > 0}
    return Evidence(len(branches), first, products=tuple(found), alike=alike, prompted=prompted, **about)


class Texts:
    """Which branches were handed the same text, and which the prompt: asked once for texts that stay as they are."""

    def __init__(self) -> None:
        self.known: dict[Hashable, tuple[Tensor, Tensor | None]] = {}

    def judged(
        self, branches: Sequence[Branch], prompt: Tensor | None, device: torch.device
    ) -> tuple[Tensor, Tensor | None]:
        """Whether branches were handed the same text, (branches, branches), and the prompt, (branches,), if known."""
        look: list[Hashable] = [prompt is None or stamp_of(prompt), device]
        before: Handed | None = None
        for branch in branches:
            if branch.handed is not before:  # several branches of a call share what it was handed
                before = branch.handed
                look += [before.images, before.listed]
                look += [stamp_of(each) for each in (*before.texts, *before.references)]
            look.append((branch.at, branch.of))
        key, is_known = tuple(look), None not in look
        if is_known and key in self.known:
            return self.known[key]
        alike = torch.stack([torch.stack([same_text(one, other, device) for other in branches]) for one in branches])
        prompted = None if prompt is None else torch.stack([handed(branch, prompt, device) for branch in branches])
        if is_known:
            self.known[key] = (alike, prompted)
        return alike, prompted


def handed(branch: Branch, prompt: Tensor, device: torch.device) -> Tensor:
    """Whether a branch was handed the encoded prompt as one of its texts: a boolean on ``device``."""
    found = [are_equal(text, prompt, device) for text in branch.texts if text.shape == prompt.shape]
    return torch.stack(found).any() if found else torch.zeros((), dtype=torch.bool, device=device)


def same_text(one: Branch, other: Branch, device: torch.device) -> Tensor:
    """Whether two branches were handed the same text, and the same pictures: a boolean on ``device``."""
    ours, theirs = one.conditions, other.conditions
    alike = [each.shape for each in ours] == [each.shape for each in theirs]
    if not alike or not ours:
        return torch.full((), alike, device=device)
    return torch.stack([are_equal(a, b, device) for a, b in zip(ours, theirs, strict=True)]).all()


def are_equal(text: Tensor, other: Tensor, device: torch.device) -> Tensor:
    """Whether two texts of one shape are the same: a boolean, which a GPU need not be waited for to be sent."""
    same = (text == other.to(text.device, text.dtype, non_blocking=text.is_cuda)).all()
    return same.to(device, non_blocking=device.type == "cuda")


def fitted(output: Tensor, combined: Tensor) -> tuple[Tensor | None, ...]:
    """A branch's output cut to the shape of the combination, from its front and from its back; None where it is not.

    A learned variance and reference tokens stand behind the image, text may stand before it. Frames of a video may have
    become images of a batch.
    """
    if output.shape == combined.shape:
        return (output,)
    if output.ndim != combined.ndim:
        if output.numel() != combined.numel():
            return None, None
        return output.reshape(combined.shape), output.transpose(1, 2).reshape(combined.shape)
    if any(have < want for have, want in zip(output.shape, combined.shape, strict=True)):
        return None, None
    front = output[tuple(slice(0, want) for want in combined.shape)]
    back = output[tuple(slice(have - want, have) for have, want in zip(output.shape, combined.shape, strict=True))]
    return front, back
