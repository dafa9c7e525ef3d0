"""More relatives of Stable Diffusion, and U-Nets of sound, of tokens and of pictures beside pictures."""

from functools import partial
from typing import Any

from ..seeds import normal
from .family import NUMBERED, PERTURBED, Family
from .joint_parts import class_of, encoder, family, flow_matching, having, lazy, named, new, sized
from .unet_parts import (
    WIDTH,
    ddim,
    picture,
    pools,
    prompts,
    stable,
    text_encoder,
    tokenizer,
    unet,
    vae,
    vision_model,
)
from .unets import xl
from .unets_kandinsky import PRIOR, new_prior


def xs_adapter() -> Any:
    """A small network inside the U-Net."""
    return new(
        class_of("ControlNetXSAdapter").from_unet, unet=unet(layers_per_block=2), block_out_channels=[8, 16],
        num_attention_heads=2, conditioning_embedding_out_channels=(4, 8, 8, 8),
    )  # fmt: skip


image_normalizer = lazy(
    "pipelines.stable_diffusion.stable_unclip_image_normalizer.StableUnCLIPImageNormalizer", embedding_dim=128
)
t5 = partial(encoder, "T5EncoderModel", vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
gpt2 = partial(
    encoder, "GPT2Model", vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
)
vocoder = partial(encoder, "SpeechT5HifiGan", model_in_dim=96, upsample_initial_channel=32, sampling_rate=16000)
text_decoder = lazy(
    "UniDiffuserTextDecoder", prefix_length=7, prefix_inner_dim=128, prefix_hidden_dim=WIDTH, n_positions=16, n_embd=8,
    n_layer=1, n_head=2,
)  # fmt: skip
unlearned_embeddings = lazy(
    "pipelines.deprecated.vq_diffusion.LearnedClassifierFreeSamplingEmbeddings", learnable=False
)
WORDS: dict[str, Any] = {"tokenizer": tokenizer, "text_encoder": text_encoder}
GENERATED = {
    "generated_prompt_embeds": normal(2, 8, WIDTH, seed=3),
    "negative_generated_prompt_embeds": normal(2, 8, WIDTH, seed=4),
}

FAMILIES: list[Family] = [
    xl(
        "Perturbed-Attention Guidance XL", "StableDiffusionXLPAGPipeline", prompts(2) | pools(2), branches=PERTURBED
    ),
    stable(
        "ControlNet-XS", "StableDiffusionControlNetXSPipeline", prompts() | {"image": picture()},
        unet=partial(unet, layers_per_block=2), controlnet=xs_adapter,
    ),
    # one prompt, and one concept to move towards
    stable(
        "Semantic Guidance", "SemanticStableDiffusionPipeline",
        {"prompt": "a red car", "editing_prompt": ["a blue house"], "edit_warmup_steps": 0},
        branches=("cond", "uncond", "uncond 2"), unet=partial(unet, cross_attention_dim=128), **WORDS,
    ),
    # a prior, of which the parts are, and a U-Net that is told its image embedding
    stable(
        "Stable unCLIP", "StableUnCLIPPipeline",
        {"prompt": "a red car", "prior_num_inference_steps": 2, "noise_level": 10}, parts=PRIOR["parts"],
        prior_tokenizer=tokenizer, prior_text_encoder=partial(text_encoder, "CLIPTextModelWithProjection"),
        prior=new_prior, image_normalizer=image_normalizer, image_noising_scheduler="DDPMScheduler", vae=vae,
        prior_scheduler=partial(named, "DDPMScheduler", prediction_type="sample", clip_sample_range=5.0),
        unet=partial(
            unet, cross_attention_dim=128, class_embed_type="projection", projection_class_embeddings_input_dim=256
        ),
        **WORDS,
    ),
    # each block attends to itself, to one text and, with a padding mask, to another
    family(
        "AudioLDM 2", "AudioLDM2Pipeline",
        prompts(2, 24, (5, 7), (3, 3), mask="attention_mask") | GENERATED
        | {"audio_length_in_s": 128 * 256 / 16000}, (128, 96),
        scheduler=ddim, vae=vae, text_encoder_2=t5, language_model=gpt2, vocoder=vocoder,
        unet=lazy(
            "AudioLDM2UNet2DConditionModel", sample_size=8, layers_per_block=1, block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), cross_attention_dim=((None, WIDTH, 24),) * 2,
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=2, norm_num_groups=8,
        ),
    ),
    # two times, text, an image embedding and an image in one sequence; its outputs are three, and stepped as one
    stable(
        "UniDiffuser", "UniDiffuserPipeline", prompts(width=128), size=(64, 64), branches=NUMBERED,
        parts={"other": (0, 3), "text": (3, 10), "reference": (10, 11), "image": (11, 75)}, vae=vae,
        text_encoder=text_encoder, image_encoder=partial(vision_model, 12), clip_tokenizer=tokenizer,
        text_decoder=text_decoder,
        unet=partial(
            sized, "UniDiffuserModel", text_dim=WIDTH, clip_img_dim=12, num_text_tokens=7, in_channels=4,
            out_channels=4, num_layers=3, sample_size=8, patch_size=1, norm_type="layer_norm", pre_layer_norm=False,
            use_data_type_embedding=True, use_patch_pos_embed=True,
        ),
    ),
    # 64 tokens of an image, given as numbers of a vocabulary
    family(
        "VQ-Diffusion", "VQDiffusionPipeline", {"prompt": ["a red car", "a blue house"], "output_type": "np"}, (8, 8),
        asked=False, scheduler=partial(named, "VQDiffusionScheduler", num_vec_classes=9), **WORDS,
        learned_classifier_free_sampling_embeddings=unlearned_embeddings,
        vqvae=lazy(
            "VQModel", block_out_channels=(8,), latent_channels=4, vq_embed_dim=4, num_vq_embeddings=8,
            norm_num_groups=4,
        ),
        transformer=lazy(
            "Transformer2DModel", num_attention_heads=2, attention_head_dim=8, num_layers=2, cross_attention_dim=128,
            sample_size=8, num_vector_embeds=9, num_embeds_ada_norm=100, norm_type="ada_norm", attention_bias=True,
        ),
    ),
    # the image to edit, if any, stands beside the edited one; several heads share keys; text has a padding mask
    stable(
        "DreamLite", "DreamLitePipeline", {"prompt": "a red car"}, scheduler=flow_matching, **WORDS,
        prepare=having(prompt_template_encode_generate="{}", prompt_template_encode_generate_start_idx=0),
        vae=lazy(
            "AutoencoderTiny", encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4,
            num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4,
        ),
        unet=lazy(
            "DreamLiteUNetModel", sample_size=8, layers_per_block=1, block_out_channels=(16, 32),
            down_block_types=("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
            up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteCrossAttnNoSelfAttnUpBlock2D"),
            cross_attention_dim=128, attention_head_dim=(2, 4), norm_num_groups=8, addition_embed_type="time",
            addition_time_embed_dim=8, projection_class_embeddings_input_dim=16,
        ),
    ),
]  # fmt: skip
