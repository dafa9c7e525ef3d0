"""Words of a prompt, and which keys of an attention call are their tokens.

Text encoders are looked at while they run. The ids that one is handed spell the text, in which words are found as a
person reads it. The rows that it returns for a word's tokens are found again, by their values, in what the denoiser is
handed, wherever the pipeline has put them: cut, padded, behind a template, or beside another encoder's. What is read of
a device is read while text is encoded; in a step nothing is waited for.
"""

import re
from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from difflib import SequenceMatcher
from functools import partial
from typing import Any, NamedTuple
from unicodedata import normalize

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.weak import WeakIdKeyDictionary

from ..capture import AttentionCall, Inputs
from ..capture.changes import MARK, changed, without_ours
from ..capture.roles import PARTS
from ..capture.session import reason_of
from ..errors import EntropyLabError, RefusedCallError, names_of
from .arguments import open_up, parameters_of
from .structure import denoisers

CHANNELS = 16
"""So many numbers tell a token of a text from others."""

ROUNDING = 2.0**-7
"""What may be lost of a number between an encoder and a denoiser: a pipeline may round it to half precision."""


SECOND_MASK = "encoder_attention_mask_2"
"""An input of HunyuanImage and HunyuanVideo 1.5, which put their second text first, and the padding of both last."""


class Encoded(NamedTuple):
    """What one run of a text encoder made of the words' tokens."""

    values: list[tuple[Tensor, int]]  # of each of its layers, (tokens, `CHANNELS` at most), and how wide it is
    owners: Tensor  # (words, tokens), 1 where a token is one of a word's
    most: int  # the largest number of tokens that a word has in one text


class Words:
    """Words that were chosen of a pipeline's prompts; an EntropyLabError for what are none, or if it reads none."""

    def __init__(self, pipe: Any, words: Any) -> None:
        self.words = check_words(words)
        self.encoders = encoders_of(pipe)
        if not self.encoders:
            raise EntropyLabError(
                f"words need a pipeline with a text encoder and its tokenizer. {type(pipe).__name__} has none."
            )
        self.prompts: list[list[str]] = []  # of the pipeline's calls that run, the innermost last
        # by the number of calls that run, encoder and ids: what a call encodes is used in that call alone
        self.encoded: dict[tuple[int, Hashable, Hashable], Encoded] = {}
        self.marks: WeakIdKeyDictionary = WeakIdKeyDictionary()  # what ``marked`` found of a text
        self.here: tuple[Inputs | None, dict[Hashable, Any]] = (None, {})  # what ``among`` found in a forward's inputs
        self.problem = ""  # why some text could not be read, if one could not

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Look at the text encoders while the context lasts."""
        with ExitStack() as stack:
            stack.enter_context(changed(nn.Module, without_ours))
            for encoder, tokenizer in self.encoders.items():
                hook = partial(self.on_text, tokenizer)
                setattr(hook, MARK, True)
                stack.callback(encoder.register_forward_hook(hook, with_kwargs=True).remove)
            yield

    def on_call(self, arguments: dict[str, Any]) -> None:
        """The pipeline is called."""
        self.prompts.append([text for name, value in arguments.items() if "prompt" in name for text in names_of(value)])

    def on_end(self) -> None:
        """The pipeline's call is over."""
        del self.prompts[-1:]
        self.encoded = {key: each for key, each in self.encoded.items() if key[0] <= len(self.prompts)}

    def on_text(self, tokenizer: Any, encoder: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        """A text encoder has run; whatever goes wrong in reading it, the pipeline goes on."""
        try:
            with torch.no_grad():
                self.read(tokenizer, encoder, kwargs.get("input_ids", args[0] if args else None), output)
        except Exception as problem:
            self.problem = reason_of(problem)

    def read(self, tokenizer: Any, encoder: nn.Module, ids: Any, output: Any) -> None:
        """Keep what an encoder made of the words' tokens among ``ids`` (texts, tokens)."""
        texts, prompts = ids.tolist(), self.prompts[-1] if self.prompts else []
        found = [tokens_of(tokenizer, text, self.words, prompts) for text in texts]
        each = [
            (row, token, word) for row, own in enumerate(found) for word, tokens in enumerate(own) for token in tokens
        ]
        rows, tokens, words = zip(*each, strict=True) if each else ((), (), ())
        made: dict[Any, Any] = {}
        open_up(output, "", made)
        layers = [
            leaf
            for leaf in made.values()
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim == 3 and leaf.shape[:2] == ids.shape
        ]
        chosen = [layer[list(rows), list(tokens)] for layer in layers]
        norms = [part for name, part in encoder.named_modules() if name.endswith("final_layer_norm")]
        if len(layers) > 1 and norms:  # clip_skip takes the norm behind the last layer of CLIP of an earlier one
            chosen += [norms[0].forward(each) for each in chosen]
        values = [(each[:, :CHANNELS].float(), each.shape[-1]) for each in chosen]
        owners = torch.zeros(len(self.words), len(each))
        owners[list(words), range(len(each))] = 1
        most = max((len(tokens) for own in found for tokens in own), default=0)
        name = (len(self.prompts), id(encoder), tuple(map(tuple, texts)))
        self.encoded[name] = Encoded(values, owners.to(ids.device), most)
        self.marks.clear()

    def keys_of(self, call: AttentionCall, place: tuple[int, int] | None, images: int) -> tuple[Tensor, Tensor]:
        """Which keys of a call are the words' tokens, and whether they are: (batch of the call, words, most of a word).

        ``place`` is which of its denoiser's ``images`` it is about, first and last + 1; None if it makes one for each.
        An EntropyLabError says why that can't be told.
        """
        if call.roles is None or call.inputs is None:
            raise EntropyLabError("what its keys stand for is not known")
        first, last = (call.occurrence, call.occurrence + 1) if place is None else place
        batch, own = call.query.shape[0], last - first
        codes, count = call.roles.keys.codes, call.roles.keys.count("text", call.key.shape[-2])
        counts = [count] * batch if codes is None else (codes == PARTS.index("text")).sum(1).tolist()
        lengths = [len(text) for text in one_each(call.inputs)[first:last] for _ in range(batch // own)]
        mask = None
        if counts == lengths:
            count = 0
        elif (mask := mask_of_text(call.inputs, min(counts))) is not None:
            count = max(1, *counts)
        elif any(each != count for each in counts):
            raise EntropyLabError("its texts differ in their number of tokens")
        known, found = self.here
        if known is not call.inputs:
            self.here = (call.inputs, found := {})
        if (count, mask is None) not in found:
            found[count, mask is None] = self.among(call.inputs, count, mask)
        index, is_own = found[count, mask is None]
        if len(index) not in (1, images) or batch % own:
            raise EntropyLabError(f"it is about {batch} images, and the text of {len(index)}")
        if len(index) == images:
            index, is_own = (side[first:last].repeat_interleave(batch // own, 0) for side in (index, is_own))
        index, is_own = (side.expand(batch, -1, -1) for side in (index, is_own))
        if mask is not None:
            left = (mask > 0).sum(1)[first:last].repeat_interleave(batch // own)
            is_own = is_own & (left == torch.tensor(counts).to(left.device, non_blocking=True)).all()
        where = call.roles.keys.standing_for("text", call.key.device)
        if isinstance(where, slice):
            return index + (where.start or 0), is_own
        order = (~where).to(torch.int8).argsort(dim=1, stable=True)
        return order.gather(1, index.flatten(1)).view(index.shape), is_own

    def among(self, inputs: Inputs, count: int, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Which of ``count`` tokens of text are the words', and whether: (images, words, most).

        With 0 each image is handed a text of its own; with a ``mask`` it keeps the tokens that this leaves, ``count``
        at most.
        """
        handed = inputs.sources.get("text", [])
        if not self.encoded:
            raise EntropyLabError(self.problem or "no text encoder of the pipeline made its text while it was recorded")
        if count == 0:
            texts = one_each(inputs)
            count = max(map(len, texts))
            return self.chosen(torch.cat([pad(self.marked(text), (0, count - len(text))) for text in texts]))
        if mask is not None:
            return self.chosen(left_first(self.marked(inputs.texts[0]) * (mask > 0)[:, None], mask)[..., :count])
        if any(tensor.ndim != 3 or where != slice(None) for tensor, where in handed):
            raise EntropyLabError("its text does not come as (images, tokens, channels)")
        texts = [tensor for tensor, _ in handed]
        if sum(tensor.shape[1] for tensor in texts) != count:
            texts = [tensor for tensor in texts if tensor.shape[1] == count]
            if len(texts) != 1:
                raise EntropyLabError(f"its {count} keys of text are not the tokens that its denoiser is handed")
        images = max(len(tensor) for tensor in texts)
        each = [self.marked(tensor).expand(images, -1, -1) for tensor in texts]
        if len(texts) == 2 and any(path == SECOND_MASK for path, _ in inputs.names):  # type: ignore[attr-defined]
            masks = [mask for mask in inputs.deciding if mask.ndim == 2]
            if [mask.shape for mask in masks] != [tensor.shape[:2] for tensor in texts]:
                raise EntropyLabError("in which order its two texts stand is not known")
            return self.chosen(left_first(torch.cat(each[::-1], -1), torch.cat(masks[::-1], 1)))
        return self.chosen(torch.cat(each, -1))

    def chosen(self, marks: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens that ``marks`` (images, words, tokens) say are the words', as `among` returns them."""
        most = sum(each.most for each in self.encoded.values())
        found, index = marks.topk(max(1, min(most, marks.shape[-1])), -1)
        return index, found > 0

    def marked(self, given: Tensor) -> Tensor:
        """Which tokens of a text ([images,] tokens, channels) are the words': 1 or 0, (images, words, tokens)."""
        if given not in self.marks:
            text = given if given.ndim == 3 else given[None]
            found = text.new_zeros((len(text), len(self.words), text.shape[1]), dtype=torch.float32)
            shifts = {0, *(width for each in self.encoded.values() for _, width in each.values)}
            for each in self.encoded.values():
                owners = each.owners.to(text.device, non_blocking=True)
                for values, _ in each.values:
                    for shift in (shift for shift in shifts if shift < text.shape[-1]):
                        is_same = are_same(text[..., shift : shift + CHANNELS], values.to(text.device))
                        found = torch.maximum(found, owners @ is_same.float())
            self.marks[given] = found
        return self.marks[given]


def left_first(marks: Tensor, mask: Tensor) -> Tensor:
    """Marks (images, words, tokens), those of the tokens that a ``mask`` (images, tokens) leaves before all others."""
    order = (mask > 0).to(torch.int8).argsort(dim=1, descending=True, stable=True)
    return marks.gather(2, order[:, None].expand_as(marks))


def mask_of_text(inputs: Inputs, keys: int) -> Tensor | None:
    """The mask (images, tokens) of a denoiser's only text, where as few tokens of some image's are ``keys`` of a call.

    Whether it is what left so many is seen on its device, for nothing waits for that.
    """
    texts = inputs.texts
    is_whole = [where for _, where in inputs.sources.get("text", [])] == [slice(None)]
    if not is_whole or texts[0].ndim != 3 or keys == texts[0].shape[1]:
        return None
    masks = [mask for mask in inputs.deciding if mask.shape == texts[0].shape[:2]]
    return masks[0] if len(masks) == 1 else None


def one_each(inputs: Inputs) -> list[Tensor]:
    """The texts (tokens, channels) of a denoiser's images, where it is handed a list of them."""
    texts = inputs.texts
    return texts if len(texts) == inputs.batch and all(text.ndim == 2 for text in texts) else []


def are_same(text: Tensor, values: Tensor) -> Tensor:
    """Which tokens of a text (images, tokens, channels) have the values (n, channels): boolean (images, n, tokens)."""
    width = min(text.shape[-1], values.shape[-1])
    text, values = text[:, None, :, :width].detach().float(), values[:, None, :width]
    allowed = ROUNDING * values.abs() + 1e-5 * values.abs().amax(-1, keepdim=True)
    return ((text - values).abs() <= allowed).all(-1)


def encoders_of(pipe: Any) -> dict[nn.Module, Any]:
    """Text encoder -> its tokenizer, of a pipeline; they are named alike."""
    parts = {} if isinstance(pipe, nn.Module) else pipe.components
    modules = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
    others = {name: getattr(part, "tokenizer", part) for name, part in parts.items() if name not in modules}
    tokenizers = {name: part for name, part in others.items() if hasattr(part, "decode")}
    denoising = denoisers(pipe).values()
    return {
        part: tokenizers.get(name.replace("text_encoder", "tokenizer"), next(iter(tokenizers.values())))
        for name, part in modules.items()
        if tokenizers and "input_ids" in parameters_of(part) and all(part is not each for each in denoising)
    }


def check_words(words: Any) -> tuple[str, ...]:
    """``words`` as a tuple: some, each once, each with a letter or a figure."""
    given = tuple(normalize("NFC", word) for word in names_of(words))
    is_fit = given and all(map(pieces_of, given))
    if not is_fit or len({pattern_of(word).pattern.casefold() for word in given}) < len(given):
        raise EntropyLabError(f"words must be words of the prompt, each once: ['hat', 'red']. Got {words!r}.")
    return given


def check_spoken(words: Sequence[str], prompts: Sequence[str], error: type[EntropyLabError] = EntropyLabError) -> None:
    """Raise an ``error`` if a word is in none of the prompts; it names the words of the first."""
    for word in words:
        if prompts and not any(pattern_of(word).search(normalize("NFC", prompt)) for prompt in prompts):
            known = ", ".join(list(dict.fromkeys(re.findall(r"\w+(?:['’-]\w+)*", prompts[0])))[:40])
            more = f", and so for {len(prompts) - 1} more" if len(prompts) > 1 else ""
            raise error(f"words must be in the prompt. Got {word!r}; its words are {known or 'none'}{more}.")


def check_called(words: Sequence[str], arguments: dict[str, Any]) -> None:
    """Raise a RefusedCallError if a word is in none of the prompts of a pipeline's call."""
    given = [names_of(value) for name, value in arguments.items() if re.fullmatch(r"prompt(_\d)?", name)]
    check_spoken(words, [text for texts in given for text in texts], RefusedCallError)


def pieces_of(word: str) -> list[str]:
    """What a word, or several, is made of: spaces, letters and figures together, and other signs one by one."""
    pieces = re.findall(r"\s+|\w+|[^\w\s]", word.strip())
    return pieces if any(piece[0].isalnum() for piece in pieces) else []


def pattern_of(word: str) -> re.Pattern[str]:
    """Finds a word whatever its case, and not in others; signs in it may be spaced, as tokenizers spell them.

    Scripts that know no capitals may know no spaces either: there a word is found among others.
    """
    pieces = pieces_of(word)
    joined = r"\s*".join(r"\s+" if piece.isspace() else re.escape(piece) for piece in pieces)
    first, last = (side.isdigit() or side.lower() != side.upper() for side in (pieces[0][0], pieces[-1][-1]))
    return re.compile((r"(?<!\w)" if first else "") + joined + (r"(?!\w)" if last else ""), re.IGNORECASE)


def tokens_of(tokenizer: Any, ids: list[int], words: Sequence[str], prompts: Sequence[str]) -> list[list[int]]:
    """Which tokens of a text are of each word, wherever the word occurs in the prompt."""
    text, spans = spelled(tokenizer, ids)
    prompt, found = place_of(text, prompts), []
    for word in words:
        places = [each.span() for each in pattern_of(word).finditer(text, *prompt)]
        own = [any(begin < stop and start < end for start, stop in places) for begin, end in spans]
        found.append([token for token, is_own in enumerate(own) if is_own])
    return found


def spelled(tokenizer: Any, ids: list[int]) -> tuple[str, list[tuple[int, int]]]:
    """The text that ids spell, and of each of them where in it; what a text is padded with is left out.

    Some spell a part of a sign only: until it is whole it is a sign that means no other.
    """
    text, spans = "", []
    padding = next((count for count, token in enumerate(reversed(ids)) if token != ids[-1]), 0)
    for stop in range(1, len(ids) - padding + 2):
        more = tokenizer.decode(ids[:stop], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        more = more.replace("</w>", " ")  # a CLIP tokenizer that was copied spells it
        known = len(text) - text.endswith("\N{REPLACEMENT CHARACTER}")
        begin = next((at for at, (one, other) in enumerate(zip(text, more, strict=False)) if one != other), known)
        spans.append((min(begin, known, len(more)), len(more)))
        text = more
    return text, spans


def place_of(text: str, prompts: Sequence[str]) -> tuple[int, int]:
    """Where a prompt stands last in a text, whatever the case and spaces: behind a template, say.

    All of it if none does, or if it is of another prompt, which was cut, and has more in common with that.
    """
    places = [at for at, sign in enumerate(text) if not sign.isspace()]
    dense = "".join(text[at] for at in places).lower()
    size, is_whole, last = 0, False, 0
    for wanted in ("".join(prompt.lower().split()) for prompt in prompts):
        match = SequenceMatcher(None, dense[::-1], wanted[::-1], autojunk=False).find_longest_match()
        size, is_whole, last = max(
            (size, is_whole, last), (match.size, match.size == len(wanted), len(dense) - match.a)
        )
    if size == 0 or not is_whole or len(dense) != len(places):
        return 0, len(text)
    return places[last - size], places[last - 1] + 1
