"""The embedded image-text model: ``python -m recipes.image_text --out runs/image-text``.

It trains the image tower against the embedded pipeline's frozen text encoder, goes on from its last checkpoint when it
is started again, and leaves the weights in fp16 and the features of the real pictures: ten minutes on one core.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from entropylab.models.prompts import captions
from entropylab.quality.clip import EmbeddedClip
from entropylab.quality.defects import defects
from entropylab.quality.features import DRAWN, FILE
from entropylab.quality.image_text import WEIGHTS, ImageText, TextTower

from .loop import Loop, new_parser, trapezoid
from .pictures import PIXELS, drawings, other_drawings, place, variants
from .text import spoken

SIZES = (
    (32, 32), (56, 56), (64, 64), (96, 96), (128, 128),
    (40, 64), (48, 64), (64, 96), (96, 64), (64, 128),
)  # fmt: skip
"""Sizes (height, width) [pixels] at which features of the real pictures are shipped."""

VARIANTS = 24
OTHERS = 0.25
"""Of a batch: pictures that no caption describes, so that no caption claims whatever it sees."""


class Pictures:
    """Captioned pictures, pictures without captions, and the pooled text of every caption in every wording."""

    def __init__(self, folder: Path) -> None:
        images = variants(drawings(folder), VARIANTS, seed=0)
        self.images = torch.from_numpy(images).permute(0, 1, 4, 2, 3)
        self.others = torch.from_numpy(variants(other_drawings(folder), 1, seed=1)[:, 0]).permute(0, 3, 1, 2)
        wordings = [spoken(caption) for caption in captions().values()]
        pooled = TextTower()([text for texts in wordings for text in texts])
        self.pooled = pooled.view(len(wordings), -1, pooled.shape[-1])

    def draw(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures in [-1, 1] (batch, 3, 64, 64), which caption each has (those after the last have none), and pooled
        text (captions, 128) in random wordings.
        """
        captioned = round(batch * (1 - OTHERS))
        labels = torch.randint(len(self.images), (captioned,))
        images = self.images[labels, torch.randint(self.images.shape[1], (captioned,))]
        others = self.others[torch.randint(len(self.others), (batch - captioned,))]
        texts = self.pooled[torch.arange(len(self.pooled)), torch.randint(self.pooled.shape[1], (len(self.pooled),))]
        return varied(torch.cat([images, others]).float() / 127.5 - 1), labels, texts


def varied(images: Tensor) -> Tensor:
    """Pictures (batch, 3, 64, 64), mirrored or not, less sharp or not, and on a wider or taller frame."""
    if torch.rand(()) < 0.3:
        images = images.flip(-1)
    if torch.rand(()) < 0.4:
        down = int(torch.randint(24, PIXELS, ()))
        images = F.interpolate(images, (down, down), mode="bilinear", antialias=True)
    high, wide = (1 + torch.rand(2) ** 2 * 0.6).tolist()
    side = images.shape[-1]
    edges = [round((stretch - 1) * side / 2) for stretch in (high, wide)]
    framed = F.pad(images, (edges[1], edges[1], edges[0], edges[0]), mode="replicate")
    shrink = PIXELS / (framed.shape[-2] * framed.shape[-1]) ** 0.5
    size = [4 * round(length * shrink / 4) for length in framed.shape[-2:]]
    return F.interpolate(framed, size, mode="bilinear", antialias=True, align_corners=False)


def loss_of(model: ImageText, images: Tensor, labels: Tensor, texts: Tensor) -> Tensor:
    """Contrastive loss: the caption of each picture among all, the pictures of each caption among the batch."""
    image = F.normalize(model.image_features(images), dim=-1)
    text = F.normalize(model.text_features(texts), dim=-1)
    logits = model.log_scale.clamp(max=4.0).exp() * image @ text.T
    by_picture = F.cross_entropy(logits[: len(labels)], labels)
    own = F.one_hot(labels, len(texts)).bool()
    present = own.any(0)
    right = logits[: len(labels)].masked_fill(~own, -torch.inf).logsumexp(0)
    by_caption = (logits.logsumexp(0) - right)[present].mean()
    return (by_picture + by_caption) / 2


def train(folder: Path, steps: int, batch: int, peak: float = 2e-3) -> ImageText:
    """Train for ``steps`` (on from the last checkpoint, if there is one); return the model with averaged weights."""
    torch.manual_seed(0)
    pictures, model = Pictures(folder), ImageText()
    loop = Loop(folder, "image_text", model, peak, decay=0.99, rate=trapezoid, betas=(0.9, 0.999))
    loop.train(steps, lambda: (loss_of(model, *pictures.draw(batch)), {}), every=50)
    model.load_state_dict(loop.average.module.state_dict())
    return model.eval()


def write_reference(model: ImageText, folder: Path) -> None:
    """Features (172 x 4, 32) of the real pictures at every size, fp16, with their CLIP scores and defects."""
    masters = drawings(folder)
    prompts = [caption for caption in captions().values() for _ in range(DRAWN)]
    clip = EmbeddedClip(model)
    found: dict[str, Tensor] = {}
    for height, width in SIZES:
        rng = np.random.default_rng(1000)  # training draws from seed 0
        drawn = np.stack([place(picture, (height, width), rng) for picture in masters for _ in range(DRAWN)])
        images = torch.from_numpy(drawn).permute(0, 3, 1, 2)
        measures = {"features": torch.cat([model(part) for part in images.split(128)]).numpy()}
        measures["clip_score"] = clip.scores(images, prompts)
        once = images[::DRAWN]  # defects look at many parts of every picture
        measures |= defects(once, lambda part: clip.scores(part, prompts[::DRAWN]))
        found |= {f"{height}x{width}.{name}": torch.from_numpy(value).half() for name, value in measures.items()}
    save_file(found, folder / FILE)


if __name__ == "__main__":
    given = new_parser(__doc__, "runs/image-text", steps=500, batch=128).parse_args()
    model = train(given.out, given.steps, given.batch)
    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()}, given.out / WEIGHTS)
    model.load_state_dict({name: value.float() for name, value in load_file(given.out / WEIGHTS).items()})
    write_reference(model.requires_grad_(False), given.out)
