"""Denoisers of sound that attend to the sound and to the text in turn."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..seeds import generator
from .family import Family
from .joint_parts import assembled, flow_matching, named
from .transformers import peaked, prompts


class Letters:
    """A tokenizer: a letter is a token, and shorter texts are padded."""

    model_max_length = 32

    def __call__(self, texts: list[str], max_length: int = 32, **options: Any) -> Any:
        """Indices and padding masks of ``texts``."""
        from transformers import BatchEncoding

        rows = [torch.tensor([ord(letter) % 31 + 1 for letter in text[:max_length]]) for text in texts]
        indices = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return BatchEncoding({"input_ids": indices, "attention_mask": (indices > 0).long()})


def text_encoder() -> Any:
    """A T5 encoder of 16 features."""
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).eval()


@contextmanager
def old_weight_norm() -> Iterator[None]:
    """Silence about the weight norm that VAEs of sound are made with."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.nn.utils.weight_norm` is deprecated", FutureWarning)
        yield


def oobleck(sampling_rate: int) -> Any:
    """A VAE with eight samples to a latent."""
    sizes = {"encoder_hidden_size": 4, "downsampling_ratios": [2, 4], "channel_multiples": [1, 2]}
    with old_weight_norm():
        return named(
            "AutoencoderOobleck",
            **sizes,
            decoder_channels=4,
            decoder_input_channels=4,
            audio_channels=1,
            sampling_rate=sampling_rate,
        ).eval()


def build_stable_audio() -> Any:
    """Stable Audio, with half as many key heads as query heads in its cross-attention."""
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    torch.manual_seed(0)
    transformer = named(
        "StableAudioDiTModel", sample_size=40, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, num_key_value_attention_heads=1, cross_attention_dim=8, time_proj_dim=8,
        global_states_input_dim=32, cross_attention_input_dim=16,
    )  # fmt: skip
    projection = StableAudioProjectionModel(text_encoder_dim=16, conditioning_dim=16, min_value=0, max_value=32)
    scheduler = named("EDMDPMSolverMultistepScheduler", solver_order=2, prediction_type="v_prediction")
    parts = {"projection_model": projection.eval(), "transformer": peaked(transformer), "scheduler": scheduler}
    return assembled("StableAudioPipeline", vae=oobleck(80), **parts)


def sample_stable_audio(pipe: Any) -> Tensor:
    """Two prompts, each with a token for the start and one for the end; a token of time stands before the sound."""
    return pipe(
        **prompts(11, 16, batch=2, masked=False), audio_end_in_s=3.0, num_inference_steps=2, guidance_scale=3.0,
        generator=generator(), output_type="latent",
    ).audios  # fmt: skip


def build_stable_audio_3() -> Any:
    """Stable Audio 3: a layer's attention is the difference of two, and six memory tokens stand before the sound."""
    torch.manual_seed(0)
    transformer = named(
        "StableAudio3DiTModel", io_channels=4, embed_dim=16, depth=2, num_heads=2, cond_token_dim=16,
        global_cond_dim=16, local_add_cond_dim=5, timestep_features_dim=8, num_memory_tokens=6,
    )  # fmt: skip
    with old_weight_norm():
        vae = named(
            "AutoencoderSAME", audio_channels=1, patch_size=4, encoder_channels=8, encoder_c_mults=(1,),
            encoder_strides=(2,), encoder_transformer_depths=(1,), latent_dim=4, dim_heads=4, sampling_rate=80,
        )  # fmt: skip
    duration = named("StableAudio3DurationEmbedder", output_dim=16, fourier_dim=8)
    parts = {"duration_embedder": duration.eval(), "transformer": peaked(transformer), "scheduler": flow_matching()}
    return assembled("StableAudio3Pipeline", vae=vae.eval(), **parts)


def sample_stable_audio_3(pipe: Any) -> Tensor:
    """Two prompts, 40 latents; padding is replaced rather than masked."""
    texts = {name.replace("prompt_attention", "encoder_attention"): text for name, text in prompts(11, 16, 2).items()}
    return pipe(
        **texts, duration=4.0, num_inference_steps=2, guidance_scale=3.0, generator=generator(), output_type="latent"
    ).audios


def build_longcat_audio() -> Any:
    torch.manual_seed(0)
    transformer = named(
        "LongCatAudioDiTTransformer", dit_dim=16, dit_depth=2, dit_heads=2, dit_text_dim=16, latent_dim=4
    )
    for weight in transformer.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
    with old_weight_norm():
        vae = named(
            "LongCatAudioDiTVae", channels=4, c_mults=[1, 2], strides=[2, 4], latent_dim=4, encoder_latent_dim=8,
            downsampling_ratio=8, sample_rate=80,
        )  # fmt: skip
    words = {"text_encoder": text_encoder(), "tokenizer": Letters()}
    return assembled("LongCatAudioDiTPipeline", vae=vae.eval(), **words, transformer=peaked(transformer))


def sample_longcat_audio(pipe: Any) -> Tensor:
    """Two prompts of different lengths, 40 latents."""
    return pipe(
        ["a long song", "a bell"], ["noise", "much noise"], audio_duration_s=4.0, num_inference_steps=2,
        guidance_scale=3.0, generator=generator(), output_type="latent",
    ).audios  # fmt: skip


def build_ace_step() -> Any:
    """ACE-Step: a layer that attends to near tokens only, a layer that attends to all."""
    from diffusers.pipelines.ace_step import AceStepConditionEncoder

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    sizes |= {"head_dim": 8, "sliding_window": 4}
    shape = {"num_hidden_layers": 2, "in_channels": 12, "audio_acoustic_hidden_dim": 4}
    transformer = named("AceStepTransformer1DModel", **sizes, **shape)
    layers = {"num_lyric_encoder_hidden_layers": 1, "num_timbre_encoder_hidden_layers": 1}
    encoder = AceStepConditionEncoder(**sizes, **layers, text_hidden_dim=16, timbre_hidden_dim=4).eval()
    parts = {"vae": oobleck(16), "text_encoder": text_encoder(), "tokenizer": Letters(), "condition_encoder": encoder}
    scheduler = flow_matching(num_train_timesteps=1)
    return assembled("AceStepPipeline", **parts, transformer=peaked(transformer), scheduler=scheduler)


def sample_ace_step(pipe: Any) -> Tensor:
    """One song of 60 latents, two to a token; it is guided by a learnt embedding that stands for no text."""
    return pipe(
        "a long song", lyrics="la la", audio_duration=30.0, max_text_length=12, max_lyric_length=9,
        num_inference_steps=2, guidance_scale=3.0, generator=generator(), output_type="latent",
    ).audios  # fmt: skip


FAMILIES = [
    Family(
        "Stable Audio", "StableAudioPipeline", build_stable_audio, sample_stable_audio, (1, 40), asked=False,
        parts={"other": (0, 1), "image": (1, None)},
    ),
    Family(
        "Stable Audio 3", "StableAudio3Pipeline", build_stable_audio_3, sample_stable_audio_3, (1, 40), asked=False,
        parts={"other": (0, 6), "image": (6, None)},
    ),
    # no scheduler: nothing tells which calls make a step
    Family(
        "LongCat-AudioDiT", "LongCatAudioDiTPipeline", build_longcat_audio, sample_longcat_audio, (1, 40),
        branches=("all",), asked=False,
    ),
    Family("ACE-Step", "AceStepPipeline", build_ace_step, sample_ace_step, (1, 60), asked=False),
]  # fmt: skip
