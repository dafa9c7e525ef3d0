"""Denoisers that are compiled or offloaded."""

import pytest
import torch

import entropylab
from entropylab.errors import EntropyLabWarning

from ..sampling import sample
from ..seeds import normal
from .nets import TOKENS, WIDTH, Method, Multihead, OwnAttention, net_of, recorded, run


def whole(net):
    return torch.compile(net, backend="eager")


def in_place(net):
    net.compile(backend="eager")
    return net


def by_block(net):
    net.attn = torch.compile(net.attn, backend="eager")
    return net


def by_method(net):
    net.forward = torch.compile(net.forward, backend="eager")
    net.attn.forward = torch.compile(net.attn.forward, backend="eager")
    return net


@pytest.fixture
def dynamo():
    """Dynamo, with nothing compiled before or after."""
    import torch._dynamo

    torch._dynamo.reset()
    yield torch._dynamo
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_stance_of_the_compiler_stays(dynamo):
    net = in_place(net_of(OwnAttention))
    with torch.compiler.set_stance("eager_on_recompile"):
        before = dynamo.eval_frame._stance
        with entropylab.record(net), entropylab.record(net):
            run(net)
            assert dynamo.eval_frame._stance == before
        assert dynamo.eval_frame._stance == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("how", [whole, by_method])
def test_denoisers_that_are_compiled_while_somebody_looks(how, dynamo):
    """They run as they were written until nobody looks, and compiled from then on."""
    usual = recorded(net_of(OwnAttention))
    plain = run(net_of(OwnAttention))
    with entropylab.rescale(net_of(OwnAttention), 1.5, train_size=8) as handle:
        rescaled = run(handle._rescaling.sight.pipe)
    net = net_of(OwnAttention)
    with entropylab.record(net) as rec:
        compiled = how(net)
        for seed in range(3):
            assert torch.equal(run(compiled, seed), run(net_of(OwnAttention), seed))
    assert rec.unmeasured == {}
    assert rec.dataset.drop_attrs().equals(usual.dataset.drop_attrs())
    net = net_of(OwnAttention)
    with entropylab.rescale(net, 1.5, train_size=8):
        compiled = how(net)
        assert torch.equal(run(compiled), rescaled)
    assert torch.equal(run(compiled), plain)
    assert dynamo.utils.counters["frames"]["ok"] > 0, "nothing is compiled afterwards"
    assert not torch.equal(rescaled, plain)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_pipelines_denoiser_that_is_compiled_while_somebody_looks(random_pipe, dynamo):
    plain, unet = sample(random_pipe, size=(32, 32), steps=2), random_pipe.unet
    with entropylab.record(random_pipe) as usual:
        sample(random_pipe, size=(32, 32), steps=2)
    with entropylab.rescale(random_pipe, 1.5):
        rescaled = sample(random_pipe, size=(32, 32), steps=2)
    for watch, wanted in ((entropylab.record, plain), (lambda pipe: entropylab.rescale(pipe, 1.5), rescaled)):
        random_pipe.unet = unet
        with watch(random_pipe) as rec:
            random_pipe.unet = torch.compile(unet, backend="eager")
            assert torch.equal(sample(random_pipe, size=(32, 32), steps=2), wanted)
        if watch is entropylab.record:
            assert rec.unmeasured == {}
            assert rec.dataset.drop_attrs().equals(usual.dataset.drop_attrs())


class Decorated(OwnAttention):
    """Attention whose class has its forward compiled."""

    forward = torch.compile(OwnAttention.forward, backend="eager")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forward_that_is_compiled_in_the_class(dynamo):
    rec = recorded(net_of(Decorated))
    assert rec.unmeasured == {}
    assert rec.dataset.drop_attrs().equals(recorded(net_of(OwnAttention)).dataset.drop_attrs())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("when", "fullgraph"), [("before", True), ("run before", False), ("inside", False)])
def test_a_compiled_function_that_runs_a_denoiser(when, fullgraph, dynamo):
    """Nobody can see into it: it goes on, its pictures are the plain model's, and the layers are named every time."""
    net = net_of(OwnAttention)
    plain = run(net)

    def step(tokens, time):
        return net(tokens, time)

    def stepped():
        with torch.no_grad():
            return compiled(normal(2, TOKENS, WIDTH), torch.tensor(2.0))

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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("how", [None, by_block])
def test_other_compiled_parts_stay_compiled(how, dynamo):
    """A VAE compiled as one graph, say, decodes while somebody records the denoiser."""
    net, counter = net_of(OwnAttention), []

    def counting(graph, inputs):
        counter.append(1)
        return graph.forward

    net = net if how is None else how(net)
    other = torch.compile(net_of(Method), backend=counting, fullgraph=True)
    another = torch.compile(net_of(OwnAttention), backend=counting, fullgraph=True)
    with entropylab.record(net) as rec:
        run(net)
        assert torch.equal(run(other), run(net_of(Method)))
        assert torch.equal(run(another), run(net_of(OwnAttention)))
    assert len(counter) == 2
    assert rec.dataset.sizes["step"] == 1


# Offloading


def offloaded(attn):
    """A net to whose layers accelerate gives weights when they run, and no earlier."""
    import accelerate

    net = net_of(attn)
    accelerate.cpu_offload(net, execution_device="cpu", preload_module_classes=["MultiheadAttention"])
    return net


@pytest.mark.parametrize("attn", [OwnAttention, Method])
def test_offloaded_layer_by_layer(attn):
    rec = recorded(offloaded(attn))
    assert rec.unmeasured == {}
    assert rec.dataset.entropy.equals(recorded(net_of(attn)).dataset.entropy)


def test_offloaded_multihead_attention_is_named():
    """Its weights are not there yet when its module is called."""
    with pytest.warns(EntropyLabWarning, match=r"model\.attn\.inner"):
        rec = recorded(offloaded(Multihead))
    assert list(rec.unmeasured) == ["model.attn.inner"]


def test_offloaded_as_a_whole(random_pipe):
    import accelerate

    with entropylab.record(random_pipe) as usual:
        plain = sample(random_pipe, size=(32, 32), steps=2)
    _, hook = accelerate.cpu_offload_with_hook(random_pipe.unet, execution_device="cpu")
    with entropylab.record(random_pipe) as rec:
        assert torch.equal(sample(random_pipe, size=(32, 32), steps=2), plain)
    assert rec.dataset.entropy.equals(usual.dataset.entropy)
    hook.remove()
