"""The text: how captions are worded, a small CLIP tokenizer learned on them, and an untrained text encoder."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from inspect import signature
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

LENGTH = 24
WIDTH = 128


def spoken(caption: str) -> list[str]:
    """The ways in which training words a caption."""
    bare = caption.split(" ", 1)[1] if caption.split(" ", 1)[0] in ("a", "an", "the") else caption
    return [caption, caption, caption, bare, f"a picture of {caption}"]


def learn_merges(words: Counter[str], count: int) -> list[tuple[str, str]]:
    """Byte-pair encoding: the ``count`` merges that shorten ``words`` most, greedily (ties by spelling)."""
    spellings = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges: list[tuple[str, str]] = []
    for _ in range(count):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in spellings.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spellings = {word: merge(parts, best) for word, parts in spellings.items()}
    return merges


def merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """``parts`` with every neighbouring ``pair`` joined."""
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def new_tokenizer(captions: list[str], merges: int = 600) -> CLIPTokenizer:
    """A CLIPTokenizer that spells any text by bytes and knows the captions' words whole."""
    words = Counter(word for caption in captions for word in caption.split())
    pairs = learn_merges(words, merges)
    alphabet = sorted(ByteLevel.alphabet())
    entries = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in pairs)]
    vocabulary = {entry: index for index, entry in enumerate(dict.fromkeys(entries))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    if "vocab" in signature(CLIPTokenizer).parameters:
        return CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=LENGTH)
    with TemporaryDirectory() as folder:  # transformers 4 reads files
        files = write_vocabulary(Path(folder), vocabulary, pairs)
        return CLIPTokenizer(*map(str, files), model_max_length=LENGTH)


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained two-layer CLIPTextModel for ``tokenizer``."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def write_vocabulary(folder: Path, vocabulary: dict[str, int], merges: Iterable[Sequence[str]]) -> tuple[Path, Path]:
    """Write vocab.json and merges.txt, from which transformers 4 reads a CLIPTokenizer, and return their paths."""
    entries, pairs = folder / "vocab.json", folder / "merges.txt"
    entries.write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = "\n".join(" ".join(pair) for pair in merges)
    pairs.write_text(f"#version: 0.2\n{lines}\n", encoding="utf-8")
    return entries, pairs


def finish_text_encoder(encoder: Path, tokenizer: Path) -> None:
    """Bring a saved text encoder and its tokenizer into the form that older readers know too."""
    model = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    write_vocabulary(tokenizer, model["vocab"], model["merges"])
    rename_for_older_readers(encoder / "model.safetensors")
    config = encoder / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings["dtype"] = "float32"  # what transformers loads it in, unless told: as diffusers does with the others
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def rename_for_older_readers(weights: Path) -> None:
    """Give CLIP's weights the names that transformers before 5 looks for; without them it starts at random."""
    named = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(weights).items()}
    save_file(named, weights, metadata={"format": "pt"})
