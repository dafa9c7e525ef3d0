"""Words in what a tokenizer spells: as a person reads them."""

import copy

import pytest

import entropylab
from entropylab import EntropyLabError
from entropylab.pipelines.words import tokens_of
from recipes.text import new_tokenizer

from ..conftest import new_random_pipeline
from ..sampling import sample


@pytest.fixture(scope="module")
def pipe():
    return new_random_pipeline()


@pytest.mark.filterwarnings("ignore:1 layer or word got no map")
@pytest.mark.parametrize(
    ("word", "text", "is_there"),
    [
        ("hat", "A red Hat!", True),
        ("hat", "that hats", False),
        ("HAT", "hat, hat", True),
        ("red hat", "a red  hat", True),
        ("red hat", "a redhat", False),
        ("red-haired", "a red - haired dog", True),
        ("red", "a red-haired dog", True),
        ("don't", "don 't", True),
        ("4", "14 cats, 4 dogs", True),
        ("4", "14 cats", False),
        ("café", "Café", True),
        ("дом", "Дом и домик", True),
        ("дом", "домик", False),
        ("猫", "一只猫坐着", True),
        ("a.b", "a.b axb", True),
        ("a.b", "axb", False),
    ],
)
def test_words_as_a_person_reads_them(pipe, word, text, is_there):
    with entropylab.record(pipe, words=word):
        try:
            sample(pipe, (32, 32), [text], steps=1)
        except EntropyLabError:
            assert not is_there
        else:
            assert is_there


@pytest.fixture(scope="module")
def tokenizer():
    return new_tokenizer(["a red car", "a blue house"])


SPELLED = {
    "A red, shiny car.": {"red": 1, "car": 1, "shiny": 1},
    "a RED car; café 猫!": {"red": 1, "car": 1, "café": 1, "猫": 1},
    "(red) red-car 🚗 car's": {"red": 2, "car": 2},
}
"""Prompt -> how often each word is in it."""


@pytest.mark.parametrize("prompt", SPELLED)
def test_tokens_spell_their_word(tokenizer, prompt):
    """Words that the tokenizer does not know are spelled by bytes: all of them, and no other."""
    ids = tokenizer(prompt, padding="max_length", max_length=48, truncation=True).input_ids
    found = tokens_of(tokenizer, ids, list(SPELLED[prompt]), [prompt])
    for (word, times), tokens in zip(SPELLED[prompt].items(), found, strict=True):
        assert tokenizer.decode([ids[token] for token in tokens]).replace(" ", "").lower() == word * times


def test_the_prompt_behind_a_template(tokenizer):
    ids = tokenizer("a red house: A Red car").input_ids
    everywhere, behind = (tokens_of(tokenizer, ids, ["red"], prompts)[0] for prompts in ([], ["a red Car "]))
    assert len(everywhere) == 2 and behind == everywhere[1:]


def test_what_is_cut_off_has_no_tokens(tokenizer):
    ids = tokenizer("a red car", max_length=4, truncation=True).input_ids
    assert tokens_of(tokenizer, ids, ["red", "car"], ["a red car"]) == [[2], []]


@pytest.mark.parametrize("template", ["", "draw this: "])
def test_a_prompt_that_was_cut_and_begins_like_another(tokenizer, template):
    ids = tokenizer(template + "a red car, a red house").input_ids[:-2]
    prompts = ["a red car", "a red car, a red house and a red car", "red"]
    red, house = tokens_of(tokenizer, ids, ["red", "house"], prompts)
    assert len(red) == 2 and red[1] == red[0] + 4 and house == []
    assert len(tokens_of(tokenizer, tokenizer("a red car").input_ids, ["red"], prompts)[0]) == 1


def test_a_tokenizer_that_was_copied(tokenizer):
    """A copy by ``deepcopy`` may spell the ends of words out."""
    ids = tokenizer("a red car").input_ids
    assert tokens_of(copy.deepcopy(tokenizer), ids, ["red car", "a"], ["a red car"]) == [[2, 3], [1]]
