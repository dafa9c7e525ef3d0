"""Words in what a tokenizer spells: as a person reads them."""

import copy

import pytest

from entropylab import EntropyLabError
from entropylab.pipelines.words import check_spoken, pattern_of, place_of, spelled, tokens_of
from recipes.text import new_tokenizer


@pytest.mark.parametrize(
    ("word", "text", "found"),
    [
        ("hat", "A red Hat!", ["Hat"]),
        ("hat", "that hats", []),
        ("HAT", "hat, hat", ["hat", "hat"]),
        ("red hat", "a red  hat", ["red  hat"]),
        ("red hat", "a redhat", []),
        ("red-haired", "a red - haired dog", ["red - haired"]),
        ("red", "a red-haired dog", ["red"]),
        ("don't", "don 't", ["don 't"]),
        ("4", "14 cats, 4 dogs", ["4"]),
        ("café", "Café", ["Café"]),
        ("дом", "Дом и домик", ["Дом"]),
        ("猫", "一只猫坐着", ["猫"]),
        ("a.b", "a.b axb", ["a.b"]),
    ],
)
def test_words_as_a_person_reads_them(word, text, found):
    assert pattern_of(word).findall(text) == found


@pytest.fixture(scope="module")
def tokenizer():
    return new_tokenizer(["a red car", "a blue house"])


@pytest.mark.parametrize("prompt", ["A red, shiny car.", "a RED car; café 猫!", "(red) red-car 🚗 car's"])
def test_tokens_spell_their_word(tokenizer, prompt):
    """Words that the tokenizer does not know are spelled by bytes: all of them, and no other."""
    ids = tokenizer(prompt, padding="max_length", max_length=48, truncation=True).input_ids
    words = [word for word in ("red", "car", "shiny", "café", "猫") if pattern_of(word).search(prompt)]
    for word, tokens in zip(words, tokens_of(tokenizer, ids, words, [prompt]), strict=True):
        again = tokenizer.decode([ids[token] for token in tokens]).replace(" ", "")
        assert again.lower() == word * len(pattern_of(word).findall(prompt))
    assert len(spelled(tokenizer, ids)[1]) <= len(ids)


def test_the_prompt_behind_a_template(tokenizer):
    text = "a red house: A Red car"
    ids = tokenizer(text).input_ids
    everywhere, behind = (tokens_of(tokenizer, ids, ["red"], prompts)[0] for prompts in ([], ["a red Car "]))
    assert len(everywhere) == 2 and behind == everywhere[1:]
    assert text[slice(*place_of(text, ["", "a red car"]))] == "A Red car"


def test_what_is_cut_off_has_no_tokens(tokenizer):
    ids = tokenizer("a red car", max_length=4, truncation=True).input_ids
    assert tokens_of(tokenizer, ids, ["red", "car"], ["a red car"]) == [[2], []]


def test_a_word_that_is_not_there_is_told():
    check_spoken(["hat"], ["a cat", "a hat"])
    check_spoken(["hat"], [])
    with pytest.raises(EntropyLabError, match="Got 'hat'; its words are A, red-haired, cat's, toy."):
        check_spoken(["cat's", "hat"], ["A red-haired cat's toy"])


@pytest.mark.parametrize("template", ["", "draw this: "])
def test_a_prompt_that_was_cut_and_begins_like_another(tokenizer, template):
    ids = tokenizer(template + "a red car, a red house").input_ids[:-2]
    prompts = ["a red car", "a red car, a red house and a red car", "red"]
    red, house = tokens_of(tokenizer, ids, ["red", "house"], prompts)
    assert len(red) == 2 and red[1] == red[0] + 4 and house == []
    assert len(tokens_of(tokenizer, tokenizer("a red car").input_ids, ["red"], prompts)[0]) == 1


def test_a_tokenizer_that_was_copied(tokenizer):
    """A copy by ``deepcopy`` may spell the ends of words out."""
    prompt = "a red car"
    ids = tokenizer(prompt).input_ids
    assert tokens_of(copy.deepcopy(tokenizer), ids, ["red car", "a"], [prompt]) == [[2, 3], [1]]
