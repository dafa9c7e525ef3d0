"""A model that is saved, pickled or copied while somebody looks at it: what comes out knows nothing of that."""

import copy
import io
import threading

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

import entropylab
from entropylab.pipelines.following import listeners
from recipes.text import WIDTH

from ..sampling import sample
from ..seeds import normal
from ..state import attentions, state
from ..zoo import BY_NAME
from .nets import OwnAttention, run


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


both_ways = pytest.mark.parametrize("how", [saved, copy.deepcopy])


def parts_of_ours(model):
    """Where in a model there is something that is made of our code."""
    found = []
    for path, part in model.named_modules():
        hooks = [*part._forward_hooks.values(), *part._forward_pre_hooks.values()]
        for value in [*hooks, *vars(part).values(), *vars(getattr(part, "processor", part)).values()]:
            made = getattr(value, "func", value)
            found += [path] * ("entropylab." in getattr(made, "__module__", type(made).__module__))
    return found


@both_ways
@pytest.mark.filterwarnings("ignore:rule 1.2 rescaled nothing")
def test_a_copy_of_a_watched_model_carries_nothing_of_ours(random_pipe, how):
    """Layers that compute their map by hand are seen at a method of theirs, which is ours meanwhile."""
    unet = random_pipe.unet
    unet.set_attn_processor(AttnProcessor())
    before, class_before = state(unet), dict(vars(nn.Module))
    with entropylab.rescale(unet, 1.2), entropylab.record(unet):
        found = how(unet)
        assert parts_of_ours(unet) and not parts_of_ours(found)
        assert state(found)[:2] == before[:2]
    assert state(unet) == before and vars(nn.Module) == class_before
    arguments = normal(1, 4, 16, 16), torch.tensor(3), normal(1, 5, WIDTH, seed=1)
    with torch.no_grad():
        assert torch.equal(unet(*arguments).sample, found(*arguments).sample)


class Stately(nn.Module):
    """A model that says itself what is saved of it, and has a hook of its own."""

    def __init__(self):
        super().__init__()
        self.attn, self.notes = OwnAttention(), "not saved"
        self.register_forward_hook(add_one)
        self.attn.register_forward_pre_hook(add_one, with_kwargs=True)

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "notes"}

    def forward(self, hidden_states, timestep):
        return self.attn(hidden_states * timestep)


def add_one(module, args, output):
    return output + 1 if isinstance(output, torch.Tensor) else None


@both_ways
def test_hooks_and_states_of_somebody_else_are_copied_as_ever(how):
    net = Stately()
    with entropylab.record(net):
        found = how(net)
        assert parts_of_ours(net) and not parts_of_ours(found)
        with entropylab.record(found, strict=True) as rec:
            run(found)
    assert rec.dataset.sizes["step"] == 1
    assert not hasattr(found, "notes")
    assert list(found._forward_hooks.values()) == list(net._forward_hooks.values()) == [add_one]
    assert list(found.attn._forward_pre_hooks_with_kwargs.values()) == [True]
    assert torch.equal(run(net), run(found))


@both_ways
def test_a_copy_has_the_attention_backend_that_was_set(how):
    transformer = BY_NAME["FLUX.1"].build().transformer
    for part in attentions(transformer):
        part.processor._attention_backend = "flash"
    with entropylab.record(transformer):
        found = how(transformer)
        assert {part.processor._attention_backend for part in attentions(transformer)} == {"native"}
        assert {part.processor._attention_backend for part in attentions(found)} == {"flash"}


def test_a_copy_of_a_watched_pipeline_carries_nothing_of_ours_and_is_not_followed(random_pipe):
    """Its scheduler's steps are none of the pipeline's, even between two of those."""
    before = [sorted(vars(thing)) for thing in (random_pipe, random_pipe.scheduler)]
    with entropylab.record(random_pipe) as rec:
        found, scheduler = copy.deepcopy(random_pipe), copy.deepcopy(random_pipe.scheduler)
        assert [sorted(vars(thing)) for thing in (found, found.scheduler)] == before
        assert sorted(vars(scheduler)) == before[1] and scheduler in listeners
        sample(random_pipe, callback_on_step_end=lambda *told: found.scheduler.set_timesteps(2) or told[-1])
    assert dict(rec.dataset.sizes) | {"layer": 0, "head": 0} == {
        "size": 1, "scaling": 1, "branch": 2, "sample": 2, "step": 3, "layer": 0, "head": 0,
    }  # fmt: skip
    assert not listeners.get(scheduler)


class Locked(DDIMScheduler):
    """Holds what can't be copied, and says what a copy is made of."""

    def __init__(self, *settings, **more):
        super().__init__(*settings, **more)
        self.lock = threading.Lock()

    def __reduce__(self):
        return Locked.from_config, (dict(self.config),)


def test_a_scheduler_that_says_what_its_copies_are_made_of_is_asked(random_pipe):
    random_pipe.scheduler = Locked.from_config(random_pipe.scheduler.config)
    with entropylab.record(random_pipe):
        for how in (copy.copy, copy.deepcopy):
            found = how(random_pipe.scheduler)
            assert found.lock is not random_pipe.scheduler.lock and found in listeners
