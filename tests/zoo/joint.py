"""Image pipelines whose attention is joint: text and image tokens among the same keys."""

from functools import partial

from .family import PERTURBED, Family, first, last
from .joint_parts import (
    CHANNELS,
    HEADS,
    TEXT_WIDTH,
    VAE,
    WordTokenizer,
    encoder,
    family,
    flat_vae,
    flux_call,
    guided,
    having,
    kept,
    lazy,
    photo,
    pooled_call,
    texts,
    words,
)

language_model = partial(
    encoder, "Qwen2Model", vocab_size=64, hidden_size=TEXT_WIDTH, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, intermediate_size=16,
)  # fmt: skip
SD3 = HEADS | CHANNELS | {
    "sample_size": 16, "num_layers": 3, "pos_embed_max_size": 16, "joint_attention_dim": TEXT_WIDTH,
    "caption_projection_dim": 16, "pooled_projection_dim": TEXT_WIDTH,
}  # fmt: skip
SD35 = SD3 | {"dual_attention_layers": (0, 1), "qk_norm": "rms_norm"}
SKIPPING = {"skip_guidance_layers": [1], "skip_layer_guidance_start": -1.0, "skip_layer_guidance_stop": 1.0}
MMDIT = {"in_channels": 16, "num_layers": 1, "num_single_layers": 2}
FLUX2 = MMDIT | {"axes_dims_rope": (2, 2, 2, 2)}
KLEIN = FLUX2 | {"guidance_embeds": False}
CHROMA = MMDIT | {"approximator_num_channels": 16, "approximator_hidden_dim": 16, "approximator_layers": 1}
QWEN = {"in_channels": 16, "out_channels": 4}
AURA_FLOW = CHANNELS | {"num_mmdit_layers": 1, "num_single_dit_layers": 2, "pos_embed_max_size": 256}

flux2_vae = lazy("AutoencoderKLFlux2", **VAE)
qwen_vae = partial(flat_vae, "AutoencoderKLQwenImage", base_dim=2, dim_mult=[1] * 8, num_res_blocks=0,
                   temperal_downsample=[False] * 7)  # fmt: skip
"""It makes images 128 times smaller, for Qwen-Image-Edit blows every input image up to 1024x1024 pixels."""

FAMILIES: list[Family] = [
    family(
        "Stable Diffusion 3", "StableDiffusion3Pipeline", pooled_call(2), parts=last(10),
        transformer=("SD3Transformer2DModel", SD3),
    ),
    family(
        "Stable Diffusion 3.5", "StableDiffusion3Pipeline", pooled_call(), parts=last(10),
        transformer=("SD3Transformer2DModel", SD35),
    ),
    family(
        "Stable Diffusion 3.5, skip-layer guidance", "StableDiffusion3Pipeline", pooled_call(**SKIPPING),
        branches=PERTURBED, parts=last(10), transformer=("SD3Transformer2DModel", SD35),
    ),
    family(
        "FLUX.1", "FluxPipeline", flux_call(), branches=("cond",), parts=first(10),
        transformer=("FluxTransformer2DModel", MMDIT | {"guidance_embeds": True}),
    ),
    family(
        "FLUX.1, true guidance", "FluxPipeline", pooled_call(2, true_cfg_scale=3.0), parts=first(10),
        transformer=("FluxTransformer2DModel", MMDIT),
    ),
    family(
        "FLUX.1 Kontext", "FluxKontextPipeline", flux_call(image=words(5, 8, 16, 8)[None], max_area=96 * 128),
        branches=("cond",), parts={"text": (0, 10), "image": (10, 58), "reference": (58, 74)},
        transformer=("FluxTransformer2DModel", MMDIT | {"guidance_embeds": True, "in_channels": 64}),
    ),
    family(
        "FLUX.2", "Flux2Pipeline", {"prompt_embeds": words(1, 10), "image": photo(64, 80)}, branches=("cond",),
        parts={"text": (0, 10), "image": (10, 58), "reference": (58, 78)},
        transformer=("Flux2Transformer2DModel", FLUX2), vae=flux2_vae,
    ),
    family(
        "FLUX.2 klein", "Flux2KleinPipeline", texts(10), parts=first(10),
        transformer=("Flux2Transformer2DModel", KLEIN), vae=flux2_vae,
    ),
    family(
        "FLUX.2 klein, cached reference", "Flux2KleinKVPipeline",
        {"prompt_embeds": words(1, 10), "image": photo(64, 80)}, branches=("cond",), parts=first(10),
        transformer=("Flux2Transformer2DModel", KLEIN), vae=flux2_vae,
    ),
    family(
        "Chroma", "ChromaPipeline", texts(12, (12, 7), (3, 3), prompts=2), parts=first(12),
        transformer=("ChromaTransformer2DModel", CHROMA),
    ),
    family(
        "AuraFlow", "AuraFlowPipeline", texts(11, (11,), (4,)),
        parts={"other": (0, 8), "text": (8, 19), "image": (19, 67)},
        transformer=("AuraFlowTransformer2DModel", AURA_FLOW),
    ),
    family(
        "Qwen-Image", "QwenImagePipeline",
        guided(lambda seed: words(seed, 15 - seed, 2), kept(14, 14, 9), kept(13, 6, 5), mask="prompt_embeds_mask"),
        parts={"text": (0, -48), "image": (-48, None)}, transformer=("QwenImageTransformer2DModel", QWEN),
    ),
    family(
        "Qwen-Image-Edit", "QwenImageEditPipeline",
        texts(14, (14,), (5,), mask="prompt_embeds_mask") | {"image": photo(64, 64)}, (1536, 2048),
        parts={"text": (0, 14), "image": (14, 62), "reference": (62, 78)},
        transformer=("QwenImageTransformer2DModel", QWEN), vae=qwen_vae,
    ),
    family(
        "Bria 3.2", "BriaPipeline", texts(10), parts=first(10), transformer=("BriaTransformer2DModel", MMDIT),
        vae=lazy("AutoencoderKL", **VAE, shift_factor=0.0),
    ),
    family(
        "Ovis-Image", "OvisImagePipeline", texts(10, prompts=2) | {"negative_prompt": None}, parts=first(10),
        transformer=("OvisImageTransformer2DModel", MMDIT | {"out_channels": 16}),
    ),
    # it insists on encoding the prompts itself
    family(
        "LongCat-Image", "LongCatImagePipeline",
        {"prompt": ["a cat", "a dog that sleeps"], "negative_prompt": ["", "red"], "enable_prompt_rewrite": False},
        parts=first(12), transformer=("LongCatImageTransformer2DModel", MMDIT | {"in_channels": 64}),
        text_encoder=language_model, tokenizer=WordTokenizer, prepare=having(tokenizer_max_length=12),
    ),
]  # fmt: skip
