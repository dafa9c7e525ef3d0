"""Stage 3: the second model, a small transformer of FLUX's shape, on the latents and the text encoder of the first.

``python -m recipes.joint --out runs/emoji``, which goes on from its last checkpoint when it is started again.

Image and text tokens attend to each other, image tokens know their place by rotary embeddings, and the padding of the
text takes part, as in FLUX. Queries and keys are normed with learned gains, so the logits need no brake. The shipped
one took 5,000 steps of 32 pictures, from random weights; in the package it has the autoencoder of the first.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextModel

from entropylab.models.joint import JointPipeline

from .loop import Loop, new_parser
from .text import LENGTH, WIDTH
from .unet import LOGIT_VARIANCE, Batches, save_pipeline


def new_transformer() -> FluxTransformer2DModel:
    """The untrained transformer: three joint layers and four on one stream, four heads each, of 64 image tokens at the
    training size (2x2 latents each) and 24 text tokens.
    """
    return FluxTransformer2DModel(
        in_channels=16,
        num_layers=3,
        num_single_layers=4,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(8, 12, 12),
    )


@torch.no_grad()
def begin(model: FluxTransformer2DModel, variance: float = LOGIT_VARIANCE) -> None:
    """Start with blocks that hand their tokens on as they came (adaLN-Zero), and with logits of a variance.

    Normed queries and keys of 32 channels have logits of variance 1, so each gain begins at the fourth root.
    """
    zeroed = [model.proj_out, model.norm_out.linear]
    for block in model.transformer_blocks:
        zeroed += [block.norm1.linear, block.norm1_context.linear]
    zeroed += [block.norm.linear for block in model.single_transformer_blocks]
    for layer in zeroed:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    for name, gain in model.named_parameters():
        if any(part in name for part in ("norm_q.", "norm_k.", "norm_added_q.", "norm_added_k.")):
            gain.fill_(variance**0.25)


def flow_loss(
    model: FluxTransformer2DModel, latents: torch.Tensor, tokens: torch.Tensor, pooled: torch.Tensor
) -> torch.Tensor:
    """Squared error of the predicted velocity, from data to noise along a straight line (rectified flow).

    Times are logit-normal, as in Stable Diffusion 3, spread evenly over the batch.
    """
    batch, channels, height, width = latents.shape
    even = ((torch.arange(batch) + torch.rand(batch)) / batch).clamp(1e-4, 1 - 1e-4)
    time = torch.special.ndtri(even).sigmoid()
    noise = torch.randn_like(latents)
    noisy = torch.lerp(latents, noise, time[:, None, None, None])
    predicted = model(
        hidden_states=FluxPipeline._pack_latents(noisy, batch, channels, height, width),
        encoder_hidden_states=tokens,
        pooled_projections=pooled,
        timestep=time,
        img_ids=FluxPipeline._prepare_latent_image_ids(batch, height // 2, width // 2, "cpu", torch.float32),
        txt_ids=torch.zeros(LENGTH, 3),
    ).sample
    return F.mse_loss(predicted, FluxPipeline._pack_latents(noise - latents, batch, channels, height, width))


def assemble(
    transformer: FluxTransformer2DModel, autoencoder: AutoencoderKL, encoder: CLIPTextModel, batches: Batches
) -> JointPipeline:
    """The parts as one pipeline."""
    tokenizer = batches.tokenizer
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    pipe = JointPipeline(scheduler, autoencoder, encoder, tokenizer, encoder, tokenizer, transformer)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def train(folder: Path, steps: int, batch: int, peak: float, count: int = 48) -> JointPipeline:
    """Train for ``steps`` (on from the last checkpoint, if there is one); return the pipeline with averaged weights."""
    batches = Batches(folder, count)
    encoder = CLIPTextModel.from_pretrained(folder / "pipeline" / "text_encoder", dtype=torch.float32).eval()
    with torch.no_grad():
        texts = encoder(batches.tokens)
    torch.manual_seed(0)
    model = new_transformer().train()
    begin(model)
    loop = Loop(folder, "joint", model, peak)

    def loss_of_batch() -> tuple[torch.Tensor, dict[str, float]]:
        latents, text = batches.draw(batch)
        return flow_loss(model, latents, texts.last_hidden_state[text], texts.pooler_output[text]), {}

    loop.train(steps, loss_of_batch)
    return assemble(loop.average.module.eval(), batches.autoencoder, encoder, batches)


if __name__ == "__main__":
    parser = new_parser(__doc__, "runs/emoji", steps=6000, batch=32)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="highest learning rate (%(default)s)")
    given = parser.parse_args()
    pipe = train(given.out, given.steps, given.batch, given.rate)
    save_pipeline(pipe, given.out / "pipeline-joint")
