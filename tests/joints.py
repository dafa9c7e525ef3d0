"""A tiny joint transformer whose tokens stand in any order, and what its attention should give, by float64 maps."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import PlainAttention, together
from .maps import entropy_of_map, logits_of

PARTS = ("image", "text", "reference", "other")
WIDTH, HEADS = 16, 2


@dataclass
class Call:
    """One attention call as the layer made it, and what its tokens stand for: (batch, tokens) index into ``PARTS``."""

    query: Tensor
    key: Tensor
    mask: Tensor | None
    codes: Tensor


class JointAttention(PlainAttention):
    """Attention among all its tokens; it keeps what it did."""

    def __init__(self) -> None:
        super().__init__(WIDTH, HEADS)
        self.calls: list[Call] = []

    def forward(self, tokens: Tensor, mask: Tensor | None, codes: Tensor) -> Tensor:
        query, key, value = self.sides(tokens)
        self.calls.append(Call(query.detach(), key.detach(), mask, codes))
        return together(F.scaled_dot_product_attention(query, key, value, attn_mask=mask))


class JointTransformer(nn.Module):
    """Two layers of joint attention among the tokens of image, text, references and registers.

    Attributes:
        order: what stands where: parts by name, in a sequence, "shuffled" for an order of its own in every sample, or
            "middle" for text in two halves around the image.
        dense: whether text is moved to the front without its padding, so that every sample has a layout of its own.
        additive: whether masks are additive, with ``closed`` where no key is left; boolean else.
        blend: a fault to be told: "image", "text" or "both" for inputs whose mean is added to every token.
    """

    def __init__(self, order: tuple[str, ...] | str = ("text", "image"), registers: int = 0, layers: int = 2) -> None:
        super().__init__()
        self.order, self.dense, self.additive, self.closed, self.blend = order, False, False, -torch.inf, None
        self.embed_image, self.embed_text = nn.Linear(8, WIDTH), nn.Linear(12, WIDTH)
        self.registers = nn.Parameter(torch.randn(registers, WIDTH)) if registers else None
        self.blocks = nn.ModuleList(JointAttention() for _ in range(layers))
        self.out = nn.Linear(WIDTH, 8)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        timestep: Tensor,
        encoder_attention_mask: Tensor | None = None,
        ref_hidden_states: Tensor | None = None,
        text_lengths: Tensor | None = None,
    ) -> Tensor:
        batch = len(hidden_states)
        pieces = {"image": self.embed_image(hidden_states), "text": self.embed_text(encoder_hidden_states)}
        if ref_hidden_states is not None:
            pieces["reference"] = self.embed_image(ref_hidden_states)
        if self.registers is not None:
            pieces["other"] = self.registers.expand(batch, -1, -1)
        if text_lengths is not None:
            encoder_attention_mask = torch.arange(pieces["text"].shape[1]) < text_lengths[:, None]
        if self.blend:
            pieces = self.blended(pieces)
        names = ("text", "image") if isinstance(self.order, str) else self.order
        names = [name for name in names if name in pieces]
        tokens = torch.cat([pieces[name] for name in names], 1)
        codes = torch.cat([torch.full(pieces[name].shape[:2], PARTS.index(name)) for name in names], 1)
        left = torch.cat(
            [
                encoder_attention_mask.bool()
                if name == "text" and encoder_attention_mask is not None
                else torch.ones(pieces[name].shape[:2], dtype=torch.bool)
                for name in names
            ],
            1,
        )
        places = self.places(codes, left)
        tokens = torch.gather(tokens, 1, places[..., None].expand(tokens.shape))
        codes, left = (torch.gather(every, 1, places) for every in (codes, left))
        tokens = tokens + timestep.reshape(-1, 1, 1).to(tokens.dtype) / 1000
        mask = None if encoder_attention_mask is None else self.mask_of(left)
        for block in self.blocks:
            tokens = tokens + block(tokens, mask, codes)
        image = tokens[codes == 0].unflatten(0, (batch, -1))
        return self.out(image)

    def blended(self, pieces: dict[str, Tensor]) -> dict[str, Tensor]:
        """The pieces with the mean over some of them added to every token, as by a pooled condition."""
        names = ("image", "text") if self.blend == "both" else (self.blend,)
        pooled = sum(pieces[name].mean(1, keepdim=True) for name in names)
        return {name: piece + pooled for name, piece in pieces.items()}

    def places(self, codes: Tensor, left: Tensor) -> Tensor:
        """Where each token of the sequence comes from, sample by sample: (batch, tokens)."""
        batch, count = codes.shape
        if self.order == "shuffled":
            orders = [torch.randperm(count, generator=torch.Generator().manual_seed(5 + i)) for i in range(batch)]
            return torch.stack(orders)
        if self.order == "middle":
            text = int((codes[0] == 1).sum())
            order = [*range(text // 2), *range(text, count), *range(text // 2, text)]
            return torch.tensor(order).expand(batch, -1)
        if self.dense:
            return torch.argsort((~left).int(), dim=1, stable=True)
        return torch.arange(count).expand(batch, -1)

    def mask_of(self, left: Tensor) -> Tensor:
        """The keys that are left, (batch, tokens), as this model writes its masks."""
        mask = left[:, None, None, :]
        if not self.additive:
            return mask
        return torch.zeros(mask.shape).masked_fill(~mask, self.closed)

    def calls(self) -> list[list[Call]]:
        """What each layer did, call by call; forgotten afterwards."""
        found = [block.calls for block in self.blocks]
        for block in self.blocks:
            block.calls = []
        return found


def new_joint(order: tuple[str, ...] | str = ("text", "image"), registers: int = 0, seed: int = 0) -> JointTransformer:
    """A JointTransformer whose attention is far from uniform."""
    torch.manual_seed(seed)
    model = JointTransformer(order, registers).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "to_q" in name or "to_k" in name:
                weight.mul_(5)
    return model


def inputs(image: int = 12, text: int = 7, batch: int = 2, seed: int = 0, **more: Tensor) -> dict[str, Tensor]:
    """Arguments of a JointTransformer's forward."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "hidden_states": torch.randn(batch, image, 8, generator=generator),
        "encoder_hidden_states": torch.randn(batch, text, 12, generator=generator),
        "timestep": torch.full((batch,), 500),
        **more,
    }


def lengths(tokens: int, *counts: int) -> Tensor:
    """Mask of tokens that are not padding, a row for each of ``counts``: (samples, tokens)."""
    return torch.arange(tokens) < torch.tensor(counts)[:, None]


def wanted(call: Call, part: str) -> dict[str, Tensor]:
    """What the rows that stand for ``part`` should give, (batch, heads) each, from whole maps in float64."""
    logits = logits_of(call.query, call.key)
    closed = torch.zeros_like(logits, dtype=torch.bool)
    if call.mask is not None:
        closed = (~call.mask if call.mask.dtype == torch.bool else call.mask <= -9999).expand_as(logits)
        logits = logits if call.mask.dtype == torch.bool else logits + call.mask.double()
    logits = logits.masked_fill(closed, -torch.inf)
    weights = logits.softmax(-1)
    found = {name: torch.zeros(logits.shape[:2], dtype=torch.float64) for name in NAMES}
    for sample in range(len(logits)):
        for head in range(logits.shape[1]):
            numbers = [
                row_numbers(logits[sample, head, row], weights[sample, head, row], call.codes[sample])
                for row in range(logits.shape[2])
                if call.codes[sample, row] == PARTS.index(part) and not closed[sample, head, :, row].all()
            ]
            for name in NAMES:
                known = [each[name] for each in numbers if not torch.isnan(torch.as_tensor(each[name]))]
                found[name][sample, head] = sum(known) / len(known) if known else torch.nan
    return found


NAMES = (
    "entropy", "sigma2", "lse", "mean", "third", "fourth", "sensitivity", "keys", "keys_image", "mass_image",
    "mass_text", "entropy_between", "entropy_from_image", "entropy_from_text", "entropy_from_other", "entropy_image",
    "entropy_text", "sigma2_image",
)  # fmt: skip


def row_numbers(logits: Tensor, weights: Tensor, codes: Tensor) -> dict[str, float]:
    """Everything about one row: logits (keys,), -inf where closed, weights (keys,) and what the keys stand for."""
    left = logits > -torch.inf
    free = logits[left]
    centred = free - free.mean()
    second = float(centred.square().mean())
    expected = (weights[left] * free).sum()
    found = {
        "entropy": float(entropy_of_map(weights)),
        "sigma2": second,
        "lse": float(free.logsumexp(0)),
        "mean": float(free.mean()),
        "third": float(centred.pow(3).mean()),
        "fourth": float(centred.pow(4).mean()) - 3 * second**2,
        "sensitivity": float((weights[left] * (free - expected).square()).sum()),
        "keys": float(left.sum()),
        "entropy_between": 0.0,
        "entropy_from_other": 0.0,
    }
    for code in range(len(PARTS)):
        chosen = left & (codes == code)
        mass = weights[chosen].sum()
        found["entropy_between"] += float(entropy_of_map(mass[None]))
        within = float(entropy_of_map(weights[chosen] / mass)) if chosen.any() else float("nan")
        name = PARTS[code] if code < 2 else "other"
        share = float(mass) * within if chosen.any() else 0.0
        found[f"entropy_from_{name}"] = found.get(f"entropy_from_{name}", 0.0) + share
        if code < 2:
            found[f"mass_{name}"] = float(mass)
            found[f"entropy_{name}"] = within
        if code == 0:
            found["keys_image"] = float(chosen.sum())
            found["sigma2_image"] = float(logits[chosen].var(unbiased=False)) if chosen.any() else float("nan")
    return found
