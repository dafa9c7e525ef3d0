"""Denoisers of sound that attend to the sound and to the text in turn."""

from functools import partial
from typing import Any

import torch

from .family import Family
from .joint_parts import encoder, family, flow_matching, lazy, named, texts


class Letters:
    """A tokenizer: a letter is a token, and shorter texts are padded."""

    model_max_length = 32

    def __call__(self, texts: list[str], max_length: int = 32, **options: Any) -> Any:
        """Indices and padding masks of ``texts``."""
        from transformers import BatchEncoding

        rows = [torch.tensor([ord(letter) % 31 + 1 for letter in text[:max_length]]) for text in texts]
        indices = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return BatchEncoding({"input_ids": indices, "attention_mask": (indices > 0).long()})


text_encoder = partial(encoder, "T5EncoderModel", vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
oobleck = partial(
    lazy, "AutoencoderOobleck", encoder_hidden_size=4, downsampling_ratios=[2, 4], channel_multiples=[1, 2],
    decoder_channels=4, decoder_input_channels=4, audio_channels=1,
)  # fmt: skip
"""A VAE with eight samples to a latent."""


ACE = {"hidden_size": 16, "intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 8, "sliding_window": 4}
SOUND: dict[str, Any] = {"size": (1, 40), "asked": False}

FAMILIES: list[Family] = [
    # half as many key heads as query heads in its cross-attention; a token of time stands before the sound
    family(
        "Stable Audio", "StableAudioPipeline", texts(11, prompts=2, width=16) | {"audio_end_in_s": 3.0}, **SOUND,
        parts={"other": (0, 1), "image": (1, None)}, vae=oobleck(sampling_rate=80),
        projection_model=lazy(
            "pipelines.stable_audio.StableAudioProjectionModel", text_encoder_dim=16, conditioning_dim=16, min_value=0,
            max_value=32,
        ),
        transformer=("StableAudioDiTModel", {
            "sample_size": 40, "in_channels": 4, "out_channels": 4, "num_key_value_attention_heads": 1,
            "cross_attention_dim": 8, "time_proj_dim": 8, "global_states_input_dim": 32,
            "cross_attention_input_dim": 16,
        }),
        scheduler=partial(
            named, "EDMDPMSolverMultistepScheduler", solver_order=2, prediction_type="v_prediction"
        ),
    ),
    # a layer's attention is the difference of two, and six memory tokens stand before the sound
    family(
        "Stable Audio 3", "StableAudio3Pipeline",
        texts(11, (9, 8), (6, 5), prompts=2, width=16, mask="encoder_attention_mask")
        | {"duration": 4.0, "guidance_scale": 3.0},
        **SOUND, parts={"other": (0, 6), "image": (6, None)},
        transformer=("StableAudio3DiTModel", {
            "io_channels": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "cond_token_dim": 16, "global_cond_dim": 16,
            "local_add_cond_dim": 5, "timestep_features_dim": 8, "num_memory_tokens": 6,
        }),
        vae=lazy(
            "AutoencoderSAME", audio_channels=1, patch_size=4, encoder_channels=8, encoder_c_mults=(1,),
            encoder_strides=(2,), encoder_transformer_depths=(1,), latent_dim=4, dim_heads=4, sampling_rate=80,
        ),
        duration_embedder=lazy("StableAudio3DurationEmbedder", output_dim=16, fourier_dim=8),
    ),
    # no scheduler: nothing tells which calls make a step
    family(
        "LongCat-AudioDiT", "LongCatAudioDiTPipeline",
        {"prompt": ["a long song", "a bell"], "negative_prompt": ["noise", "much noise"], "audio_duration_s": 4.0},
        **SOUND, branches=("all",), scheduler=None, text_encoder=text_encoder, tokenizer=Letters,
        transformer=("LongCatAudioDiTTransformer", {
            "dit_dim": 16, "dit_depth": 2, "dit_heads": 2, "dit_text_dim": 16, "latent_dim": 4,
        }),
        vae=lazy(
            "LongCatAudioDiTVae", channels=4, c_mults=[1, 2], strides=[2, 4], latent_dim=4, encoder_latent_dim=8,
            downsampling_ratio=8, sample_rate=80,
        ),
    ),
    # a layer attends to near tokens only, two latents to a token; a learnt embedding stands for no text
    family(
        "ACE-Step", "AceStepPipeline",
        {
            "prompt": "a long song", "lyrics": "la la", "audio_duration": 30.0, "max_text_length": 12,
            "max_lyric_length": 9,
        },
        (1, 60), asked=False, vae=oobleck(sampling_rate=16), text_encoder=text_encoder, tokenizer=Letters,
        condition_encoder=lazy(
            "pipelines.ace_step.AceStepConditionEncoder", **ACE, num_lyric_encoder_hidden_layers=1,
            num_timbre_encoder_hidden_layers=1, text_hidden_dim=16, timbre_hidden_dim=4, num_attention_heads=2,
        ),
        scheduler=partial(flow_matching, num_train_timesteps=1),
        transformer=("AceStepTransformer1DModel", ACE | {
            "num_hidden_layers": 2, "in_channels": 12, "audio_acoustic_hidden_dim": 4,
        }),
    ),
]  # fmt: skip
