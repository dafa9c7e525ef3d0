"""Stage 2: the U-Net, with the text encoder, on the latents of stage 1. It leaves a StableDiffusionPipeline.

``python -m recipes.unet --out runs/emoji``, which goes on from its last checkpoint when it is started again.

The shipped ones did not begin at random. Their first weights were those of the embedded model of release 0.1, which
drew the same emoji on white and had attention at 16 tokens too; ``--begin`` takes the folder of such a pipeline. Rows
of 16 keys show no law, and those layers had frozen: each row had one key left. So the smallest level has convolutions
alone here.

They took 1,600 steps of 1,800, of 24 pictures each, and were steered by hand: up to step 700 the brake held only the
variance of the logits, with a weight of 0.01; then Var_A too, with 0.01 up to step 900, 0.03 up to 1,300, and 0.06 from
there on. From random weights this recipe has not been run; the old model took 5,000 steps.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from entropylab.models.prompts import captions

from .autoencoder import to_tensor, trained
from .brake import Brake
from .loop import Loop, new_parser
from .pictures import PIXELS, drawings, kept, variants
from .text import WIDTH, finish_text_encoder, new_text_encoder, new_tokenizer, spoken

SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}

LOGIT_VARIANCE = 5.5
"""At which Gaussian logits over 64 to 256 keys are sharpest: the variance that attention itself gives its logits is
half of log N, and falls again where they are larger, since one key takes all."""


def new_unet() -> UNet2DConditionModel:
    """The untrained U-Net: six layers of self-attention at 256 and 64 tokens, four heads each."""
    return UNet2DConditionModel(
        sample_size=PIXELS // 4,
        layers_per_block=1,
        block_out_channels=(64, 96, 128),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        mid_block_type="UNetMidBlock2D",
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


class Batches:
    """Latents, made once of ``count`` placements of each emoji and kept in the run folder, and token ids.

    ``tokens`` (texts, length) are of every caption in all its wordings, one caption after the other; the last of all is
    the empty prompt.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.autoencoder = trained(folder / "autoencoder" / "autoencoder.safetensors")
        self.latents = torch.from_numpy(
            kept(folder / f"latents-{count}.npy", lambda: latents_of(folder, count, self.autoencoder))
        )
        self.captions = list(captions().values())
        texts = [text for caption in self.captions for text in spoken(caption)]
        self.wordings = len(texts) // len(self.captions)
        self.tokenizer = new_tokenizer(texts)
        self.tokens = self.tokenizer([*texts, ""], padding="max_length", truncation=True, return_tensors="pt").input_ids

    def draw(self, batch: int, empty_share: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
        """``batch`` latents (n, 4, 16, 16) and the places (n,) of their texts, a tenth of them the empty prompt."""
        picture = torch.randint(len(self.latents), (batch,))
        variant = torch.randint(self.latents.shape[1], (batch,))
        wording = torch.randint(self.wordings, (batch,))
        text = torch.where(torch.rand(batch) < empty_share, -1, picture * self.wordings + wording)
        return self.latents[picture, variant].float(), text


@torch.no_grad()
def latents_of(folder: Path, count: int, autoencoder: AutoencoderKL) -> np.ndarray:
    """Latents float16 (emoji, count, 4, 16, 16) of ``count`` placements of each emoji, which are drawn once."""
    images = kept(folder / f"pictures-{count}.npy", lambda: variants(drawings(folder), count, seed=20))

    def encoded(pictures: np.ndarray) -> torch.Tensor:
        parts = to_tensor(pictures).split(16)
        return torch.cat([autoencoder.encode(part).latent_dist.mean for part in parts])

    return torch.stack([encoded(pictures) for pictures in images]).half().numpy()


def new_model(tokenizer: CLIPTokenizer, begin: Path | None = None) -> nn.ModuleDict:
    """The U-Net and the text encoder, with what fits of the weights of the pipeline in ``begin``, or at random."""
    unet = new_unet()
    if begin is None:
        return nn.ModuleDict({"unet": unet, "text_encoder": new_text_encoder(tokenizer)})
    before = UNet2DConditionModel.from_pretrained(begin / "unet", torch_dtype=torch.float32).state_dict()
    unet.load_state_dict({name: before.get(name, value) for name, value in unet.state_dict().items()})
    text_encoder = CLIPTextModel.from_pretrained(begin / "text_encoder", dtype=torch.float32)
    return nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})


def noised(noising: DDPMScheduler, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents, their timesteps spread evenly over the batch, and the velocity that is to be predicted."""
    batch = len(latents)
    spread = (torch.arange(batch, device=latents.device) + torch.rand(batch, device=latents.device)) / batch
    timesteps = (spread * noising.config.num_train_timesteps).long()
    noise = torch.randn_like(latents)
    return noising.add_noise(latents, noise, timesteps), timesteps, noising.get_velocity(latents, noise, timesteps)


def assemble(model: nn.ModuleDict, autoencoder: AutoencoderKL, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """The parts as one StableDiffusionPipeline, and what it is sampled with."""
    settings = {"clip_sample": False, "set_alpha_to_one": True, "steps_offset": 1, "timestep_spacing": "trailing"}
    pipe = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=model["text_encoder"],
        tokenizer=tokenizer,
        unet=model["unet"],
        scheduler=DDIMScheduler(**SCHEDULE, **settings),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def train(
    folder: Path, steps: int, batch: int, peak: float, target: float, begin: Path | None = None, count: int = 48
) -> StableDiffusionPipeline:
    """Train until ``steps``, on from the last checkpoint; return the pipeline with averaged weights.

    ``target`` is the variance of the logits that the brake holds, ``begin`` a pipeline that has the first weights.
    """
    batches = Batches(folder, count)
    torch.manual_seed(0)
    model = new_model(batches.tokenizer, begin).train()
    model["unet"].to(memory_format=torch.channels_last)
    loop = Loop(folder, "unet", model, peak)
    noising = DDPMScheduler(**SCHEDULE)
    brake = Brake(model["unet"], target)

    def loss_of_batch() -> tuple[torch.Tensor, dict[str, float]]:
        latents, text = batches.draw(batch)
        noisy, timesteps, velocity = noised(noising, latents)
        states = model["text_encoder"](batches.tokens[text])[0]
        error = F.mse_loss(model["unet"](noisy, timesteps, states).sample, velocity)
        term, seen = brake()
        return error + term, {"error": error.item(), **seen}

    loop.train(steps, loss_of_batch)
    averaged = loop.average.module.eval().to(memory_format=torch.contiguous_format)
    return assemble(averaged, batches.autoencoder, batches.tokenizer)


def save_pipeline(pipe: Any, folder: Path) -> None:
    """Write a pipeline as fp16 safetensors, its tokenizers also in the form that older readers know."""
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.half()
    pipe.save_pretrained(folder, safe_serialization=True)
    for encoder in folder.glob("text_encoder*"):
        finish_text_encoder(encoder, folder / encoder.name.replace("text_encoder", "tokenizer"))


if __name__ == "__main__":
    parser = new_parser(__doc__, "runs/emoji", steps=1800, batch=24)
    parser.add_argument("--rate", type=float, default=6e-4, help="highest learning rate (%(default)s)")
    parser.add_argument("--target", type=float, default=LOGIT_VARIANCE, help="variance of logits (%(default)s)")
    parser.add_argument("--begin", type=Path, metavar="FOLDER", help="pipeline that the first weights are of")
    given = parser.parse_args()
    pipe = train(given.out, given.steps, given.batch, given.rate, given.target, given.begin)
    save_pipeline(pipe, given.out / "pipeline")
