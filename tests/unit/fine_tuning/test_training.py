import copy
import math
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from causal_prune.errors import CausalPruneError, InputError
from causal_prune.fine_tuning.training import fine_tune


def network(seed: int = 3) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(6, 4, 3), nn.Flatten(),
            nn.Linear(4, 3),
        )  # fmt: skip


def separable(count: int = 96) -> tuple[Tensor, Tensor]:
    """Three classes of 5x5 images that differ in the sign of their colours."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 3
    colours = torch.tensor([[2.0, -1.0], [-1.5, 1.0], [1.0, 2.5]])[labels]
    return colours.reshape(count, 2, 1, 1) + 0.5 * torch.randn(count, 2, 5, 5, generator=generator), labels


def batches() -> list[tuple[Tensor, Tensor]]:
    images, labels = separable()
    return list(zip(images.split(16), labels.split(16), strict=True))


def state(net: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def accuracy(net: nn.Module) -> float:
    images, labels = separable()
    with torch.no_grad():
        return (copy.deepcopy(net).eval()(images).argmax(dim=1) == labels).double().mean().item()


def one_cycle(step: int, steps: int, lr: float) -> float:
    """The slow oracle of the schedule: from lr/25 to lr over 30 % of the steps, and down to lr/250000."""
    peak = 0.3 * steps - 1
    start, stop, share = (
        (lr / 25, lr, step / peak)
        if step <= peak
        else (lr, lr / 25 / 1e4, (step - peak) / (steps - 1 - peak))
    )
    return stop + (start - stop) * (1 + math.cos(math.pi * share)) / 2


def test_learns_a_separable_problem() -> None:
    untrained = network()
    tuned = fine_tune(untrained, batches(), epochs=6, lr=0.1)
    assert accuracy(untrained) < 0.7
    assert accuracy(tuned) == 1.0


@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("taught", [True, False])
def test_steps_are_those_of_a_literal_loop(momentum: float, taught: bool) -> None:
    net, teacher = (
        nn.Sequential(nn.Flatten(), nn.Linear(50, 3)),
        nn.Sequential(nn.Flatten(), nn.Linear(50, 3)),
    )
    lr, decay, temperature, share = 0.05, 0.1, 3.0, 0.7 if taught else 0.0
    weight, bias = (parameter.detach().double() for parameter in net.parameters())
    speed = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for step, (images, labels) in enumerate(batches() * 2):
        x = images.flatten(1).double()
        logits = x @ weight.T + bias
        wanted = torch.eye(3, dtype=torch.float64)[labels]
        slope = (1 - share) * (logits.softmax(dim=1) - wanted)
        if taught:
            with torch.no_grad():
                target = teacher(images).double()
            soft = (logits / temperature).softmax(dim=1) - (target / temperature).softmax(dim=1)
            slope = slope + share * temperature * soft  # T^2 times the 1/T of the inner derivative
        slope = slope / len(labels)
        for index, gradient in enumerate((slope.T @ x + decay * weight, slope.sum(dim=0))):
            speed[index] = momentum * speed[index] + gradient
            move = gradient + momentum * speed[index]
            if index == 0:
                weight = weight - one_cycle(step, 12, lr) * move
            else:
                bias = bias - one_cycle(step, 12, lr) * move
    tuned = fine_tune(
        net, batches(), teacher=teacher if taught else None, epochs=2, lr=lr, momentum=momentum,
        weight_decay=decay, temperature=temperature, distill_weight=share,
    )  # fmt: skip
    torch.testing.assert_close(tuned[1].weight.double(), weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(tuned[1].bias.double(), bias, rtol=1e-5, atol=1e-6)


def test_same_arguments_give_the_same_bits_and_leave_the_generator_alone() -> None:
    loader = DataLoader(TensorDataset(*separable()), batch_size=20, shuffle=True)
    before = torch.get_rng_state()
    first = state(fine_tune(network(), loader, teacher=network(5), epochs=2, seed=4))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert same(first, state(fine_tune(network(), loader, teacher=network(5), epochs=2, seed=4)))
    assert not same(first, state(fine_tune(network(), loader, teacher=network(5), epochs=2, seed=5)))


def test_neither_the_network_nor_the_teacher_changes() -> None:
    net, teacher = network().eval(), network(5).train()
    before = state(net), state(teacher)
    fine_tune(net, batches(), teacher=teacher)
    assert same(state(net), before[0])
    assert same(state(teacher), before[1])
    assert teacher.training
    assert all(parameter.grad is None for parameter in (*net.parameters(), *teacher.parameters()))


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_kept_and_gradients_are_gone(training: bool) -> None:
    net = network().train(training)
    net[3].train(not training)
    tuned = fine_tune(net, batches())
    assert [module.training for module in tuned.modules()] == [module.training for module in net.modules()]
    assert all(parameter.grad is None for parameter in tuned.parameters())
    assert not torch.equal(tuned[1].running_mean, net[1].running_mean)


def test_trains_inside_no_grad() -> None:
    with torch.no_grad():
        tuned = fine_tune(network(), batches())
    assert not torch.equal(tuned[0].weight, network()[0].weight)


def test_zero_epochs_return_an_unchanged_copy() -> None:
    net = network()
    tuned = fine_tune(net, [], epochs=0)
    assert tuned is not net
    assert same(state(tuned), state(net))


def test_masked_entries_stay_zero_and_others_move() -> None:
    net = network()
    nn.init.ones_(
        net[1].bias
    )  # else the rectifier closes behind a masked filter, and no gradient would reach it
    mask = torch.ones_like(net[0].weight)
    mask[[1, 4]] = 0
    bias_mask = torch.tensor([1, 0, 1, 1, 0, 1], dtype=torch.bool)
    tuned = fine_tune(net, batches(), epochs=2, lr=0.1, masks={"0.weight": mask, "0.bias": bias_mask})
    assert (tuned[0].weight[[1, 4]] == 0).all()
    assert (tuned[0].bias[[1, 4]] == 0).all()
    kept = [0, 2, 3, 5]
    assert (tuned[0].weight[kept] != net[0].weight[kept]).all()
    assert (net[0].weight[[1, 4]] != 0).all()


def test_frozen_parameters_and_their_statistics_stay() -> None:
    net = network()
    for parameter in (*net[0].parameters(), *net[1].parameters()):
        parameter.requires_grad_(requires_grad=False)
    tuned = fine_tune(net, batches(), lr=0.1)
    changed = {key for key, value in state(tuned).items() if not torch.equal(value, state(net)[key])}
    assert changed == {"4.weight", "4.bias", "6.weight", "6.bias"}
    assert [parameter.requires_grad for parameter in tuned.parameters()] == [False] * 4 + [True] * 4


def test_batch_norm_is_not_decayed() -> None:
    constant = [(torch.zeros(8, 2, 5, 5), torch.arange(8) % 3)]
    net = network()
    with torch.no_grad():
        net[1].weight.fill_(2.0)
        net[6].weight.zero_()  # no gradient reaches what is before
    tuned = fine_tune(net, constant, epochs=4, lr=0.1, momentum=0.0, weight_decay=0.5)
    assert torch.equal(tuned[0].bias, net[0].bias)
    assert tuned[0].weight.norm() < 0.99 * net[0].weight.norm()


def test_auxiliary_heads_count_for_three_tenths() -> None:
    outputs = namedtuple("outputs", ["logits", "aux", "off"])

    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.aux = nn.Linear(2, 3), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Any:
            x = x.mean(dim=(2, 3))
            return outputs(self.main(x), self.aux(x), None) if self.training else self.main(x)

    class Weighted(TwoHeads):
        def forward(self, x: Tensor) -> Tensor:
            x = x.mean(dim=(2, 3))
            return self.aux(x)

    net = TwoHeads()
    alone = Weighted()
    alone.load_state_dict(net.state_dict())
    options: dict[str, Any] = {"momentum": 0.0, "weight_decay": 0.0}
    one = batches()[:1]
    with_aux = fine_tune(net, one, lr=0.1, **options)
    three_tenths = fine_tune(alone, one, lr=0.03, **options)
    torch.testing.assert_close(with_aux.aux.weight, three_tenths.aux.weight)
    assert not torch.equal(with_aux.main.weight, net.main.weight)
    assert fine_tune(net, one, teacher=net)(one[0][0])[1].shape == (16, 3)


def test_single_step_moves_the_weights() -> None:
    net = network()
    tuned = fine_tune(net, batches()[:1], lr=0.1)
    assert (tuned[6].bias - net[6].bias).abs().max() > 1e-3


def test_loader_without_length_is_counted() -> None:
    class Stream(IterableDataset[tuple[Tensor, Tensor]]):
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return iter(batches())

    streamed = fine_tune(network(), Stream(), epochs=2)
    assert same(state(streamed), state(fine_tune(network(), batches(), epochs=2)))


def test_loader_that_gives_more_than_its_length_goes_on() -> None:
    class Short(list[Any]):
        def __len__(self) -> int:
            return 2

    tuned = fine_tune(network(), Short(batches()))
    assert not torch.equal(tuned[0].weight, network()[0].weight)


def test_not_a_number_is_named_by_epoch_and_batch() -> None:
    spoiled = batches()
    spoiled[2][0][0, 0, 0, 0] = float("nan")
    with pytest.raises(CausalPruneError, match=r"the loss is nan at epoch 1, batch 3: lower lr \(0.01\)"):
        fine_tune(network(), spoiled)


def test_weights_that_the_last_step_spoils_are_refused() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(50, 3))
    with pytest.raises(CausalPruneError, match="'1.weight' is NaN or infinite after the last step"):
        fine_tune(net, [(images * 1e5, labels) for images, labels in batches()[:1]], lr=1e37)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "epochs=-1 must be 0 or more"),
        ({"lr": 0.0}, r"lr=0.0 must be above 0"),
        ({"lr": math.nan}, r"lr=nan must be above 0"),
        ({"momentum": 1.0}, r"momentum=1.0 must be in \[0, 1\)"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1 must be 0 or more"),
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"distill_weight": 1.5}, r"distill_weight=1.5 must be in \[0, 1\]"),
        ({"teacher": nn.Linear(9, 3)}, r"cannot train on epoch 1, batch 1, \[\(16, 2, 5, 5\)\]"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fine_tune(network(), batches(), **options)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([], "train has no batch: give at least one"),
        (iter(batches()), "train can be iterated only once"),
        ([torch.zeros(4, 2, 5, 5)], r"epoch 1, batch 1 is no pair \(inputs, labels\)"),
        (
            [(torch.zeros(4, 2, 5, 5), torch.tensor([0, 1, 3, 0]))],
            "label 3 in epoch 1, batch 1 is outside 0 to 2, the 3 classes",
        ),
        (
            [(torch.zeros(4, 2, 5, 5), torch.tensor([0, -1, 2, 0]))],
            "label -1 in epoch 1, batch 1 is outside 0 to 2, the 3 classes",
        ),
        (
            [(torch.zeros(4, 2, 5, 5), torch.arange(5) % 2)],
            "batch 1 has 5 labels, but model 'tuned' returned 4",
        ),
        ([(torch.zeros(4, 2, 5, 5), torch.zeros(4))], "give one integer class per image"),
        (
            [(torch.zeros(4, 1, 5, 5), torch.arange(4) % 3)],
            r"cannot train on epoch 1, batch 1, \[\(4, 1, 5, 5\)\]",
        ),
    ],
)
def test_wrong_batches_are_refused(train: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fine_tune(network(), train)


def test_network_without_trainable_parameters_is_refused() -> None:
    net = network()
    net.requires_grad_(requires_grad=False)
    with pytest.raises(
        InputError, match="every parameter has requires_grad=False: unfreeze some, or use epochs=0"
    ):
        fine_tune(net, batches())
