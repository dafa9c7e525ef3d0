"""Word maps against whole maps in float64, whichever text encoders a pipeline has, and DAAM's way of summing them."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

import entropylab
from entropylab import EntropyLabError, EntropyLabWarning
from entropylab.pipelines import denoisers
from recipes.text import WIDTH

from ..attention import in_heads, together
from ..maps import every_map, logits_of
from ..sampling import sample
from ..zoo.joint import SD3
from ..zoo.joint_packed import HUNYUAN_IMAGE, LUMINA2, Z_IMAGE, mixed_guidance
from ..zoo.joint_parts import assembled, flow_matching, image_vae, named, sized, tiny, two_steps
from ..zoo.unet_parts import text_encoder, tokenizer, unet
from ..zoo.unets import XL

EACH = ("branch", "sample", "step", "layer", "head")
PROMPTS = ["a red car", "a blue house"]
SPOKEN = {"red": 0, "car": 0, "blue": 1, "house": 1}
"""Word -> the prompt that it is in."""

TOKENS = {"a": [1], "red": [2], "blue": [2], "car": [3], "house": [3]}
"""Where a CLIP tokenizer has them: one token each, behind the token that begins a text."""


def check_words(maps, seen, tokens, image=slice(None), branches=("uncond", "cond")):
    """Maps of words against weights (batch, heads, queries, keys) of every step: those of their own prompts."""
    (size,) = maps.children.values()
    checked = 0
    for group in size.children.values():
        for layer in group.layer.values if "words" in group else ():
            known = group.words.sel(layer=layer)
            if known.isnull().all():
                continue
            weights = torch.stack(seen[layer.removesuffix(":image")]).unflatten(1, (len(branches), -1))
            for word, prompt in SPOKEN.items():
                ours = known.sel(word=word, branch="cond").isel(scaling=0).transpose("step", "sample", "head", "y", "x")
                wanted = weights[:, branches.index("cond")][..., image, :][..., tokens[word]].sum(-1).numpy()
                ours = ours.values[:, :, : wanted.shape[2]].reshape(*wanted.shape)
                np.testing.assert_allclose(ours[:, prompt], wanted[:, prompt], atol=5e-6)
                assert np.abs(ours[:, prompt] - wanted[:, prompt, ..., ::-1]).max() > 1e-3, (
                    "a mirrored map must not pass"
                )
                assert np.isnan(ours[:, 1 - prompt]).all(), "the other prompt has no such word"
            assert "uncond" not in known.branch or known.sel(branch="uncond").isnull().all()
            checked += 1
    return checked


def agrees(pipe, tokens, per_forward=lambda calls: calls, checked=7, **options):
    """That the maps of a pipeline's words are those of its tokens (see ``check_words``)."""
    given = {name: options.pop(name) for name in ("image", "branches") if name in options}
    with every_map(denoisers(pipe)) as seen:
        sample(pipe, **options)
    with entropylab.record(pipe, words=list(SPOKEN), keep=EACH) as rec:
        sample(pipe, **options)
    seen = {path: per_forward(calls) for path, calls in seen.items()}
    assert check_words(rec.maps, seen, tokens, **given) == checked
    with pytest.raises(AssertionError):
        check_words(rec.maps, seen, tokens | {"house": [*tokens["house"][:-1], 1]}, **given)


def in_groups_of(count):
    """Calls of which so many are one forward."""
    return lambda calls: [torch.cat(calls[start : start + count]) for start in range(0, len(calls), count)]


def test_layers_of_the_encoder_that_are_skipped(random_pipe, monkeypatch):
    encoder = random_pipe.text_encoder
    if not hasattr(encoder, "text_model"):  # since transformers 5, though the pipeline still asks for it
        monkeypatch.setattr(type(encoder), "text_model", property(lambda self: self), raising=False)
    agrees(random_pipe, TOKENS, clip_skip=1, steps=1)


def test_two_encoders_side_by_side():
    """Stable Diffusion XL: their channels lie behind each other, and a prompt of its own for the second may differ."""
    model = unet(**XL | {"projection_class_embeddings_input_dim": 6 * 8 + WIDTH}, cross_attention_dim=2 * WIDTH)
    pipe = assembled(
        "StableDiffusionXLPipeline", unet=model, scheduler=named("EulerDiscreteScheduler"), vae=image_vae()["vae"],
        tokenizer=tokenizer(), tokenizer_2=tokenizer(), text_encoder=text_encoder(),
        text_encoder_2=text_encoder("CLIPTextModelWithProjection"),
    )  # fmt: skip
    agrees(pipe, TOKENS, steps=2, checked=4)
    with entropylab.record(pipe, words="blue") as rec:
        sample(pipe, prompts=PROMPTS[:1], prompt_2=PROMPTS[1:], steps=1)
    assert rec.maps["64x64/4x4"].words.sel(branch="cond").notnull().any()


def t5():
    """A T5 encoder as wide as two of CLIP, and a tokenizer that cuts "house" in three."""
    pieces = ["<pad>", "</s>", "<unk>", "▁a", "▁red", "▁blue", "▁car", "▁h", "ou", "se", *"abcdehlorsu▁"]
    spelling = Tokenizer(models.Unigram([(piece, -1.0 - 4 * (len(piece) < 2)) for piece in pieces], unk_id=2))
    spelling.pre_tokenizer, spelling.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    spelling.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    words = transformers.PreTrainedTokenizerFast(tokenizer_object=spelling, **special)
    config = transformers.T5Config(
        vocab_size=len(pieces), d_model=2 * WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2
    )
    torch.manual_seed(0)
    return {"tokenizer_3": words, "text_encoder_3": transformers.T5EncoderModel(config).eval()}


def test_t5_behind_clip():
    """Stable Diffusion 3: words are in both, T5's behind CLIP's; those of three tokens are summed."""
    sizes = {"joint_attention_dim": 2 * WIDTH, "pooled_projection_dim": 2 * WIDTH}
    clip = {f"text_encoder{n}": text_encoder("CLIPTextModelWithProjection") for n in ("", "_2")}
    pipe = assembled(
        "StableDiffusion3Pipeline", transformer=tiny("SD3Transformer2DModel", SD3 | sizes), scheduler=flow_matching(),
        tokenizer=tokenizer(), tokenizer_2=tokenizer(), **clip, **t5(), **image_vae(),
    )  # fmt: skip
    behind = {"red": [1], "blue": [1], "car": [2], "house": [2, 3, 4]}
    tokens = {word: [48 + TOKENS[word][0], *(48 + 24 + at for at in behind[word])] for word in SPOKEN}
    agrees(pipe, tokens, size=(96, 128), max_sequence_length=12, steps=2, image=slice(0, 48), checked=3)


class Chat(transformers.PreTrainedTokenizerFast):
    """A tokenizer whose template is nothing but what is said."""

    def apply_chat_template(self, messages, **options):
        return messages[0]["content"]


def chatting(pipeline, transformer, config):
    """A pipeline whose encoder is T5, behind a tokenizer with a template."""
    parts = t5()
    spelling = parts["tokenizer_3"].backend_tokenizer
    return assembled(
        pipeline, transformer=sized(transformer, **config | {"cap_feat_dim": 2 * WIDTH}),
        scheduler=flow_matching(), text_encoder=parts["text_encoder_3"], **image_vae(),
        tokenizer=Chat(tokenizer_object=spelling, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"),
    )  # fmt: skip


def test_each_image_has_a_text_of_its_own():
    """Z-Image: its denoiser is handed a list of texts, as long as each is."""
    pipe = chatting("ZImagePipeline", "ZImageTransformer2DModel", Z_IMAGE)
    tokens = {"red": [65], "blue": [65], "car": [66], "house": [66, 67, 68]}  # the image's 48 are filled up to 64
    options = {"size": (96, 128), "max_sequence_length": 12, "steps": 2, "image": slice(0, 48)}
    agrees(pipe, tokens, **options, branches=("cond", "uncond"), checked=2)


def lumina():
    """Lumina 2: each image follows behind the tokens of its own text that are no padding."""
    pipe = chatting("Lumina2Pipeline", "Lumina2Transformer2DModel", LUMINA2)
    pipe.tokenizer.padding_side = "right"
    return pipe


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[1:]])
def test_a_mask_leaves_each_image_another_number_of_tokens(prompts):
    pipe = lumina()
    options = {"prompts": prompts, "system_prompt": "a", "max_sequence_length": 48, "steps": 1}
    with every_map(denoisers(pipe)) as seen:
        sample(pipe, (96, 128), **options)
    with entropylab.record(pipe, words=["house"], keep=EACH) as rec:
        sample(pipe, (96, 128), **options)
    (size,) = rec.maps.children.values()
    ids = pipe.tokenizer(["a <Prompt Start> " + prompt for prompt in prompts]).input_ids
    at = len(ids[-1]) - 4  # "h", "ou", "se", and what ends the text
    for layer in ("transformer.layers.0.attn:image", "transformer.layers.1.attn:image"):
        ours = size["6x8"].words.sel(layer=layer, word="house", branch="cond").isel(scaling=0, step=0)
        ours = ours.transpose("sample", "head", "y", "x").values
        weights = seen[layer.removesuffix(":image")][0][len(prompts) - 1]
        wanted = weights[:, len(ids[-1]) : len(ids[-1]) + 48]
        np.testing.assert_allclose(ours[-1].reshape(-1, 48), wanted[..., at : at + 3].sum(-1), atol=5e-6)
        assert (ours[-1].reshape(-1, 48) - wanted[..., at - 1 : at + 2].sum(-1).numpy()).max() > 1e-3
        assert np.isnan(ours[:-1]).all()


def test_of_two_texts_the_second_stands_first():
    """HunyuanImage: then comes the first, and the padding of both."""
    parts = t5()
    encoder, tokenizer = parts["text_encoder_3"], parts["tokenizer_3"]
    widths = {"text_embed_dim": 2 * WIDTH, "text_embed_2_dim": 2 * WIDTH}
    transformer = sized("HunyuanImageTransformer2DModel", **HUNYUAN_IMAGE | widths)
    pipe = assembled(
        "HunyuanImagePipeline", transformer=transformer, scheduler=flow_matching(),
        text_encoder=encoder, tokenizer=tokenizer, guider=mixed_guidance(), ocr_guider=mixed_guidance(),
    )  # fmt: skip

    def encoded():
        given = {}
        for name, texts, length in (("", PROMPTS, 9), ("_2", ["a car", "a house"], 7)):
            for sign, each in (("", texts), ("negative_", ["", ""])):
                tokens = tokenizer(each, padding="max_length", max_length=length, return_tensors="pt")
                with torch.no_grad():
                    given[f"{sign}prompt_embeds{name}"] = encoder(**tokens)[0]
                given[f"{sign}prompt_embeds_mask{name}"] = tokens.attention_mask
        return given

    with every_map(denoisers(pipe)) as seen:
        two_steps(pipe, 192, 256, **encoded())
    with entropylab.record(pipe, words=["red", "house"], keep=EACH) as rec:
        two_steps(pipe, 192, 256, **encoded())
    (size,) = rec.maps.children.values()
    (group,) = (each for each in size.children.values() if "words" in each)
    layers = [layer for layer in group.layer.values if group.words.sel(layer=layer).notnull().any()]
    assert len(layers) == 2
    for layer in layers:
        weights = seen[layer.removesuffix(":image")][0]
        for image, word, keys in ((0, "red", [3 + 1]), (1, "house", [1, 2, 3, 5 + 2, 5 + 3, 5 + 4])):
            ours = group.words.sel(layer=layer, word=word, branch="cond").isel(scaling=0, step=0, sample=image)
            wanted = weights[image, :, :48, 48:]
            ours = ours.transpose("head", "y", "x").values.reshape(-1, 48)
            np.testing.assert_allclose(ours, wanted[..., keys].sum(-1), atol=5e-6)
            assert np.abs(ours - wanted[..., [key + 1 for key in keys]].sum(-1).numpy()).max() > 1e-3


class OneByOne:
    """A processor that makes a call for each image."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        sides = ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        images = zip(*(in_heads(projection, tokens, attn.heads).split(1) for projection, tokens in sides), strict=True)
        found = [F.scaled_dot_product_attention(*image) for image in images]
        return attn.to_out[1](attn.to_out[0](together(torch.cat(found))))


def test_layers_that_attend_image_by_image(random_pipe):
    random_pipe.unet.set_attn_processor(OneByOne())
    agrees(random_pipe, TOKENS, per_forward=in_groups_of(4), steps=2)


def test_flux():
    """The embedded model of FLUX's shape, whose text stands first, and whose branches are forwards of their own."""
    pipe = entropylab.load("emoji-joint", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    tokens = {"red": [2], "blue": [2], "car": [3], "house": [3]}
    options = {"image": slice(24, None), "branches": ("cond", "uncond"), "per_forward": in_groups_of(2)}
    agrees(pipe, tokens, **options, checked=len(entropylab.layers(pipe)), size=(32, 32), steps=2)


class Daam:
    """DAAM's processor: it keeps what the image gives to each token, summed over heads, bicubic at the largest grid."""

    def __init__(self, grid, heat):
        self.grid, self.heat = grid, heat

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        sides = ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        query, key, value = (in_heads(projection, tokens, attn.heads) for projection, tokens in sides)
        weights = logits_of(query, key).softmax(-1)
        if encoder_hidden_states is not None:
            side = round(weights.shape[-2] ** 0.5)
            tokens = weights[len(weights) // 2 :].mean(1).mT.unflatten(-1, (side, side))
            self.heat.append(F.interpolate(tokens, self.grid, mode="bicubic"))
        return attn.to_out[1](attn.to_out[0](together(weights.to(value.dtype) @ value)))


def test_daams_way(random_pipe):
    """Mean over heads, every layer made as fine as the finest, summed over layers and steps."""
    heat = []
    with entropylab.record(random_pipe, words="red") as rec:
        sample(random_pipe)
    random_pipe.unet.set_attn_processor(Daam((16, 16), heat))
    sample(random_pipe)
    wanted = torch.stack(heat).sum(0)[0, 2]
    ours = []
    for group in ("16x16", "8x8"):
        words = rec.maps["64x64"][group].words.sel(branch="cond", word="red").isel(scaling=0, sample=0)
        words = torch.from_numpy(words.dropna("layer").values).double()[:, None]
        ours.append(F.interpolate(words, (16, 16), mode="bicubic")[:, 0])
    ours = 3 * torch.cat(ours).sum(0)  # steps
    torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=0)
    assert (ours - torch.stack(heat).sum(0)[0, 3]).abs().max() > 1e-2, "the next token must not pass"


def test_a_word_that_occurs_twice_is_summed(random_pipe):
    with every_map({"unet": random_pipe.unet}) as seen:
        sample(random_pipe, prompts=["a red red car"], steps=1)
    with entropylab.record(random_pipe, words=["RED", "red car"]) as rec:
        sample(random_pipe, prompts=["a red red car"], steps=1)
    layer = rec.maps["64x64/16x16"].layer.values[1]
    for word, tokens in (("RED", [2, 3]), ("red car", [3, 4])):
        wanted = seen[layer][0][1:].mean(1)[..., tokens].sum(-1).unflatten(-1, (16, 16))
        ours = rec.maps["64x64/16x16"].words.sel(layer=layer, word=word, branch="cond").isel(scaling=0)
        np.testing.assert_allclose(ours, wanted, atol=1e-6)


def test_prompts_that_were_encoded_before(random_pipe):
    """Embeddings that the pipeline's encoder made while it was recorded are known again; others are not, and named."""
    encoded = random_pipe.encode_prompt(PROMPTS, "cpu", 1, True)
    options = {"height": 64, "width": 64, "num_inference_steps": 1, "output_type": "latent"}
    with entropylab.record(random_pipe, words="red") as rec:
        positive, negative = random_pipe.encode_prompt(PROMPTS, "cpu", 1, True)
        for _ in range(2):
            random_pipe(prompt_embeds=positive.half().float(), negative_prompt_embeds=negative, **options)
    known = rec.maps["64x64/16x16"].words.sel(branch="cond").isel(layer=1, scaling=0)
    assert known.notnull().all(["word", "y", "x"]).values.tolist() == [True, False, True, False]
    with pytest.warns(EntropyLabWarning, match="no text encoder"), entropylab.record(random_pipe, words="red") as rec:
        random_pipe(prompt_embeds=encoded[0], negative_prompt_embeds=encoded[1], **options)
    assert "the word 'red': its tokens were not found" in " ".join(json.loads(rec.maps.attrs["unplaced"]))


def test_a_word_that_is_in_no_prompt_ends_the_call_before_it_samples(random_pipe):
    ran, state = [], dict(vars(random_pipe))
    random_pipe.unet.register_forward_hook(lambda *_: ran.append(True))
    said = "words must be in the prompt. Got 'hat'; its words are a, red, car, and so for 1 more"
    with pytest.raises(EntropyLabError, match=said), entropylab.record(random_pipe, words=["red", "hat"]):
        sample(random_pipe)
    assert not ran and vars(random_pipe) == state
    assert not random_pipe.text_encoder._forward_hooks


def test_whatever_goes_wrong_the_pipeline_goes_on(random_pipe, monkeypatch):
    plain = sample(random_pipe, (32, 32), steps=1)

    def broken(*_):
        raise RuntimeError("no memory")

    for place in ("measuring.maps.weight_on", "pipelines.words.tokens_of", "measuring.maps.received"):
        with monkeypatch.context() as patch, pytest.warns(EntropyLabWarning, match="no memory"):
            patch.setattr(f"entropylab.{place}", broken)
            with entropylab.record(random_pipe, maps=True, words="red", received=True) as rec:
                assert torch.equal(sample(random_pipe, (32, 32), steps=1), plain)
        assert rec.dataset.entropy.notnull().any()
        assert rec.maps["32x32/8x8"].entropy.notnull().all()


def test_a_text_encoder_is_copied_without_it(random_pipe):
    encoder = random_pipe.text_encoder
    with entropylab.record(random_pipe, words="red"):
        copies = [copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))]  # noqa: S301
        assert encoder._forward_hooks
        sample(random_pipe, steps=1)
    for each in (*copies, encoder):
        assert not each._forward_hooks and not each._forward_hooks_with_kwargs
