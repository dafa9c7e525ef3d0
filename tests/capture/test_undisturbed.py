"""What goes on around the attention stays as it was: fast paths of PyTorch, and what Ctrl-C leaves behind."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import entropylab
from entropylab.capture import session

from ..measuring.layers import Denoiser, run


class Encoding(nn.Module):
    """A denoiser that is PyTorch's own encoder, whose fast path leaves padding zero."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)

    def forward(self, hidden_states, timestep, padding):
        return self.encoder(hidden_states, src_key_padding_mask=padding)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_an_encoder_with_padding_keeps_its_fast_path_in_every_forward():
    model, padding = Encoding().eval(), torch.zeros(3, 7, dtype=torch.bool)
    padding[1, 5:] = padding[2, 3:] = True
    arguments = torch.randn(3, 7, 16), torch.tensor(1.0), padding
    with torch.no_grad():
        plain = model(*arguments)
        with entropylab.record(model) as rec:
            seen = [model(*arguments) for _ in range(4)]
    assert plain[padding].abs().max() == 0, "no fast path: this test shows nothing"
    assert all(torch.equal(plain, each) for each in seen)
    assert rec.unmeasured == {} and rec.dataset.sizes["layer"] == 2


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("what", ["prompt", "timesteps"])
def test_what_runs_after_ctrl_c_is_not_rescaled(random_pipe, what):
    """PyTorch's hooks do not hear of Ctrl-C: the layer that it ended must not seem to run for ever."""
    query = torch.randn(1, 2, 9, 4)
    plain = F.scaled_dot_product_attention(query, query, query)
    text = random_pipe.encode_prompt("a red car", "cpu", 1, False)[0]
    with entropylab.rescale(random_pipe, 3.0):
        handle = random_pipe.unet.mid_block.attentions[0].register_forward_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            if what == "prompt":
                random_pipe("a red car", height=64, width=64, num_inference_steps=1)
            else:
                random_pipe.unet(torch.randn(1, 4, 16, 16), 1, encoder_hidden_states=text)
        handle.remove()
        if what == "timesteps":
            random_pipe.scheduler.set_timesteps(2)
        assert torch.equal(plain, F.scaled_dot_product_attention(query, query, query))
        assert torch.equal(text, random_pipe.encode_prompt("a red car", "cpu", 1, False)[0])
    assert not session.observers and not session.places


def test_ctrl_c_caught_inside_a_record_loses_its_forward_alone():
    model = Denoiser()
    with entropylab.record(model) as rec:
        run(model)
        handle = model.layers[1].register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(model)
        handle.remove()
        F.scaled_dot_product_attention(*torch.randn(3, 1, 2, 5, 4))
        run(model)
    assert rec.unmeasured == {}
    assert rec.dataset.sizes["step"] == 2 and rec.dataset.entropy.notnull().all()
