"""The newest pipelines whose attention is joint: packed sequences, a second denoiser, cached conditions."""

from functools import partial
from typing import Any

import torch

from .family import Family, first, last
from .joint_parts import (
    CHANNELS,
    HEADS,
    WordTokenizer,
    family,
    guided,
    having,
    texts,
    tiny,
    wan_vae,
    words,
)
from .joint_video import guidance
from .transformers_video import KANDINSKY5, kandinsky5_call

ERNIE = CHANNELS | {"hidden_size": 32, "ffn_hidden_size": 32, "rope_axes_dim": (4, 6, 6)}
KREA2 = {
    "in_channels": 16, "num_key_value_heads": 1, "timestep_embed_dim": 16, "num_text_layers": 3,
    "text_num_attention_heads": 4, "text_num_key_value_heads": 2, "text_intermediate_size": 16,
    "num_layerwise_text_blocks": 1, "num_refiner_text_blocks": 1,
}  # fmt: skip
NUCLEUS = {
    "in_channels": 16, "out_channels": 4, "num_key_value_heads": 1, "moe_enabled": False, "mlp_ratio": 16.0,
}  # fmt: skip
MOTIF = {
    "in_channels": 9, "out_channels": 4, "num_layers": 1, "num_single_layers": 2, "num_decoder_layers": 1,
    "enable_text_cross_attention_dual": True, "enable_text_cross_attention_single": True,
}  # fmt: skip
IDEOGRAM4 = HEADS | {
    "in_channels": 16, "num_layers": 2, "intermediate_size": 16, "adaln_dim": 8, "llm_features_dim": 13 * 16,
    "mrope_section": (2, 1, 1),
}  # fmt: skip


class TemplateProcessor:
    """What Qwen-Image 2.1 asks its processor for when it is built: the lengths of its templates."""

    @property
    def tokenizer(self) -> "TemplateProcessor":
        return self

    def apply_chat_template(self, messages: list[dict[str, Any]], **options: Any) -> list[list[int]]:
        """Three tokens, whatever the messages."""
        return [[1, 2, 3]]

    def encode(self, text: str) -> list[int]:
        """One token, whatever the text."""
        return [4]


class ChatTokenizer(WordTokenizer):
    """A tokenizer of chats that needs no vocabulary."""

    def apply_chat_template(self, messages: list[dict[str, Any]], **options: Any) -> str:
        """The text of the first message."""
        return messages[0]["content"][0]["text"]

    def __call__(self, text: str, **options: Any) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.tensor([super().__call__(text)["input_ids"]])}


def vision_model() -> Any:
    """The text encoder of Ideogram 4, which takes 13 of its 36 layers."""
    from transformers import Qwen3VLConfig, Qwen3VLModel

    shared = {"hidden_size": 16, "intermediate_size": 16}
    heads = {
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "num_hidden_layers": 36, "vocab_size": 64,
    }  # fmt: skip
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
    vision = shared | {"depth": 1, "num_heads": 2, "out_hidden_size": 16, "deepstack_visual_indexes": [0]}
    return Qwen3VLModel(Qwen3VLConfig(text_config=shared | heads | rope, vision_config=vision)).eval()


masked = partial(texts, 11, (11, 6), (3, 3), prompts=2, mask="prompt_embeds_mask")

FAMILIES: list[Family] = [
    family(
        "ERNIE-Image", "ErnieImagePipeline",
        guided(lambda seed: [words(seed, 18 - 5 * seed)[0], words(seed + 4, 7)[0]]), parts=last(13),
        transformer=("ErnieImageTransformer2DModel", ERNIE),
    ),
    family(
        "Krea 2", "Krea2Pipeline",
        masked() | guided(lambda seed: words(seed, 11 * 3, 2).unflatten(1, (11, 3))), parts=first(11),
        transformer=("Krea2Transformer2DModel", KREA2),
    ),
    family(
        "Nucleus-Image", "NucleusMoEImagePipeline", masked(), parts=last(11),
        transformer=("NucleusMoEImageTransformer2DModel", NUCLEUS),
    ),
    family(
        "Qwen-Image 2.1", "QwenImage21Pipeline", masked() | {"true_cfg_scale": 3.0}, unlike={"text": 11, "image": 48},
        transformer=("QwenImage21Transformer2DModel", CHANNELS), processor=TemplateProcessor,
    ),
    family(
        "Motif-Video", "MotifVideoPipeline", texts(11, (7,), (3,)) | {"num_frames": 5}, (64, 96),
        parts={"image": (0, 48), "text": (48, None)}, transformer=("MotifVideoTransformer3DModel", MOTIF),
        vae=wan_vae, guider=guidance,
    ),
    # it encodes the prompts itself, and has another denoiser for the branch without text
    family(
        "Ideogram 4", "Ideogram4Pipeline",
        {
            "prompt": ["a cat", "a dog that sleeps on a red chair"], "max_sequence_length": 12, "guidance_scale": 3.0,
            "guidance_schedule": None,
        },
        parts={"image": (12, None)}, transformer=("Ideogram4Transformer2DModel", IDEOGRAM4),
        unconditional_transformer=partial(tiny, "Ideogram4Transformer2DModel", IDEOGRAM4, seed=1),
        text_encoder=vision_model, tokenizer=ChatTokenizer,
    ),
    family(
        "Kandinsky 5 image", "Kandinsky5T2IPipeline", kandinsky5_call(),
        transformer=("Kandinsky5Transformer3DModel", KANDINSKY5), prepare=having(resolutions=[(128, 96)]),
    ),
]  # fmt: skip
