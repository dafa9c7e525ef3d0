"""Compiled denoisers stay compiled while they are watched: their graphs carry the look. Others run as written."""

import numpy as np
import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from torch import nn

import entropylab
from entropylab.errors import EntropyLabWarning

from ..attention import together
from ..sampling import sample
from ..zoo import BY_NAME
from .nets import Method, Multihead, OwnAttention, net_of, recorded, run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Twice(OwnAttention):
    """Attention with two calls that do not wait for each other, of which one has sharper logits."""

    def forward(self, tokens, context=None):
        query, key, value = super(OwnAttention, self).sides(tokens)
        one = F.scaled_dot_product_attention(query, key, value, scale=2.0)
        other = F.scaled_dot_product_attention(query, key.flip(2)[:, :, :9], value[:, :, :9])
        return together(one + other)


class Several(nn.Module):
    """A denoiser with layers that differ."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Twice() for _ in range(3))

    def forward(self, hidden_states, timestep, encoder_hidden_states=None):
        for block in self.blocks:
            hidden_states = hidden_states + block(hidden_states)
        return hidden_states


def several():
    torch.manual_seed(0)
    return Several().eval()


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


def record(net, forwards=3, watch=entropylab.record):
    with watch(net) as rec:
        return [run(net, seed) for seed in range(forwards)], rec


def rescaling(factor):
    return lambda net: entropylab.rescale(net, factor, train_size=8)


def same(one, other):
    return all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def agree(rec, usual):
    assert rec.unmeasured == {}
    assert rec.dataset.drop_attrs().equals(usual.dataset.drop_attrs())


@pytest.mark.parametrize("how", [whole, in_place, by_block, by_method])
def test_one_compilation_when_somebody_looks(how):
    plain = [run(several(), seed) for seed in range(3)]
    _, usual = record(several())
    graphs = Graphs()
    net = how(several(), graphs)
    run(net)
    once = graphs.compiled
    for _ in range(3):
        before = graphs.runs
        outputs, rec = record(net)
        assert same(outputs, plain)
        assert graphs.compiled == 2 * once, "one compilation when somebody looks, and none after it"
        assert graphs.runs - before == 2 * (3 if how is by_block else 1), "all but the first forward run compiled"
        agree(rec, usual)
        run(net)
        assert graphs.compiled == 2 * once, "what was compiled before is used again"
    means = usual.dataset.entropy.mean(["sample", "step", "head"]).values.ravel()
    assert len(means) == 6 and np.diff(np.sort(means)).min() > 1e-4, "a call under another's name would not be noticed"


def test_rescaled_while_compiled():
    """Any factor is a number that the graph does not hold."""
    graphs = Graphs()
    net = in_place(several(), graphs)
    plain = run(net)
    for factor in (1.5, 0.5):
        wanted, _ = record(several(), watch=rescaling(factor))
        with entropylab.record(net) as rec:
            found, _ = record(net, watch=rescaling(factor))
        assert same(found, wanted) and not torch.equal(found[0], plain)
        assert rec.dataset.sizes["step"] == 3
    assert graphs.compiled == 2 and graphs.runs == 1 + 2 * 2
    assert torch.equal(run(net), plain)


class Broken(OwnAttention):
    def forward(self, tokens):
        torch._dynamo.graph_break()
        return super().forward(tokens)


@pytest.mark.parametrize("attn", [Method, Multihead, Broken])
def test_what_no_graph_shows_runs_as_it_was_written(attn):
    """Scores by hand, a fast path, and code that takes several graphs."""
    plain = [run(net_of(attn), seed) for seed in range(3)]
    _, usual = record(net_of(attn))
    graphs = Graphs()
    net = in_place(net_of(attn), graphs)
    run(net)
    before = graphs.runs
    for _ in range(2):
        outputs, rec = record(net)
        assert same(outputs, plain)
        agree(rec, usual)
    assert graphs.runs == before


class Decorated(OwnAttention):
    forward = torch.compile(OwnAttention.forward, backend="eager")


def test_a_forward_that_is_compiled_in_the_class():
    agree(recorded(net_of(Decorated)), recorded(net_of(OwnAttention)))


def test_gradients_are_the_models():
    """With gradients it runs as it was written."""
    net, reference = in_place(several(), "aot_eager"), several()
    inputs = torch.randn(2, 20, 16, generator=torch.Generator().manual_seed(0))
    with entropylab.record(net) as rec:
        for _ in range(2):
            net(inputs, torch.tensor(2.0)).sum().backward()
    for _ in range(2):
        reference(inputs, torch.tensor(2.0)).sum().backward()
    assert rec.unmeasured == {}
    for one, other in zip(net.parameters(), reference.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_a_compiler_that_stops_compiling(dynamo):
    net = in_place(several())
    _, usual = record(several(), 2)
    with entropylab.record(net) as rec:
        run(net)
        with dynamo.config.patch(disable=True):
            run(net, 1)
    agree(rec, usual)


def test_calls_that_run_unseen_are_named(monkeypatch):
    """If somebody else, in a thread say, has the module run as it was written, nothing is passed over in silence."""
    net = in_place(several())
    monkeypatch.setattr("entropylab.capture.regions.may_compile", lambda: True)
    with pytest.warns(EntropyLabWarning, match=r"model\.blocks\.2 \(its compiled forward ran"):
        with entropylab.record(net) as rec:
            run(net)
            with torch.compiler.set_stance("force_eager"):
                run(net)
            run(net)
    assert rec.dataset.sizes["step"] == 2, "and it is measured again afterwards"
    assert set(rec.unmeasured) == {f"model.blocks.{block}" for block in range(3)}


def test_a_family(dynamo):
    """Through the ahead-of-time compiler, which drops and reorders what it may; the error is its own."""
    family = BY_NAME["FLUX.1"]
    pipe = family.build()
    with entropylab.record(pipe) as usual:
        family.sample(pipe)
    pipe = family.build()
    pipe.transformer.compile(backend="aot_eager")
    plain = family.sample(pipe)
    graphs = dynamo.utils.counters["stats"]["unique_graphs"]
    for _ in range(2):
        with entropylab.record(pipe) as rec:
            assert torch.allclose(family.sample(pipe), plain, atol=1e-4)
        assert rec.unmeasured == {}
    assert dynamo.utils.counters["stats"]["unique_graphs"] == 2 * graphs
    one, other = rec.dataset.drop_attrs(), usual.dataset.drop_attrs()
    assert one.sizes == other.sizes and all(one[name].equals(other[name]) for name in one.coords)
    for name in ("entropy", "sigma2"):
        assert np.allclose(one[name], other[name], atol=1e-4, equal_nan=True)


def test_the_stance_of_the_compiler_stays(dynamo):
    net = in_place(net_of(OwnAttention))
    with torch.compiler.set_stance("eager_on_recompile"):
        before = dynamo.eval_frame._stance
        with entropylab.record(net), entropylab.record(net):
            run(net)
            assert dynamo.eval_frame._stance == before
        assert dynamo.eval_frame._stance == before


@pytest.mark.parametrize("how", [whole, by_method])
def test_denoisers_that_are_compiled_while_somebody_looks(how, dynamo):
    """They run as they were written until nobody looks, and compiled from then on."""
    plain, usual = record(net_of(OwnAttention))
    rescaled, _ = record(net_of(OwnAttention), watch=rescaling(1.5))
    for watch, wanted in ((entropylab.record, plain), (rescaling(1.5), rescaled)):
        net = net_of(OwnAttention)
        with watch(net) as rec:
            compiled = how(net)
            assert same([run(compiled, seed) for seed in range(3)], wanted)
        if watch is entropylab.record:
            agree(rec, usual)
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
    net = net_of(OwnAttention)
    plain = run(net)

    def stepped():
        return run(compiled)

    def step(tokens, time):
        return net(tokens, time)

    compiled = None if when == "inside" else torch.compile(step, backend="eager", fullgraph=fullgraph)
    if when == "run before":
        stepped()
    for _ in range(2):
        with pytest.warns(EntropyLabWarning, match=r"model\.attn \(runs inside of a compiled function"):
            with entropylab.record(net) as rec:
                compiled = compiled or torch.compile(step, backend="eager", fullgraph=fullgraph)
                assert torch.equal(stepped(), plain) and torch.equal(stepped(), plain)
        assert list(rec.unmeasured) == ["model.attn"]
        with pytest.warns(EntropyLabWarning, match=r"could not rescale model\.attn"), entropylab.rescale(net, 1.5):
            assert torch.equal(stepped(), plain)
    assert torch.equal(stepped(), plain)
    assert recorded(net).unmeasured == {}


def test_other_compiled_models_stay_compiled():
    """A VAE compiled as one graph, say, decodes while somebody records the denoiser."""
    net, graphs = net_of(OwnAttention), Graphs()
    others = [torch.compile(net_of(attn), backend=graphs, fullgraph=True) for attn in (Method, OwnAttention)]
    with entropylab.record(net) as rec:
        run(net)
        for other, attn in zip(others, (Method, OwnAttention), strict=True):
            assert torch.equal(run(other), run(net_of(attn)))
    assert graphs.compiled == graphs.runs == 2
    assert rec.dataset.sizes["step"] == 1
