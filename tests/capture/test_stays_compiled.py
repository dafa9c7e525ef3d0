"""Compiled denoisers stay compiled while they are watched: their graphs carry the look."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import entropylab

from ..attention import together
from ..zoo import BY_NAME
from .nets import Method, Multihead, OwnAttention, net_of, run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Twice(OwnAttention):
    """Attention with two calls that do not wait for each other, of which one has sharper logits."""

    def forward(self, tokens, context=None):
        query, key, value = self.split(tokens)
        one = F.scaled_dot_product_attention(query, key, value, scale=2.0)
        other = F.scaled_dot_product_attention(query, key.flip(2)[:, :, :9], value[:, :, :9])
        return together(one + other)

    def split(self, tokens):
        return tuple(side(tokens).unflatten(-1, (2, -1)).transpose(1, 2) for side in (self.to_q, self.to_k, self.to_v))


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


def whole(net, backend):
    return torch.compile(net, backend=backend)


def in_place(net, backend):
    net.compile(backend=backend)
    return net


def by_block(net, backend):
    for block in net.blocks:
        block.compile(backend=backend)
    return net


def by_method(net, backend):
    net.forward = torch.compile(net.forward, backend=backend, fullgraph=True)
    return net


@pytest.fixture(autouse=True)
def dynamo():
    """Dynamo, with nothing compiled before or after."""
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo
    torch._dynamo.reset()


def record(net, forwards=3, watch=entropylab.record):
    with watch(net) as rec:
        return [run(net, seed) for seed in range(forwards)], rec


def same(one, other):
    return all(torch.equal(*pair) for pair in zip(one, other, strict=True))


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
        assert rec.unmeasured == {}
        assert rec.dataset.drop_attrs().equals(usual.dataset.drop_attrs())
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
        wanted, _ = record(several(), watch=lambda net, by=factor: entropylab.rescale(net, by, train_size=8))
        with entropylab.record(net) as rec:
            found, _ = record(net, watch=lambda net, by=factor: entropylab.rescale(net, by, train_size=8))
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
        assert rec.dataset.drop_attrs().equals(usual.dataset.drop_attrs())
    assert graphs.runs == before


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
    net = in_place(several(), "eager")
    _, usual = record(several(), 2)
    with entropylab.record(net) as rec:
        run(net)
        with dynamo.config.patch(disable=True):
            run(net, 1)
    assert rec.unmeasured == {}
    assert rec.dataset.drop_attrs().equals(usual.dataset.drop_attrs())


def test_calls_that_run_unseen_are_named(monkeypatch):
    """If somebody else, in a thread say, has the module run as it was written, nothing is passed over in silence."""
    net = in_place(several(), "eager")
    monkeypatch.setattr("entropylab.capture.regions.may_compile", lambda: True)
    with pytest.warns(entropylab.EntropyLabWarning, match=r"model\.blocks\.2 \(its compiled forward ran"):
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
