"""More relatives of Stable Diffusion, and U-Nets of sound, of tokens and of pictures beside pictures."""

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..seeds import generator, normal
from .family import NUMBERED, Family
from .joint_parts import assembled, flow_matching, named
from .unet_parts import (
    SIZE,
    UNCHECKED,
    WIDTH,
    XL_SIZE,
    at,
    ddim,
    new,
    picture,
    prompts,
    text_encoder,
    tokenizer,
    two_steps,
    unet,
    vae,
)
from .unets import build_xl, sample_stable, sample_xl
from .unets_kandinsky import new_prior


def build_controlnet_xs() -> Any:
    """ControlNet-XS: a small network inside the U-Net."""
    from diffusers import ControlNetXSAdapter

    model = unet(layers_per_block=2)
    adapter = new(
        ControlNetXSAdapter.from_unet, unet=model, block_out_channels=[8, 16], num_attention_heads=2,
        conditioning_embedding_out_channels=(4, 8, 8, 8),
    )  # fmt: skip
    parts = {**UNCHECKED, "unet": model, "controlnet": adapter, "scheduler": ddim()}
    return assembled("StableDiffusionControlNetXSPipeline", **parts)


def build_semantic() -> Any:
    parts = {**UNCHECKED, "text_encoder": text_encoder(), "tokenizer": tokenizer()}
    model = unet(cross_attention_dim=128)
    return assembled("SemanticStableDiffusionPipeline", **parts, unet=model, scheduler=ddim())


def sample_semantic(pipe: Any) -> Tensor:
    """One prompt, and one concept to move towards."""
    return two_steps(pipe, prompt="a red car", editing_prompt=["a blue house"], edit_warmup_steps=0, **at(SIZE))


def build_stable_unclip() -> Any:
    """Stable unCLIP: a prior and a U-Net that is told the prior's image embedding."""
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer

    ddpm, words = partial(named, "DDPMScheduler"), tokenizer()
    model = unet(cross_attention_dim=128, class_embed_type="projection", projection_class_embeddings_input_dim=256)
    normalizer = new(StableUnCLIPImageNormalizer, embedding_dim=128)
    return assembled(
        "StableUnCLIPPipeline", prior_tokenizer=words, prior_text_encoder=text_encoder("CLIPTextModelWithProjection"),
        prior=new_prior(), prior_scheduler=ddpm(prediction_type="sample", clip_sample_range=5.0),
        image_normalizer=normalizer, image_noising_scheduler=ddpm(), tokenizer=words, text_encoder=text_encoder(),
        unet=model, scheduler=ddim(), vae=vae(),
    )  # fmt: skip


def sample_stable_unclip(pipe: Any) -> Tensor:
    """One prompt, two steps of each part."""
    return two_steps(pipe, prompt="a red car", prior_num_inference_steps=2, noise_level=10, **at(SIZE))


def build_audioldm2() -> Any:
    """AudioLDM 2: spectrograms; each block attends to itself, to one text and, with a padding mask, to another."""
    from transformers import GPT2Config, GPT2Model, SpeechT5HifiGan, SpeechT5HifiGanConfig, T5Config, T5EncoderModel

    model = new(
        "AudioLDM2UNet2DConditionModel", sample_size=8, layers_per_block=1, block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=((None, WIDTH, 24),) * 2, attention_head_dim=2, norm_num_groups=8,
    )  # fmt: skip
    words = T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    language = GPT2Config(vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    sound = SpeechT5HifiGanConfig(model_in_dim=96, upsample_initial_channel=32, sampling_rate=16000)
    return assembled(
        "AudioLDM2Pipeline", vae=vae(), text_encoder_2=T5EncoderModel(words), language_model=GPT2Model(language),
        unet=model, scheduler=ddim(), vocoder=SpeechT5HifiGan(sound),
    )  # fmt: skip


def sample_audioldm2(pipe: Any) -> Tensor:
    """Two prompts of 5 and 7 tokens, negative ones of 3."""
    arguments = prompts(2, 24)
    for name, kept in (("attention_mask", (5, 7)), ("negative_attention_mask", (3, 3))):
        arguments[name] = (torch.arange(7) < torch.tensor(kept)[:, None]).long()
    arguments["generated_prompt_embeds"] = normal(2, 8, WIDTH, seed=3)
    arguments["negative_generated_prompt_embeds"] = normal(2, 8, WIDTH, seed=4)
    generators = [generator(0), generator(1)]
    seconds = 128 * 256 / 16000
    arguments |= {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "latent", "generator": generators}
    return pipe(audio_length_in_s=seconds, **arguments).audios


def build_unidiffuser() -> Any:
    """UniDiffuser: two times, text, an image embedding and an image in one sequence."""
    from diffusers import UniDiffuserTextDecoder
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    model = new(
        "UniDiffuserModel", text_dim=WIDTH, clip_img_dim=12, num_text_tokens=7, num_attention_heads=2,
        attention_head_dim=8, in_channels=4, out_channels=4, num_layers=3, sample_size=8, patch_size=1,
        norm_type="layer_norm", pre_layer_norm=False, use_data_type_embedding=True, use_patch_pos_embed=True,
    )  # fmt: skip
    decoder = new(
        UniDiffuserTextDecoder, prefix_length=7, prefix_inner_dim=128, prefix_hidden_dim=WIDTH,
        n_positions=16, n_embd=8, n_layer=1, n_head=2,
    )  # fmt: skip
    config = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, projection_dim=12, num_hidden_layers=1, num_attention_heads=2,
        image_size=32, patch_size=16,
    )  # fmt: skip
    images = new(CLIPVisionModelWithProjection, config=config)
    return assembled(
        "UniDiffuserPipeline", vae=vae(), text_encoder=text_encoder(), image_encoder=images,
        clip_tokenizer=tokenizer(), text_decoder=decoder, unet=model, scheduler=ddim(),
    )  # fmt: skip


def build_vq_diffusion() -> Any:
    """VQ-Diffusion: a transformer over 64 tokens of an image, given as numbers of a vocabulary."""
    from diffusers.pipelines.deprecated.vq_diffusion import LearnedClassifierFreeSamplingEmbeddings

    model = new(
        "Transformer2DModel", num_attention_heads=2, attention_head_dim=8, num_layers=2, cross_attention_dim=128,
        sample_size=8, num_vector_embeds=9, num_embeds_ada_norm=100, norm_type="ada_norm", attention_bias=True,
    )  # fmt: skip
    pictures = new(
        "VQModel", block_out_channels=(8,), latent_channels=4, vq_embed_dim=4, num_vq_embeddings=8, norm_num_groups=4
    )
    parts = {"vqvae": pictures, "text_encoder": text_encoder(), "tokenizer": tokenizer(), "transformer": model}
    parts["learned_classifier_free_sampling_embeddings"] = LearnedClassifierFreeSamplingEmbeddings(learnable=False)
    return assembled("VQDiffusionPipeline", **parts, scheduler=named("VQDiffusionScheduler", num_vec_classes=9))


def sample_vq_diffusion(pipe: Any) -> Tensor:
    arguments = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "np", "generator": generator()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.as_tensor(pipe(["a red car", "a blue house"], **arguments).images)


def build_dreamlite() -> Any:
    """DreamLite: the image to edit stands beside the edited one; several heads share keys; text has a padding mask."""
    model = new(
        "DreamLiteUNetModel", sample_size=8, layers_per_block=1, block_out_channels=(16, 32),
        down_block_types=("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
        up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteCrossAttnNoSelfAttnUpBlock2D"),
        cross_attention_dim=128, attention_head_dim=(2, 4), norm_num_groups=8, addition_embed_type="time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=16,
    )  # fmt: skip
    levels = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    pictures = new("AutoencoderTiny", **levels, num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4)
    words = {"text_encoder": text_encoder(), "tokenizer": tokenizer()}
    pipe = assembled("DreamLitePipeline", **words, vae=pictures, unet=model, scheduler=flow_matching())
    pipe.prompt_template_encode_generate, pipe.prompt_template_encode_generate_start_idx = "{}", 0
    return pipe


def sample_dreamlite(pipe: Any) -> Tensor:
    """One prompt, no image to edit."""
    return two_steps(pipe, prompt="a red car", **at(SIZE))


FAMILIES = [
    Family(
        "Perturbed-Attention Guidance XL", "StableDiffusionXLPAGPipeline",
        partial(build_xl, "StableDiffusionXLPAGPipeline"), partial(sample_xl, size=XL_SIZE), XL_SIZE,
        ("cond", "uncond", "perturbed"),
    ),
    Family(
        "ControlNet-XS", "StableDiffusionControlNetXSPipeline", build_controlnet_xs,
        partial(sample_stable, image=picture()), SIZE,
    ),
    Family(
        "Semantic Guidance", "SemanticStableDiffusionPipeline", build_semantic, sample_semantic, SIZE,
        ("cond", "uncond", "uncond 2"),
    ),
    # of the prior
    Family(
        "Stable unCLIP", "StableUnCLIPPipeline", build_stable_unclip, sample_stable_unclip, SIZE,
        parts={"text": (0, 24), "image": (26, 27)},
    ),
    Family("AudioLDM 2", "AudioLDM2Pipeline", build_audioldm2, sample_audioldm2, (128, 96)),
    # its outputs are three, and stepped as one
    Family(
        "UniDiffuser", "UniDiffuserPipeline", build_unidiffuser,
        lambda pipe: two_steps(pipe, **prompts(width=128), **at((64, 64))), (64, 64), branches=NUMBERED,
        parts={"other": (0, 3), "text": (3, 10), "reference": (10, 11), "image": (11, 75)},
    ),
    Family("VQ-Diffusion", "VQDiffusionPipeline", build_vq_diffusion, sample_vq_diffusion, (8, 8), asked=False),
    Family("DreamLite", "DreamLitePipeline", build_dreamlite, sample_dreamlite, SIZE),
]  # fmt: skip
