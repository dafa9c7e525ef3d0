"""Compiled denoisers stay compiled while they are watched: their graphs carry the look. Others run as written."""

import numpy as np
import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from torch import nn

import entropylab
from entropylab.errors import EntropyLabWarning

from ..attention import PlainAttention, together
from ..sampling import sample
from ..seeds import normal
from .nets import HEADS, TEXT, TOKENS, WIDTH, Multihead, by_hand, net_of, usual
from .nets import recorded as recorded_plainly
from .nets import run as run_net

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Twice(PlainAttention):
    """Attention with two calls that do not wait for each other, of which one has sharper logits."""

    def forward(self, tokens):
        query, key, value = self.sides(tokens)
        one = F.scaled_dot_product_attention(query, key, value, scale=4.0)
        other = F.scaled_dot_product_attention(query, key.flip(2)[:, :, :20], value[:, :, :20])
        return together(one + other)


class Several(nn.Module):
    """A denoiser with layers that differ, in which text stands in front of the image."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Twice(WIDTH, HEADS) for _ in range(2))

    def forward(self, hidden_states, timestep, encoder_hidden_states):
        tokens = torch.cat([encoder_hidden_states, hidden_states], 1)
        for block in self.blocks:
            tokens = tokens + block(3 * tokens)
        return tokens[:, encoder_hidden_states.shape[1] :]


def several():
    torch.manual_seed(0)
    return Several().eval()


def run(net, seed=0):
    if not isinstance(getattr(net, "_orig_mod", net), Several):
        return run_net(net, seed)
    with torch.no_grad():
        return net(normal(2, TOKENS, WIDTH, seed=seed), torch.tensor(2.0), normal(2, TEXT, WIDTH, seed=9))


class Graphs:
    """A backend that counts the graphs that it is given, and how often they run."""

    def __init__(self):
        self.compiled = self.runs = 0

    def __call__(self, graph, inputs):
        self.compiled += 1

        def run(*args):
            self.runs += 1
            return graph.forward(*args)

        return run


def whole(net, backend="eager"):
    return torch.compile(net, backend=backend)


def in_place(net, backend="eager"):
    net.compile(backend=backend)
    return net


def by_block(net, backend):
    for block in net.blocks:
        block.compile(backend=backend)
    return net


def by_method(net, backend="eager"):
    net.forward = torch.compile(net.forward, backend=backend)
    return net


@pytest.fixture(autouse=True)
def dynamo():
    """Dynamo, with nothing compiled before or after."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo
    torch._dynamo.reset()


def recorded(net, forwards=3, watch=entropylab.record):
    """What a net returns while it is watched, and who watched it."""
    with watch(net) as rec:
        return [run(net, seed) for seed in range(forwards)], rec


def rescaling(factor):
    return lambda net: entropylab.rescale(net, factor, train_size=8)


def same(one, other):
    return all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def agree(rec, wanted):
    assert rec.unmeasured == {}
    assert rec.dataset.drop_attrs().equals(wanted.dataset.drop_attrs())


@pytest.mark.parametrize("how", [whole, by_block, by_method])
def test_one_compilation_when_somebody_looks(how):
    plain, written = recorded(several())
    graphs = Graphs()
    net = how(several(), graphs)
    run(net)
    once = graphs.compiled
    for _ in range(2):
        before = graphs.runs
        outputs, rec = recorded(net)
        assert same(outputs, plain)
        assert graphs.compiled == 2 * once, "one compilation when somebody looks, and none after it"
        assert graphs.runs - before == 2 * (2 if how is by_block else 1), "all but the first forward run compiled"
        agree(rec, written)
        run(net)
        assert graphs.compiled == 2 * once, "what was compiled before is used again"
    means = written.dataset.entropy.mean(["sample", "step", "head"]).values.ravel()
    assert len(means) == 8 and np.diff(np.sort(means)).min() > 1e-4, "a call under another's name would not be noticed"


def test_through_the_ahead_of_time_compiler(dynamo):
    """It drops and reorders what it may; the error is its own."""
    _, written = recorded(several())
    net = in_place(several(), "aot_eager")
    plain = [run(net, seed) for seed in range(3)]
    graphs = dynamo.utils.counters["stats"]["unique_graphs"]
    for _ in range(2):
        outputs, rec = recorded(net)
        assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(outputs, plain, strict=True))
        assert rec.unmeasured == {}
    assert dynamo.utils.counters["stats"]["unique_graphs"] == 2 * graphs
    one, other = rec.dataset.drop_attrs(), written.dataset.drop_attrs()
    assert one.sizes == other.sizes and all(one[name].equals(other[name]) for name in one.coords)
    for name in ("entropy", "sigma2"):
        assert np.allclose(one[name], other[name], atol=1e-4, equal_nan=True)


def test_rescaled_while_compiled():
    """Any factor is a number that the graph does not hold."""
    graphs = Graphs()
    net = in_place(several(), graphs)
    plain = run(net)
    for factor in (1.5, 0.5):
        wanted, _ = recorded(several(), watch=rescaling(factor))
        with entropylab.record(net) as rec:
            found, _ = recorded(net, watch=rescaling(factor))
        assert same(found, wanted) and not torch.equal(found[0], plain)
        assert rec.dataset.sizes["step"] == 3
    assert graphs.compiled == 2 and graphs.runs == 1 + 2 * 2
    assert torch.equal(run(net), plain)


def breaking(*sides):
    torch._dynamo.graph_break()
    return F.scaled_dot_product_attention(*sides)


@pytest.mark.parametrize("attn", [by_hand, Multihead, breaking])
def test_what_no_graph_shows_runs_as_it_was_written(attn):
    """Scores by hand, a fast path, and code that takes several graphs."""
    plain, written = recorded(net_of(attn), 2)
    graphs = Graphs()
    net = in_place(net_of(attn), graphs)
    run(net)
    before = graphs.runs
    outputs, rec = recorded(net, 2)
    assert same(outputs, plain)
    agree(rec, written)
    assert graphs.runs == before


class Decorated(Several):
    forward = torch.compile(Several.forward, backend="eager")


def test_a_forward_that_is_compiled_in_the_class():
    torch.manual_seed(0)
    outputs, rec = recorded(Decorated().eval())
    plain, written = recorded(several())
    assert same(outputs, plain)
    agree(rec, written)


def test_gradients_are_the_models():
    """With gradients it runs as it was written."""
    net, reference = in_place(several(), "aot_eager"), several()
    given = normal(2, TOKENS, WIDTH), torch.tensor(2.0), normal(2, TEXT, WIDTH, seed=9)
    with entropylab.record(net) as rec:
        for _ in range(2):
            net(*given).sum().backward()
    for _ in range(2):
        reference(*given).sum().backward()
    assert rec.unmeasured == {}
    assert same([part.grad for part in net.parameters()], [part.grad for part in reference.parameters()])


def test_calls_that_run_unseen_are_named(monkeypatch):
    """If somebody else, in a thread say, has the module run as it was written, nothing is passed over in silence."""
    net = in_place(several())
    monkeypatch.setattr("entropylab.capture.regions.may_compile", lambda: True)
    with pytest.warns(EntropyLabWarning, match=r"model\.blocks\.1 \(its compiled forward ran"):
        with entropylab.record(net) as rec:
            run(net)
            with torch.compiler.set_stance("force_eager"):
                run(net)
            run(net)
            with torch._dynamo.config.patch(disable=True):
                run(net)
    ran = rec.dataset.entropy.notnull().any(["size", "scaling", "branch", "sample", "layer", "head"])
    assert ran.values.tolist() == [True, False, True, True], "and it is measured again afterwards"
    assert set(rec.unmeasured) == {"model.blocks.0", "model.blocks.1"}


def test_the_stance_of_the_compiler_stays(dynamo):
    net = in_place(several())
    with torch.compiler.set_stance("eager_on_recompile"):
        before = dynamo.eval_frame._stance
        with entropylab.record(net), entropylab.record(net):
            run(net)
            assert dynamo.eval_frame._stance == before
        assert dynamo.eval_frame._stance == before


@pytest.mark.parametrize("how", [whole, by_method])
def test_denoisers_that_are_compiled_while_somebody_looks(how, dynamo):
    """They run as they were written until nobody looks, and compiled from then on."""
    plain, written = recorded(net_of(usual))
    rescaled, _ = recorded(net_of(usual), watch=rescaling(1.5))
    for watch, wanted in ((entropylab.record, plain), (rescaling(1.5), rescaled)):
        net = net_of(usual)
        with watch(net) as rec:
            compiled = how(net)
            assert same([run(compiled, seed) for seed in range(3)], wanted)
        if watch is entropylab.record:
            agree(rec, written)
        assert torch.equal(run(compiled), plain[0])
    assert dynamo.utils.counters["frames"]["ok"] > 0, "nothing is compiled afterwards"
    assert not torch.equal(rescaled[0], plain[0])


def test_a_pipelines_denoiser_that_is_compiled_while_somebody_looks(random_pipe):
    unet, found = random_pipe.unet, []
    for how in (lambda unet: unet, whole):
        random_pipe.unet = unet
        with entropylab.rescale(random_pipe, 1.5), entropylab.record(random_pipe) as rec:
            random_pipe.unet = how(unet)
            found.append((sample(random_pipe, size=(32, 32), steps=2), rec))
    assert torch.equal(found[0][0], found[1][0])
    agree(found[1][1], found[0][1])


@pytest.mark.parametrize(("when", "fullgraph"), [("before", True), ("run before", False), ("inside", False)])
def test_a_compiled_function_that_runs_a_denoiser(when, fullgraph):
    """Nobody can see into it: it goes on, its pictures are the plain model's, and the layers are named every time."""
    net = net_of(usual)
    plain = run(net)

    def stepped():
        return run_net(compiled)

    def step(tokens, time):
        return net(tokens, time)

    compiled = None if when == "inside" else torch.compile(step, backend="eager", fullgraph=fullgraph)
    if when == "run before":
        stepped()
    with pytest.warns(EntropyLabWarning, match=r"model\.attn \(runs inside of a compiled function"):
        with entropylab.record(net) as rec:
            compiled = compiled or torch.compile(step, backend="eager", fullgraph=fullgraph)
            assert torch.equal(stepped(), plain) and torch.equal(stepped(), plain)
    assert list(rec.unmeasured) == ["model.attn"]
    with pytest.warns(EntropyLabWarning, match=r"could not rescale model\.attn"), entropylab.rescale(net, 1.5):
        assert torch.equal(stepped(), plain)
    assert torch.equal(stepped(), plain)
    assert recorded_plainly(net).unmeasured == {}


def test_other_compiled_models_stay_compiled():
    """A VAE compiled as one graph, say, decodes while somebody records the denoiser."""
    net, graphs = net_of(usual), Graphs()
    others = [torch.compile(net_of(attn), backend=graphs, fullgraph=True) for attn in (by_hand, usual)]
    with entropylab.record(net) as rec:
        run(net)
        for other, attn in zip(others, (by_hand, usual), strict=True):
            assert torch.equal(run(other), run(net_of(attn)))
    assert graphs.compiled == graphs.runs == 2
    assert rec.dataset.sizes["step"] == 1


class Sliced(nn.Module):
    """Makes a list of its parts as it runs, as the middle of a VAE does."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(net_of(attn) for attn in (by_hand, usual, usual))

    def forward(self, hidden_states, timestep):
        for part in self.parts[1:]:
            hidden_states = part(hidden_states, timestep)
        return self.parts[0](hidden_states, timestep)


def test_other_compiled_models_are_compiled_once_more_however_often_somebody_looks():
    net, graphs, model = net_of(usual), Graphs(), Sliced().eval()
    plain = run(model)
    other = torch.compile(model, backend=graphs, fullgraph=True)
    run(other)
    for rule in (1.5, 1.2, 1.1):
        with entropylab.record(net), rescaling(rule)(net):
            run(net)
            assert torch.equal(run(other), plain)
        assert torch.equal(run(other), plain)
    assert graphs.compiled == 2 and graphs.runs == 7
