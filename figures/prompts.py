"""The embedded pipeline's forty prompts at its training size, ten to a row: python figures/prompts.py [--out DIR]."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

import shared
from entropylab.models.prompts import embedded_prompts

STEPS, COLUMNS = 25, 10


def draw(source: shared.Source, out: Path) -> None:
    """Write prompts.png, pixel by pixel."""
    prompts, (height, width) = embedded_prompts(), source.trained
    seeds = [torch.Generator("cpu").manual_seed(seed) for seed in range(len(prompts))]
    call = {"height": height, "width": width, "num_inference_steps": STEPS, "guidance_scale": 3.0}
    images = source.pipe(prompts, generator=seeds, output_type="np", **call).images
    rows = np.round(255 * images).astype(np.uint8).reshape(-1, COLUMNS, height, width, 3)
    Image.fromarray(rows.transpose(0, 2, 1, 3, 4).reshape(-1, COLUMNS * width, 3)).save(out / "prompts.png")
    print(f"wrote {out / 'prompts.png'}", flush=True)


if __name__ == "__main__":
    parser = shared.new_parser(__doc__)
    given = parser.parse_args()
    shared.run(parser, given.out, lambda: draw(shared.Source(), given.out))
