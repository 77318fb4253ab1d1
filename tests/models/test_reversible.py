"""The recomputing sequence is plain autograd with less memory: nothing else may differ."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fertiray.models.madrnet import AttentionFunction, ConvFunction, MADRNet
from fertiray.models.reversible import ReversibleSequence

# Mixed precision, largest relative difference: the streams are rebuilt in float32 and then rounded
# to bfloat16 (8 bits), so single roundings of F and G may fall the other way.
BFLOAT16 = 0.02


def sequence(passes, channels=8, *, recompute=True, dtype=torch.float64):
    torch.manual_seed(0)
    f, g = ConvFunction(channels, passes), AttentionFunction(channels, acrosome=True)
    return ReversibleSequence(f, g, passes, recompute).to(dtype)


def twins(passes, **options):
    """The same weights, recomputing and with plain autograd."""
    return [sequence(passes, recompute=recompute, **options) for recompute in (True, False)]


def streams(channels=8, *, dtype=torch.float64, size=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 2 * channels, size, size, generator=generator).to(dtype)


def step(model, x):
    """Output, gradients and buffers after one training step's forward and backward."""
    x = x.clone().requires_grad_()
    y = torch.cat(model(*x.chunk(2, dim=1)), dim=1)
    (y.square().sum() + y.pow(3).mean()).backward()
    return y.detach(), [x.grad, *(p.grad for p in model.parameters())], list(model.buffers())


def difference(ours, theirs):
    """Largest relative difference over a list of tensors."""
    return max(
        float((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-30))
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("passes", [1, 3, 6])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_plain_autograd(passes, training):
    ours, plain = (step(model.train(training), streams()) for model in twins(passes))
    assert torch.equal(ours[0], plain[0])
    assert difference(ours[1], plain[1]) < 1e-9
    assert all(torch.equal(a, b) for a, b in zip(ours[2], plain[2], strict=True))


@pytest.mark.parametrize("passes", [1, 3, 6])
@pytest.mark.parametrize("training", [True, False])
def test_the_inverse_reconstructs_the_input(passes, training):
    model, x = sequence(passes).train(training), streams()
    y = model.run(*x.chunk(2, dim=1))
    assert (y[0] - x[:, :8]).abs().max() > 0.1  # the passes do something
    back = torch.cat(model.inverse(*y), dim=1)
    assert (back - x).abs().max() < 1e-9


def test_finite_differences_agree():
    """torch.autograd.gradcheck in float64, with its own tolerances."""
    model, x = sequence(2, channels=4), streams(4, size=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: torch.cat(model(*x.chunk(2, dim=1)), 1), x)


def saved_bytes(model, x):
    """Bytes that autograd keeps between forward and backward, parameters not counted."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = model(*x.chunk(2, dim=1))
        size = sum(kept.values())
    del y
    return size


def test_saved_memory_does_not_grow_with_the_passes():
    x = streams(16, dtype=torch.float32, size=8).requires_grad_()
    ours, plain = (
        [
            saved_bytes(sequence(n, 16, recompute=recompute, dtype=torch.float32), x)
            for n in (1, 3, 6)
        ]
        for recompute in (True, False)
    )
    assert ours == [x.nbytes] * 3  # the two output streams and nothing else
    assert plain[0] < plain[1] < plain[2]
    assert plain[2] > 10 * ours[2]


def test_statistics_move_once_a_step():
    model = sequence(3)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 6  # two in F, statistics of their own in each of three passes
    for count in (1, 2):
        step(model, streams(seed=count))
        assert [int(norm.num_batches_tracked) for norm in norms] == [count] * 6
    # First pass, first norm: the mean of its own input, momentum 0.1, by hand.
    expected = 0.0
    for count in (1, 2):
        expected = 0.9 * expected + 0.1 * streams(seed=count)[:, 8:].mean((0, 2, 3))
    assert torch.allclose(model.f.before.statistics[0].running_mean, expected)


def test_statistics_do_not_move_in_evaluation():
    model = sequence(2).eval()
    before = [buffer.clone() for buffer in model.buffers()]
    step(model, streams())
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))


@pytest.mark.parametrize("backward_inside", [True, False])
def test_autocast(backward_inside):
    found = []
    for model in twins(3, dtype=torch.float32):
        x = streams(dtype=torch.float32).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = torch.cat(model(*x.chunk(2, dim=1)), dim=1)
            if backward_inside:
                y.square().mean().backward()
        if not backward_inside:
            y.square().mean().backward()
        found.append([y.detach(), x.grad, *(p.grad for p in model.parameters())])
    assert found[0][0].dtype == torch.float32
    assert torch.equal(found[0][0], found[1][0])
    assert difference(found[0][1:], found[1][1:]) < BFLOAT16


def test_frozen_parameters_get_no_gradient():
    model = sequence(2)
    model.f.conv.requires_grad_(False)
    step(model, streams())
    assert model.f.conv.weight.grad is None
    assert model.g.conv.weight.grad is not None


def test_second_derivatives_are_refused():
    model, x = sequence(1), streams().requires_grad_()
    (first,) = torch.autograd.grad(
        torch.cat(model(*x.chunk(2, 1)), 1).square().sum(), x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


class Around(nn.Module):
    """The sequence between two ordinary layers, so that there is a graph on either side."""

    def __init__(self, recompute):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3)
        self.sequence = sequence(2, 4, recompute=recompute, dtype=torch.float32)
        self.last = nn.Linear(8, 2)

    def forward(self, x):
        x = self.first(x).relu()
        return self.last(torch.cat(self.sequence(*x.chunk(2, 1)), 1).mean((2, 3)))


def test_torch_compile():
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    plain, ours = Around(False), Around(True)
    compiled = torch.compile(ours, backend="aot_eager")
    for model in (plain, compiled):
        model(x).square().sum().backward()
    grads = [[p.grad for p in model.parameters()] for model in (ours, plain)]
    assert difference(*grads) < 1e-5
    assert difference(list(ours.buffers()), list(plain.buffers())) < 1e-6
    torch.compiler.reset()  # or the graph-broken code above is taken from the cache
    with pytest.raises(torch._dynamo.exc.Unsupported, match="disable"):
        torch.compile(Around(True), backend="aot_eager", fullgraph=True)(x)
    with torch.no_grad():
        whole = torch.compile(ours.eval(), backend="aot_eager", fullgraph=True)
        assert torch.allclose(whole(x), ours(x), atol=1e-6)


def ddp_worker(rank, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    parts = torch.load(Path(folder) / "batch.pt", weights_only=True).chunk(2)
    found = {}
    for recompute in (True, False):
        model = Around(recompute)
        wrapped = nn.parallel.DistributedDataParallel(model)
        wrapped(parts[rank]).square().sum().backward()
        found[recompute] = [p.grad for p in model.parameters()]
    torch.save(found, Path(folder) / f"grads{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.timeout(120)
def test_distributed_data_parallel(tmp_path):
    """Two gloo processes, this one and another: the average of plain autograd's gradients."""
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.save(x, tmp_path / "batch.pt")
    other = torch.multiprocessing.get_context("spawn").Process(
        target=ddp_worker, args=(1, str(tmp_path))
    )
    other.start()
    ddp_worker(0, str(tmp_path))
    other.join()
    assert other.exitcode == 0
    first, second = (torch.load(tmp_path / f"grads{rank}.pt", weights_only=True) for rank in (0, 1))
    assert difference(first[True], second[True]) == 0.0
    assert difference(first[True], first[False]) < 1e-5
    alone = []
    for part in x.chunk(2):
        model = Around(False)
        model(part).square().sum().backward()
        alone.append([p.grad for p in model.parameters()])
    mean = [(a + b) / 2 for a, b in zip(*alone, strict=True)]
    assert difference(first[True], mean) < 1e-5


def test_madrnet_trains_the_same_either_way(picture):
    """A whole network, float64: every gradient, and the running statistics after the step."""
    found = []
    for recompute in (True, False):
        torch.manual_seed(0)
        model = MADRNet(4, size=64, backbone="resnet18", pretrained=False, recompute=recompute)
        model.double()(picture(4, 3, 64).double()).square().sum().backward()
        found.append(([p.grad for p in model.parameters()], list(model.buffers())))
    assert difference(found[0][0], found[1][0]) < 1e-9
    assert difference(found[0][1], found[1][1]) < 1e-12
