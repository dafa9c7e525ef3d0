"""The recipe of the tokenizer, and the names of the text encoder's weights."""

import json

from safetensors.torch import load_file, save_file

from entropylab.models.prompts import FOLDER, captions
from recipes.text import new_tokenizer, rename_for_older_readers, spoken


def test_tokenizer_spells_anything_and_knows_its_words():
    tokenizer = new_tokenizer(["a red car", "a blue car"])
    assert tokenizer.tokenize("A red car") == ["a</w>", "red</w>", "car</w>"]
    assert len(tokenizer.tokenize("zebra")) == 5
    assert tokenizer.unk_token_id not in tokenizer("quartz é 7", add_special_tokens=False).input_ids
    assert len(tokenizer("a red car", padding="max_length").input_ids) == tokenizer.model_max_length


def test_the_shipped_vocabulary_is_what_the_recipe_learns():
    learned = new_tokenizer([text for caption in captions().values() for text in spoken(caption)])
    shipped = json.loads((FOLDER / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    assert learned.get_vocab() == shipped


def test_text_encoder_has_the_names_that_every_transformers_knows(tmp_path):
    shipped = load_file(FOLDER / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in shipped)
    new_names = {name.removeprefix("text_model."): value for name, value in shipped.items()}
    save_file(new_names, tmp_path / "model.safetensors")
    rename_for_older_readers(tmp_path / "model.safetensors")
    assert load_file(tmp_path / "model.safetensors").keys() == shipped.keys()
