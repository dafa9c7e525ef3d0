"""The newest pipelines whose attention is joint: packed sequences, a second denoiser, cached conditions."""

from typing import Any

import torch

from .family import Family
from .joint_parts import HEADS, TEXT_WIDTH, WordTokenizer, guided, joint, kept, pooled, tiny, words

CHANNELS = {"in_channels": 4, "out_channels": 4}
ERNIE = CHANNELS | {
    "hidden_size": 32, "num_attention_heads": 2, "num_layers": 2, "ffn_hidden_size": 32, "text_in_dim": TEXT_WIDTH,
    "rope_axes_dim": (4, 6, 6),
}  # fmt: skip
KREA2 = HEADS | {
    "in_channels": 16, "num_layers": 2, "num_key_value_heads": 1, "intermediate_size": 16, "timestep_embed_dim": 16,
    "text_hidden_dim": TEXT_WIDTH, "num_text_layers": 3, "text_num_attention_heads": 4, "text_num_key_value_heads": 2,
    "text_intermediate_size": 16, "num_layerwise_text_blocks": 1, "num_refiner_text_blocks": 1,
    "axes_dims_rope": (2, 2, 4),
}  # fmt: skip
NUCLEUS = HEADS | {
    "in_channels": 16, "out_channels": 4, "num_layers": 2, "num_key_value_heads": 1, "joint_attention_dim": TEXT_WIDTH,
    "axes_dims_rope": (2, 2, 4), "moe_enabled": False, "mlp_ratio": 16.0,
}  # fmt: skip
QWEN21 = HEADS | {
    "in_channels": 4, "out_channels": 4, "num_layers": 2, "context_in_dim": TEXT_WIDTH, "axes_dims_rope": (2, 2, 4),
}  # fmt: skip
MOTIF = HEADS | {
    "in_channels": 9, "out_channels": 4, "num_layers": 1, "num_single_layers": 2, "num_decoder_layers": 1,
    "text_embed_dim": TEXT_WIDTH, "rope_axes_dim": (2, 2, 4), "enable_text_cross_attention_dual": True,
    "enable_text_cross_attention_single": True,
}  # fmt: skip


IDEOGRAM4 = HEADS | {
    "in_channels": 16, "num_layers": 2, "intermediate_size": 16, "adaln_dim": 8, "llm_features_dim": 13 * 16,
    "mrope_section": (2, 1, 1),
}  # fmt: skip
KANDINSKY5 = {
    "in_visual_dim": 4, "out_visual_dim": 4, "in_text_dim": TEXT_WIDTH, "in_text_dim2": TEXT_WIDTH, "time_dim": 16,
    "model_dim": 32, "ff_dim": 32, "num_text_blocks": 1, "num_visual_blocks": 2, "axes_dims": (4, 6, 6),
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


def motif_modules() -> dict[str, Any]:
    """A VAE and the guidance of Motif-Video."""
    from diffusers.guiders import ClassifierFreeGuidance

    sizes = {
        "base_dim": 4, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "latents_mean": [0.0] * 4,
        "latents_std": [1.0] * 4,
    }  # fmt: skip
    return {"vae": tiny("AutoencoderKLWan", sizes), "guider": ClassifierFreeGuidance(guidance_scale=6.0)}


class ChatTokenizer(WordTokenizer):
    """A tokenizer of chats that needs no vocabulary."""

    def apply_chat_template(self, messages: list[dict[str, Any]], **options: Any) -> str:
        """The text of the first message."""
        return messages[0]["content"][0]["text"]

    def __call__(self, text: str, **options: Any) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.tensor([super().__call__(text)["input_ids"]])}


def ideogram_modules() -> dict[str, Any]:
    """Ideogram 4's denoiser for the branch without text, its text encoder and tokenizer."""
    from transformers import Qwen3VLConfig, Qwen3VLModel

    unconditional = tiny("Ideogram4Transformer2DModel", IDEOGRAM4, seed=1)
    shared = {"hidden_size": 16, "intermediate_size": 16}
    heads = {
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "num_hidden_layers": 36, "vocab_size": 64,
    }  # fmt: skip
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
    vision = shared | {"depth": 1, "num_heads": 2, "out_hidden_size": 16, "deepstack_visual_indexes": [0]}
    encoder = Qwen3VLModel(Qwen3VLConfig(text_config=shared | heads | rope, vision_config=vision)).eval()
    return {"unconditional_transformer": unconditional, "text_encoder": encoder, "tokenizer": ChatTokenizer()}


def ideogram_call() -> dict[str, Any]:
    """Arguments of Ideogram 4, which insists on encoding the prompts itself."""
    guidance = {"guidance_scale": 3.0, "guidance_schedule": None}
    return guidance | {"prompt": ["a cat", "a dog that sleeps on a red chair"], "max_sequence_length": 12}


def kandinsky5_call() -> dict[str, Any]:
    """Arguments of Kandinsky 5: embeddings, pooled embeddings and lengths of a prompt and of its negative."""
    names = {"prompt_embeds_qwen": words(1, 11), "negative_prompt_embeds_qwen": words(2, 7)}
    names |= {"prompt_embeds_clip": pooled(3), "negative_prompt_embeds_clip": pooled(4)}
    return names | {"prompt_cu_seqlens": torch.tensor([0, 11]), "negative_prompt_cu_seqlens": torch.tensor([0, 7])}


FAMILIES: list[Family] = [
    joint(
        "ERNIE-Image", "ErnieImagePipeline", "ErnieImageTransformer2DModel", ERNIE,
        lambda: guided(lambda seed: [words(seed, 18 - 5 * seed)[0], words(seed + 4, 7)[0]]), text=(13, "last"),
    ),
    joint(
        "Krea 2", "Krea2Pipeline", "Krea2Transformer2DModel", KREA2,
        lambda: guided(
            lambda seed: words(seed, 11 * 3, 2).unflatten(1, (11, 3)),
            kept(11, 11, 6),
            kept(11, 3, 3),
            mask="prompt_embeds_mask",
        ),
        text=(11, "first"),
    ),
    joint(
        "Nucleus-Image", "NucleusMoEImagePipeline", "NucleusMoEImageTransformer2DModel", NUCLEUS,
        lambda: guided(lambda seed: words(seed, 11, 2), kept(11, 11, 6), kept(11, 3, 3), mask="prompt_embeds_mask"),
        text=(11, "last"),
    ),
    joint(
        "Qwen-Image 2.1", "QwenImage21Pipeline", "QwenImage21Transformer2DModel", QWEN21,
        lambda: (
            guided(lambda seed: words(seed, 11, 2), kept(11, 11, 6), kept(11, 3, 3), mask="prompt_embeds_mask")
            | {"true_cfg_scale": 3.0}
        ),
        modules=lambda: {"processor": TemplateProcessor()}, unlike={"text": 11, "image": 48},
    ),
    joint(
        "Motif-Video", "MotifVideoPipeline", "MotifVideoTransformer3DModel", MOTIF,
        lambda: guided(lambda seed: words(seed, 11), kept(11, 7), kept(11, 3)) | {"num_frames": 5}, size=(64, 96),
        modules=motif_modules, parts={"image": (0, 48), "text": (48, None)},
    ),
    joint(
        "Ideogram 4", "Ideogram4Pipeline", "Ideogram4Transformer2DModel", IDEOGRAM4, ideogram_call,
        modules=ideogram_modules, parts={"image": (12, None)},
    ),
    joint(
        "Kandinsky 5 image", "Kandinsky5T2IPipeline", "Kandinsky5Transformer3DModel", KANDINSKY5, kandinsky5_call,
        settings={"resolutions": [(128, 96)]},
    ),
]  # fmt: skip
