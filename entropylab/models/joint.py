"""A pipeline of FLUX's shape, small: image and text tokens attend to each other in one joint attention."""

from inspect import signature
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel, ModelMixin
from transformers import CLIPTextModel, CLIPTokenizer

# Where diffusers finds a class of ours it looks for ModelMixin beside it, to know how the class is loaded.
__all__ = ["JointPipeline", "ModelMixin"]

if "true_cfg_scale" not in signature(FluxPipeline.__call__).parameters:
    raise ImportError("the joint model needs diffusers 0.32 or newer: FluxPipeline of older ones has no guidance")


class JointPipeline(FluxPipeline):
    """A ``FluxPipeline`` with one small CLIP text encoder, which both of FLUX's places hold.

    Prompts are padded to the encoder's length, and as in FLUX nothing masks the padding: image tokens may attend to it.
    """

    def __init__(
        self,
        scheduler: FlowMatchEulerDiscreteScheduler,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        text_encoder_2: CLIPTextModel,
        tokenizer_2: CLIPTokenizer,
        transformer: FluxTransformer2DModel,
        image_encoder: Any = None,
        feature_extractor: Any = None,
    ) -> None:
        super().__init__(
            scheduler, vae, text_encoder, tokenizer, text_encoder_2, tokenizer_2, transformer,
            image_encoder, feature_extractor,
        )  # fmt: skip
        self.default_sample_size = vae.config.sample_size // self.vae_scale_factor

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 20,
        guidance_scale: float = 3.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        **options: Any,
    ) -> Any:
        """Sample one image a prompt.

        Args:
            prompt: text, or a list of texts.
            height: of the images [pixels], a multiple of 8; the training size by default.
            width: of the images [pixels], a multiple of 8; the training size by default.
            num_inference_steps: denoising steps.
            guidance_scale: classifier-free guidance, if above 1: FLUX's ``true_cfg_scale``, against the empty prompt.
            generator: where the noise comes from; or one a prompt.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: whether to return an object with ``images``, else a tuple.
            options: further arguments of ``FluxPipeline``.
        """
        count = 1 if isinstance(prompt, str) else len(prompt)
        return super().__call__(
            prompt,
            negative_prompt=[""] * count,
            true_cfg_scale=guidance_scale,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            generator=generator,
            output_type=output_type,
            return_dict=return_dict,
            max_sequence_length=self.tokenizer_max_length,
            **options,
        )
