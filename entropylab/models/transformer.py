"""The second embedded pipeline's parts: a diffusion transformer for any size, and its pipeline for prompts."""

from typing import Any, Optional

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel, ImagePipelineOutput, ModelMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.utils.torch_utils import randn_tensor
from torch.nn.functional import silu

from ..errors import EntropyLabError

# Where diffusers finds a class of ours it looks for ModelMixin beside it, to know how the class is loaded.
__all__ = ["AnySizeTransformer", "LabelPipeline", "ModelMixin"]


class AnySizeTransformer(DiTTransformer2DModel):
    """A diffusion transformer whose images need not be square; of square ones it is a ``DiTTransformer2DModel``.

    The forward of diffusers takes the side of the image for the square root of its number of tokens.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        class_labels: torch.Tensor,
        cross_attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """The prediction (batch, channels, height, width) of noisy latents of the same shape.

        Args:
            hidden_states: latents (batch, channels, height, width), both sides a multiple of the patch's.
            timestep: (batch,).
            class_labels: (batch,); ``num_embeds_ada_norm`` stands for none.
            cross_attention_kwargs: handed to the attention processors.
            return_dict: whether to return a ``Transformer2DModelOutput``, else a tuple.
        """
        side = self.patch_size
        rows, columns = (length // side for length in hidden_states.shape[-2:])
        tokens = self.pos_embed(hidden_states)
        for block in self.transformer_blocks:
            tokens = block(
                tokens,
                timestep=timestep,
                class_labels=class_labels,
                cross_attention_kwargs=cross_attention_kwargs,
            )
        condition = self.transformer_blocks[0].norm1.emb(timestep, class_labels, hidden_dtype=tokens.dtype)
        shift, scale = self.proj_out_1(silu(condition)).unsqueeze(1).chunk(2, dim=-1)
        patches = self.proj_out_2(self.norm_out(tokens) * (1 + scale) + shift)
        grid = patches.unflatten(-1, (side, side, -1)).unflatten(1, (rows, columns))
        output = grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)


class LabelPipeline(DiTPipeline):
    """A ``DiTPipeline`` that is called as text-to-image pipelines are: its prompts are the names of its classes."""

    def __init__(
        self,
        transformer: AnySizeTransformer,
        vae: AutoencoderKL,
        scheduler: DDIMScheduler,
        id2label: Optional[dict[str, str]] = None,  # noqa: UP045 - older diffusers can read no other form
    ) -> None:
        super().__init__(transformer, vae, scheduler, id2label)
        self.register_to_config(id2label=id2label)

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
    ) -> Any:
        """Sample one image a prompt.

        Args:
            prompt: names of classes, as in ``labels``; "" is no class.
            height: of the images [pixels]; the training size by default.
            width: of the images [pixels]; the training size by default.
            num_inference_steps: denoising steps.
            guidance_scale: classifier-free guidance, if above 1.
            generator: where the noise comes from; or one a prompt.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: whether to return an ``ImagePipelineOutput``, else a tuple.

        Raises:
            EntropyLabError: a prompt that names no class, or a size that is no multiple of a patch's.
        """
        labels = self.encode_labels([prompt] if isinstance(prompt, str) else prompt)
        latents = self.prepare_latents(len(labels), height, width, generator)
        guided = guidance_scale > 1
        labels = torch.cat([labels, torch.full_like(labels, self.no_label)]) if guided else labels
        self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        for timestep in self.progress_bar(self.scheduler.timesteps):
            doubled = torch.cat([latents, latents]) if guided else latents
            predicted = self.transformer(doubled, timestep.expand(len(doubled)), labels).sample
            if guided:
                with_label, without = predicted.chunk(2)
                predicted = without + guidance_scale * (with_label - without)
            latents = self.scheduler.step(predicted, timestep, latents).prev_sample
        images = self.decode(latents, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @property
    def no_label(self) -> int:
        """The class that stands for none."""
        return self.transformer.config.num_embeds_ada_norm

    def encode_labels(self, prompts: list[str]) -> torch.Tensor:
        """The classes (batch,) that prompts name."""
        unknown = [prompt for prompt in prompts if prompt and prompt not in self.labels]
        if unknown:
            raise EntropyLabError(
                f"prompt must be the name of a class, one of the keys of pipe.labels, such as "
                f"{', '.join(map(repr, list(self.labels)[:3]))}. Got {unknown[0]!r}."
            )
        found = [self.labels[prompt] if prompt else self.no_label for prompt in prompts]
        return torch.tensor(found, device=self._execution_device)

    def prepare_latents(self, batch: int, height: int | None, width: int | None, generator: Any) -> torch.Tensor:
        """Noise (batch, channels, height, width) for images of a size [pixels]."""
        config, factor = self.transformer.config, 2 ** (len(self.vae.config.block_out_channels) - 1)
        sides = [config.sample_size * factor if side is None else side for side in (height, width)]
        multiple = factor * config.patch_size
        if any(side < multiple or side % multiple for side in sides):
            raise EntropyLabError(
                f"height and width must be multiples of {multiple} pixels. Got {' and '.join(map(str, sides))}."
            )
        shape = (batch, config.in_channels, *(side // factor for side in sides))
        return randn_tensor(shape, generator, self._execution_device, self.transformer.dtype)

    def decode(self, latents: torch.Tensor, output_type: str) -> Any:
        """Latents as images of a type."""
        if output_type == "latent":
            return latents
        images = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        images = (images / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return images
        array = images.cpu().permute(0, 2, 3, 1).float().numpy()
        return self.numpy_to_pil(array) if output_type == "pil" else array
