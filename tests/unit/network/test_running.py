from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.network.running import (
    as_taken,
    call,
    device_of,
    fill,
    inputs_of,
    modes_kept,
    on_device,
    seeded,
    tensors_in,
)

IMAGES = torch.arange(12.0).reshape(4, 3)
LABELS = torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("batch", "inputs"),
    [
        (IMAGES, IMAGES),
        ((IMAGES, LABELS), IMAGES),
        ([IMAGES, LABELS], IMAGES),
        ((IMAGES,), IMAGES),
        (((IMAGES, LABELS), LABELS), (IMAGES, LABELS)),
        ({"x": IMAGES}, {"x": IMAGES}),
        (({"x": IMAGES}, LABELS), {"x": IMAGES}),
    ],
)
def test_inputs_are_the_first_entry_of_a_pair_or_the_batch_itself(batch: object, inputs: object) -> None:
    assert inputs_of(batch) is inputs or inputs_of(batch) == inputs


@pytest.mark.parametrize("batch", [None, "images", (), (3, LABELS), {"x": 1}, (None, LABELS)])
def test_batch_without_tensors_is_refused(batch: object) -> None:
    with pytest.raises(InputError, match="without inputs: give tensors"):
        inputs_of(batch)


def test_tensors_are_found_in_order_and_other_entries_passed_over() -> None:
    found = tensors_in({"a": (IMAGES, None), "b": [LABELS, 3], "c": IMAGES})
    assert [id(tensor) for tensor in found] == [id(IMAGES), id(LABELS), id(IMAGES)]


def test_moving_keeps_the_structure() -> None:
    there = on_device({"a": (IMAGES, 3), "b": [LABELS]}, "meta")
    assert there["a"][0].device.type == there["b"][0].device.type == "meta"
    assert there["a"][1] == 3
    assert on_device(IMAGES, "cpu") is IMAGES


def test_call_unpacks_tuples_and_mappings() -> None:
    network = nn.Bilinear(3, 3, 2)
    expected = network(IMAGES, IMAGES + 1)
    assert torch.equal(call(network, (IMAGES, IMAGES + 1)), expected)
    assert torch.equal(call(network, {"input2": IMAGES + 1, "input1": IMAGES}), expected)


def test_device_is_that_of_the_first_parameter_or_buffer() -> None:
    assert device_of(nn.Linear(2, 2, device="meta")).type == "meta"
    assert device_of(nn.BatchNorm1d(2, affine=False, device="meta")).type == "meta"
    assert device_of(nn.ReLU()).type == "cpu"


def test_modes_return_even_after_an_error() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.ReLU()))
    network[1].eval()
    modes = [module.training for module in network.modules()]
    with pytest.raises(RuntimeError, match="cannot be multiplied"), modes_kept(network):
        network.eval()(torch.ones(1, 3))
    assert [module.training for module in network.modules()] == modes == [True, True, False, False, False]


def test_seeding_repeats_itself_and_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    draws = []
    for _ in range(2):
        with seeded(7):
            draws.append(torch.rand(5))
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_state_without_versions_fills_modules_that_ask_for_one() -> None:
    net, other = (torchvision.models.mnasnet0_5(weights=None, num_classes=2) for _ in range(2))
    state = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ValueError, match="version should be set"):
        net.load_state_dict(state)
    fill(net, state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


class Two(nn.Module):
    def forward(self, left: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
        return (left + y) * scale


class Open(nn.Module):
    def forward(self, **given: Tensor) -> Tensor:
        return given["image"]


IMAGE, LABEL = torch.ones(2, 1, 3, 3), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("model", "batch", "expected"),
    [
        (nn.ReLU(), {"image": IMAGE, "label": LABEL}, IMAGE),  # its argument is called `input`
        (nn.ReLU(), {"input": IMAGE, "label": LABEL}, {"input": IMAGE}),
        (nn.ReLU(), {"image": IMAGE, "id": LABEL}, IMAGE),
        (
            Two(),
            {"left": IMAGE, "y": IMAGE},
            {"left": IMAGE, "y": IMAGE},
        ),  # it cannot do without what looks as a label
        (Two(), {"left": IMAGE, "y": IMAGE, "label": LABEL}, {"left": IMAGE, "y": IMAGE}),
        (Open(), {"image": IMAGE, "label": LABEL}, {"image": IMAGE, "label": LABEL}),
        (nn.ReLU(), {"image": IMAGE, "x": IMAGE}, {"image": IMAGE, "x": IMAGE}),  # which one cannot be told
    ],
)
def test_of_a_mapping_the_network_gets_what_it_takes(
    model: nn.Module, batch: dict[str, Tensor], expected: Any
) -> None:
    found = as_taken(model, batch)
    assert type(found) is type(expected)
    if isinstance(found, dict):
        assert found.keys() == expected.keys() and all(found[key] is expected[key] for key in found)
    else:
        assert found is expected
