"""Multiply-accumulates, against counts by hand-written hooks and by literal loops."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from causal_prune.errors import InputError
from causal_prune.measure.cost import count_cost


def counted_by_hooks(model: nn.Module, *inputs: Tensor) -> dict[str, int]:
    """The slow oracle: for one image, every product of a weight with a value, from shapes alone."""
    found: dict[str, int] = {}

    def hook(name: str):
        def count(module: nn.Module, args: tuple, output: Tensor) -> None:
            if isinstance(module, nn.Linear):
                macs = module.in_features * module.out_features * (output[0].numel() // module.out_features)
            elif isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose1d):  # every input value is spread
                kernel = torch.Size(module.kernel_size).numel()
                macs = args[0][0].numel() * kernel * (module.out_channels // module.groups)
            else:  # every output value is a sum
                kernel = torch.Size(module.kernel_size).numel()
                macs = output[0].numel() * kernel * (module.in_channels // module.groups)
            found[name] = found.get(name, 0) + macs

        return count

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)
    handles = [m.register_forward_hook(hook(n)) for n, m in model.named_modules() if isinstance(m, kinds)]
    model(*inputs)
    for handle in handles:
        handle.remove()
    return found


NETS = {
    "plain": nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 5, stride=2),
    ),
    "grouped": nn.Sequential(nn.Conv2d(3, 12, 1, bias=False), nn.Conv2d(12, 8, 3, groups=4, dilation=2)),
    "depthwise": nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 12, 3, groups=6), nn.Conv2d(12, 5, 1)),
    "transposed": nn.Sequential(
        nn.ConvTranspose2d(3, 6, 3, stride=2, groups=3), nn.Conv2d(6, 4, (1, 3)), nn.ConvTranspose2d(4, 2, 2)
    ),
    "linear": nn.Sequential(nn.Flatten(), nn.Linear(300, 7), nn.ReLU(), nn.Linear(7, 4, bias=False)),
    "rows": nn.Linear(10, 5),
}


@pytest.mark.parametrize("name", NETS)
def test_layers_equal_the_counts_by_hand(name):
    example = torch.randn(2, 3, 10, 10)
    expected = counted_by_hooks(NETS[name].eval(), example)

    cost = count_cost(NETS[name], example)

    assert cost.layer_macs == expected
    assert cost.macs == sum(expected.values()) > 0
    assert cost.params == sum(parameter.numel() for parameter in NETS[name].parameters())


def test_a_convolution_equals_its_literal_loops():
    layer, image = nn.Conv2d(4, 6, 3, stride=2, groups=2), torch.randn(1, 4, 7, 7)
    count = 0
    for _filter in range(6):
        for _row in range(0, 7 - 3 + 1, 2):
            for _column in range(0, 7 - 3 + 1, 2):
                count += (4 // 2) * 3 * 3

    assert count_cost(layer, image).macs == count


def test_one_image_is_counted_whatever_the_batch():
    net = NETS["plain"]

    costs = [count_cost(net, torch.randn(batch, 3, 10, 10)) for batch in (1, 2, 5)]

    assert costs[0] == costs[1] == costs[2]


class Shared(nn.Module):
    """One layer run twice, one inner layer called past its container, and a convolution of the network's own."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 1)
        self.box = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Conv2d(2, 2, 1))
        self.kernel = nn.Parameter(torch.randn(5, 2, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(x))
        return functional.conv2d(self.box[1](self.box(x)), self.kernel)


def test_shared_functional_and_bypassed_layers_are_attributed_once():
    cost = count_cost(Shared(), torch.randn(2, 3, 6, 6))

    assert cost.layer_macs == {
        "twice": 2 * 36 * 3 * 3,
        "box.0": 16 * 9 * 3 * 2,
        "box.1": 2 * 16 * 2 * 2,
        "": 9 * 4 * 2 * 5,
    }
    assert cost.macs == sum(cost.layer_macs.values())


def test_attention_is_counted_and_its_switch_restored():
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(2, 5, 8)
    before = torch.backends.mha.get_fastpath_enabled()

    cost = count_cost(layer, {"query": x, "key": x, "value": x})

    assert cost.macs == 5 * 8 * 24 + 2 * (5 * 5 * 8) + 5 * 8 * 8
    assert torch.backends.mha.get_fastpath_enabled() is before


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(5, 4)

    def forward(self, image: Tensor, extra: Tensor, scale: Tensor) -> Tensor:
        return self.conv(image).mean((2, 3)) * scale + self.linear(extra)


@pytest.mark.parametrize("keywords", [False, True])
def test_tuple_and_mapping_inputs(keywords):
    inputs = {"image": torch.randn(2, 3, 6, 6), "extra": torch.randn(2, 5), "scale": torch.tensor(2.0)}
    net = TwoInputs()

    cost = count_cost(net, inputs if keywords else tuple(inputs.values()))

    assert cost.layer_macs == {"conv": 16 * 9 * 3 * 4, "linear": 20}


def test_the_network_is_left_untouched():
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) + torch.rand(())

    net = Noisy()
    net.body[1].eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = torch.get_rng_state()

    count_cost(net, torch.ones(2, 3, 6, 6))

    assert [m.training for m in net.modules()] == [True, True, True, False, True]
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


def test_hooks_and_modes_are_restored_after_an_error():
    net = NETS["plain"].train()

    with pytest.raises(InputError, match="the model cannot run example_input: .*channels"):
        count_cost(net, torch.randn(1, 4, 10, 10))

    assert all(m.training for m in net.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize("example", [torch.empty(0, 3, 4, 4), (), torch.tensor(1.0)])
def test_an_example_without_an_image_is_refused(example):
    with pytest.raises(InputError, match="example_input holds no image"):
        count_cost(nn.Conv2d(3, 4, 3), example)


def test_a_network_without_products_costs_nothing():
    cost = count_cost(nn.Sequential(nn.ReLU(), nn.Flatten()), torch.randn(1, 3, 4, 4))

    assert (cost.macs, cost.params, cost.layer_macs) == (0, 0, {})
