import copy
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from causal_prune.compensation.reestimation import reestimate as compensate
from causal_prune.errors import InputError


def network(seed: int = 3) -> nn.Sequential:
    """Conv, batch norm, dropout, conv, batch norm, with statistics that are far from the data's."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(5, 4, 2, stride=2),
            nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3),
        )  # fmt: skip
        for norm in (net[1], net[5]):
            nn.init.uniform_(norm.weight, 0.5, 2.0)
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean, 5.0)
            nn.init.uniform_(norm.running_var, 8.0, 9.0)
    return net.eval()


def images(count: int, seed: int = 11) -> Tensor:
    """Images whose mean drifts, so that the means of batches differ."""
    noise = torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return noise + torch.linspace(-2.0, 3.0, count).reshape(-1, 1, 1, 1)


def state(net: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def uneven() -> list[Tensor]:
    return list(images(40).split([17, 3, 20]))


def literal_statistics(
    net: nn.Sequential, batches: list[Tensor]
) -> dict[int, tuple[list[float], list[float]]]:
    """The slow oracle: every value of every channel in a list, each batch normalised by itself on the way."""
    read: dict[int, list[list[float]]] = {1: [[] for _ in range(5)], 5: [[] for _ in range(4)]}
    net = copy.deepcopy(net).double().eval()
    with torch.no_grad():
        for batch in batches:
            x = batch.double()
            for index, layer in enumerate(net):
                if index in read:
                    normalised = torch.empty_like(x)
                    for channel in range(x.shape[1]):
                        values = x[:, channel].flatten().tolist()
                        read[index][channel] += values
                        spread = (np.var(values) + layer.eps) ** 0.5
                        scaled = (x[:, channel] - np.mean(values)) / spread
                        normalised[:, channel] = layer.weight[channel] * scaled + layer.bias[channel]
                    x = normalised
                else:
                    x = layer(x)
    return {
        index: ([np.mean(c) for c in channels], [np.var(c, ddof=1) for c in channels])
        for index, channels in read.items()
    }


def test_statistics_are_those_of_all_values_pooled_over_uneven_batches() -> None:
    net, batches = network(), uneven()
    repaired = compensate(net, net, batches)
    for index, (mean, variance) in literal_statistics(net, batches).items():
        torch.testing.assert_close(repaired[index].running_mean, torch.tensor(mean, dtype=torch.float32))
        torch.testing.assert_close(repaired[index].running_var, torch.tensor(variance, dtype=torch.float32))
        assert repaired[index].num_batches_tracked == 3


def test_first_layer_does_not_depend_on_how_the_images_are_batched() -> None:
    net = network()
    whole = compensate(net, net, [images(40)])
    parts = compensate(net, net, uneven())
    torch.testing.assert_close(whole[1].running_mean, parts[1].running_mean)
    torch.testing.assert_close(whole[1].running_var, parts[1].running_var)
    mean_of_variances = torch.stack([net[0](b).var(dim=(0, 2, 3)) for b in uneven()]).mean(dim=0)
    assert not torch.allclose(parts[1].running_var, mean_of_variances, rtol=0.05)


def test_large_mean_does_not_drown_the_variance() -> None:
    net = nn.Sequential(nn.BatchNorm2d(2)).eval()
    batch = images(64)[:, :2].double() + 1e6
    repaired = compensate(net.double(), net, batch.split(13))
    expected = batch.var(dim=(0, 2, 3))
    torch.testing.assert_close(repaired[0].running_var, expected, rtol=1e-9, atol=0.0)


def test_repair_brings_a_shifted_network_back() -> None:
    dense = compensate(network(), network(), [images(200)])
    shifted = copy.deepcopy(dense)
    with torch.no_grad():
        shifted[0].weight.mul_(3.0)
        shifted[0].bias.add_(7.0)
    repaired = compensate(shifted, dense, [images(200)])
    probe = images(16, seed=5)
    torch.testing.assert_close(repaired(probe), dense(probe), rtol=1e-3, atol=1e-3)
    assert (shifted(probe) - dense(probe)).abs().max() > 1.0


def test_only_the_statistics_change_and_only_of_a_copy() -> None:
    pruned, dense = network(), network(seed=4).train()
    dense[1].eval()
    before = state(pruned), state(dense), torch.get_rng_state()
    repaired = compensate(pruned, dense, uneven())
    assert same(state(pruned), before[0])
    assert same(state(dense), before[1])
    assert torch.equal(torch.get_rng_state(), before[2])
    assert [module.training for module in dense] == [True, False, True, True, True, True, True, True]
    changed = {key for key, value in state(repaired).items() if not torch.equal(value, before[0][key])}
    assert changed == {
        f"{layer}.{name}"
        for layer in (1, 5)
        for name in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert all(not module._forward_hooks for module in repaired.modules())
    assert all(not parameter.grad_fn and parameter.grad is None for parameter in repaired.parameters())
    assert [repaired[layer].momentum for layer in (1, 5)] == [0.1, 0.1]


@pytest.mark.parametrize("training", [True, False])
def test_mode_of_each_module_is_kept(training: bool) -> None:
    net = network().train(training)
    net[1].train(not training)
    repaired = compensate(net, net, uneven())
    assert [module.training for module in repaired.modules()] == [module.training for module in net.modules()]
    assert torch.equal(repaired[5].running_mean, compensate(network(), network(), uneven())[5].running_mean)


def test_shuffling_loader_gives_the_same_result_twice() -> None:
    loader = DataLoader(TensorDataset(images(40), torch.zeros(40)), batch_size=9, shuffle=True)
    net = network()
    first = compensate(net, net, loader)
    torch.rand(3)
    assert same(state(first), state(compensate(net, net, loader)))


def test_batches_may_be_pairs_or_mappings_and_labels_are_not_used() -> None:
    net = network()
    plain = state(compensate(net, net, uneven()))
    assert same(state(compensate(net, net, [(batch, None) for batch in uneven()])), plain)
    assert same(state(compensate(net, net, [({"input": batch},) for batch in uneven()])), plain)


def test_networks_without_batch_norm_come_back_unchanged() -> None:
    bare = nn.Sequential(nn.Conv2d(3, 2, 3), nn.GroupNorm(1, 2))
    assert same(state(compensate(bare, bare, [])), state(bare))


def test_layers_that_keep_no_statistics_are_left() -> None:
    stateless = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(3))
    repaired = compensate(stateless, stateless, [images(8)])
    assert repaired[0].running_mean is None
    frozen = nn.BatchNorm2d(3)
    frozen.track_running_stats = False
    repaired = compensate(nn.Sequential(frozen, nn.BatchNorm2d(3)), frozen, [images(8)])
    assert torch.equal(repaired[0].running_mean, torch.zeros(3))
    assert repaired[1].num_batches_tracked == 1


def test_layer_that_no_image_reaches_is_left() -> None:
    class WithHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            x = self.body(x)
            return (x, self.head(x)) if self.training else x

    net = WithHead().train()
    repaired = compensate(net, net, [images(8)])
    assert repaired.head.num_batches_tracked == 0
    assert repaired.body.num_batches_tracked == 1


def test_shared_layer_pools_all_its_uses() -> None:
    norm = nn.BatchNorm2d(3, affine=False)
    net = nn.Sequential(norm, nn.Conv2d(3, 3, 1), norm).eval()
    repaired = compensate(net, net, [images(8)])
    with torch.no_grad():
        first = images(8)
        scaled = nn.functional.batch_norm(first, None, None, training=True)
        read = torch.cat([first, net[1](scaled)])
    torch.testing.assert_close(repaired[0].running_var, read.var(dim=(0, 2, 3)))


def test_constant_channel_stays_finite() -> None:
    net = network()
    with torch.no_grad():
        net[0].weight[2] = 0.0
        net[0].bias[2] = 4.0
    repaired = compensate(net, net, uneven())
    assert repaired[1].running_var[2] == 0
    assert repaired[1].running_mean[2] == 4
    assert repaired(images(6, seed=1)).isfinite().all()


def test_trailing_batch_of_one_image_does_not_stop_a_layer_with_one_value_per_channel() -> None:
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()
    values = images(9)[:, :, :1, :1]
    repaired = compensate(net, net, values.split(4))
    torch.testing.assert_close(repaired[1].running_var, values.flatten(1).var(dim=0))
    torch.testing.assert_close(repaired[1].running_mean, values.flatten(1).mean(dim=0))


def test_single_image_is_warned_about() -> None:
    with pytest.warns(
        UserWarning, match="calibration has 1 image, and batch-norm statistics need at least 2"
    ) as seen:
        repaired = compensate(network(), network(), [images(1)])
    assert repaired(images(2)).isfinite().all()
    assert seen[0].filename == __file__


def test_batches_of_one_image_are_warned_about() -> None:
    with pytest.warns(UserWarning, match="calibration has 5 images in batches of 1"):
        repaired = compensate(network(), network(), images(5).split(1))
    torch.testing.assert_close(
        repaired[1].running_mean, compensate(network(), network(), [images(5)])[1].running_mean
    )


def test_layer_with_too_few_values_keeps_its_statistics() -> None:
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3)).eval()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        repaired = compensate(net, net, [images(1)[:, :, :1, :1]])
    assert "batch norm '1' saw 1 value per channel" in str(seen[-1].message)
    assert seen[-1].filename == __file__
    assert same(state(repaired), state(net))


def test_half_precision_is_counted_in_single() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3)).eval()
    batch = (images(64) + 50).bfloat16()
    repaired = compensate(net, net, batch.split(10))
    torch.testing.assert_close(repaired[0].running_mean, batch.float().mean(dim=(0, 2, 3)))
    torch.testing.assert_close(repaired[0].running_var, batch.float().var(dim=(0, 2, 3)))


def test_empty_calibration_is_refused() -> None:
    with pytest.raises(InputError, match="calibration has no batch: give at least 2 images"):
        compensate(network(), network(), [])


def test_batch_that_the_pruned_network_cannot_read_is_named() -> None:
    batches = [images(4), images(4)[:, :2]]
    with pytest.raises(
        InputError, match=r"pruned network does not accept batch 2 of calibration, \[\(4, 2, 6, 6\)\]"
    ):
        compensate(network(), network(), batches)


def test_dense_network_that_reads_other_images_is_refused() -> None:
    with pytest.raises(InputError, match="the dense network does not accept batch 1 of calibration"):
        compensate(network(), nn.Linear(7, 3), uneven())


def test_dense_network_of_another_task_is_refused() -> None:
    dense = nn.Sequential(nn.Flatten(), nn.Linear(108, 9))
    with pytest.raises(InputError, match=r"dense returns \[\(17, 9\)\] and pruned \[\(17, 3\)\]"):
        compensate(network(), dense, uneven())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_by_layer(bad: float) -> None:
    net = network()
    with torch.no_grad():
        net[4].bias[1] = bad
    with pytest.raises(
        InputError, match="batch norm '5' reads NaN or infinite values on the calibration data"
    ):
        compensate(net, net, uneven())


def test_modes_and_random_state_return_after_an_error() -> None:
    dense = network().train()

    def failing() -> Iterator[Tensor]:
        yield images(4)
        raise OSError("disk gone")

    before = torch.get_rng_state()
    with pytest.raises(OSError, match="disk gone"):
        compensate(network(), dense, failing())
    assert dense.training
    assert torch.equal(torch.get_rng_state(), before)
