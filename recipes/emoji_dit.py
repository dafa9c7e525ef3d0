"""The recipe of the second embedded pipeline: ``python -m recipes.emoji_dit --out runs/emoji``.

A diffusion transformer (DiT) learns the pictures that the embedded U-Net learned, one class a picture, in the latents
of the same autoencoder. Like the first recipe it continues from its last checkpoint, logs to ``log.jsonl``, draws
sample grids, and leaves a pipeline in fp16.
"""

import argparse
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler

from entropylab.models.prompts import FOLDER, captions
from entropylab.models.transformer import AnySizeTransformer, LabelPipeline

from .emoji import SCHEDULE, VARIANTS, draw_grid, encoded, new_scheduler, noised, sharpen
from .loop import Loop, trapezoid
from .pictures import PIXELS, all_on_white, drawings

LOGIT_VARIANCE = 16 / 9
"""Of which the keys of one row have 1 at the start: tokens have much of their position in common."""


def new_transformer(classes: int) -> AnySizeTransformer:
    """The untrained transformer: five layers of four heads, with 64 tokens at the training size.

    It stays in evaluation mode: in training mode every layer would leave labels out by a die of its own.
    """
    model = AnySizeTransformer(
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=4,
        out_channels=4,
        num_layers=5,
        sample_size=PIXELS // 4,
        patch_size=2,
        num_embeds_ada_norm=classes,
    )
    return model.eval()


@torch.no_grad()
def begin(model: AnySizeTransformer) -> None:
    """Start as DiT does: every block hands its tokens on as they came (adaLN-Zero), and the prediction is zero."""
    zeroed = [model.proj_out_1, model.proj_out_2, *(block.norm1.linear for block in model.transformer_blocks)]
    for layer in zeroed:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    for block in model.transformer_blocks:
        torch.nn.init.normal_(block.norm1.emb.class_embedder.embedding_table.weight, std=0.3)
        torch.nn.init.zeros_(block.attn1.to_q.bias)
        torch.nn.init.zeros_(block.attn1.to_k.bias)
    sharpen(model, LOGIT_VARIANCE)


def train(folder: Path, steps: int, batch: int, device: torch.device, peak: float = 1.5e-3) -> LabelPipeline:
    """Train for ``steps`` (on from the last checkpoint, if there is one); return the pipeline with averaged weights."""
    torch.manual_seed(0)
    autoencoder = AutoencoderKL.from_pretrained(FOLDER / "vae").to(device).requires_grad_(False)
    latents = encoded(all_on_white(drawings(folder), VARIANTS, seed=0), autoencoder, device)
    classes, variants = latents.shape[:2]
    model = new_transformer(classes)
    begin(model)
    loop = Loop(folder, "transformer", model.to(device), peak, rate=trapezoid)
    noising = DDPMScheduler(**SCHEDULE)

    def loss_of_batch() -> tuple[torch.Tensor, dict[str, float]]:
        picture = torch.randint(classes, (batch,), device=device)
        variant = torch.randint(variants, (batch,), device=device)
        left_out = torch.rand(batch, device=device) < 0.1
        noisy, timesteps, velocity = noised(noising, latents[picture, variant])
        labels = torch.where(left_out, classes, picture)
        return F.mse_loss(model(noisy, timesteps, labels).sample, velocity), {}

    def pipeline() -> LabelPipeline:
        averaged = new_transformer(classes).to(device)
        averaged.load_state_dict(loop.average.weights)
        labels = {str(label): caption for label, caption in enumerate(captions().values())}
        pipe = LabelPipeline(averaged, autoencoder, new_scheduler(), labels)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    loop.train(steps, loss_of_batch, show=lambda path: draw_grid(pipeline(), path))
    return pipeline()


def save_pipeline(pipe: LabelPipeline, folder: Path) -> None:
    """Write a pipeline with fp16 weights, and without the autoencoder, which is the embedded pipeline's."""
    pipe.transformer.half()
    pipe.save_pretrained(folder, safe_serialization=True)
    shutil.rmtree(folder / "vae")


def main(arguments: list[str] | None = None) -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/emoji"), help="run folder (%(default)s)")
    parser.add_argument("--steps", type=int, default=4500, help="(%(default)s)")
    parser.add_argument("--batch", type=int, default=40, help="batch size (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    given = parser.parse_args(arguments)
    pipe = train(given.out, given.steps, given.batch, torch.device(given.device))
    save_pipeline(pipe, given.out / "pipeline-transformer")


if __name__ == "__main__":
    main()
