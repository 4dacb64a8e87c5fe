"""Multiply-accumulates against loops written out by hand."""

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from causal_prune.network.operation_costs import OperationCounter, named_uncounted, without_fused_attention


class Doing(nn.Module):
    """A function of the input as a module."""

    def __init__(self, run: Callable[[Tensor], object], *layers: nn.Module) -> None:
        super().__init__()
        self.run, self.layers = run, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> object:
        return self.run(x)


def counted(net: nn.Module, x: Tensor) -> OperationCounter:
    counter = OperationCounter(net)
    with torch.no_grad(), without_fused_attention(), counter:
        net(x)
    return counter


def recurrent(kind: type[nn.RNNBase]) -> int:
    gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[kind]
    return sum(2 * 7 * gates * 5 * (wide + 5) for wide in (6, 10))


W, K = torch.randn(5, 6), torch.randn(8, 2, 3, 3)
X = torch.randn(1, 7, 6)


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (lambda x: x @ W.T, 7 * 6 * 5),
        (lambda x: F.linear(x, W), 7 * 6 * 5),
        (lambda x: torch.einsum("bti,oi->bto", x, W), 7 * 6 * 5),
        (lambda x: x[0] @ x[0, 0], 7 * 6),
        (lambda x: x[0, 0] @ x[0, 1], 6),
        (lambda x: torch.addmv(x[0, :, 0], x[0], x[0, 0]), 7 * 6),
        (lambda x: F.scaled_dot_product_attention(x, x, x), 2 * 7 * 7 * 6),
        (lambda x: F.conv2d(x.reshape(1, 2, 3, 7), K, padding=1), 3 * 7 * 8 * 2 * 9),
        (lambda x: F.conv2d(x.reshape(1, 2, 3, 7), K[:, :1], groups=2, padding=1), 3 * 7 * 8 * 9),
        (lambda x: F.bilinear(x[0], x[0], torch.ones(3, 6, 6)), 7 * 3 * 36),
        (
            lambda x: torchvision.ops.deform_conv2d(x.reshape(1, 2, 3, 7), torch.zeros(1, 18, 1, 5), K),
            5 * 8 * 2 * 9,
        ),
        (lambda x: x.relu() + x.softmax(1) * x.mean(1, keepdim=True), 0),
        (lambda x: torch.zeros(3) + 1, 0),
    ],
)
def test_functions_cost_what_their_loops_multiply(run: Callable[[Tensor], object], expected: int) -> None:
    counter = counted(Doing(run), X)
    assert counter.macs == ({"": expected} if expected else {}) and counter.uncounted == {}


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_cost_every_step(kind: type[nn.RNNBase]) -> None:
    cells = kind(6, 5, num_layers=2, bidirectional=True, batch_first=True)
    assert counted(cells, X).macs == {"": recurrent(kind)}


def test_each_module_is_charged_what_it_computes_itself_and_hooks_go() -> None:
    net = nn.Sequential(nn.Linear(6, 4), Doing(lambda x: x @ x.transpose(1, 2)), nn.Linear(7, 2))
    counter = counted(net, X)
    assert counter.macs == {"0": 7 * 24, "1": 7 * 7 * 4, "2": 7 * 14}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_what_has_no_formula_is_named() -> None:
    net = nn.Sequential(Doing(lambda x: torch.fft.rfft(x).real), Doing(lambda x: torch.cdist(x, x)))
    names = named_uncounted(counted(net, X).uncounted)
    assert len(names) == 2 and names[0].endswith(" in 0") and names[1].endswith(" in 1")
    assert "fft" in names[0] and "cdist" in names[1]


def test_attention_of_eval_mode_is_counted_and_the_switch_is_as_before() -> None:
    attention = nn.MultiheadAttention(6, 2, batch_first=True).eval()
    net = Doing(lambda x: attention(x, x, x, need_weights=False)[0], attention).eval()
    before = torch.backends.mha.get_fastpath_enabled()
    assert sum(counted(net, X).macs.values()) == 7 * 6 * 6 * 4 + 2 * 7 * 7 * 6
    assert torch.backends.mha.get_fastpath_enabled() == before
