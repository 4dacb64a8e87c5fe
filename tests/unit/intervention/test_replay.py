"""Interventions on recordings against the same network run whole, with hooks that set what layers read."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from causal_prune.intervention.replay import Constant, Intervention, Recorder, Replay, Rerun
from tests.unit.drawn_weights import drawn


class Net(nn.Module):
    """Layers of every kind that reads; `calls` counts how often its code ran."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6)
        self.a, self.again = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.grouped, self.up = nn.Conv2d(6, 4, 2, groups=2), nn.ConvTranspose2d(4, 3, 2)
        self.hidden, self.head = nn.Linear(3 * 16, 5), nn.Linear(5, 3)
        self.idle = nn.Linear(5, 3)
        self.calls = 0

    def forward(self, x: Tensor, gain: float = 1.0) -> tuple[Tensor, str]:
        self.calls += 1
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.a(x))
        x = self.again(F.relu(self.again(input=x)))
        x = F.relu(self.up(F.relu(self.grouped(x)))).flatten(1)
        return self.head(F.relu(self.hidden(x))) * gain, "and something else"


READERS = ("stem", "a", "again", "grouped", "up", "hidden", "head")


@pytest.fixture
def net() -> Net:
    network = Net()
    drawn(network).requires_grad_(False)
    return network


def images(count: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(count, 2, 6, 6, generator=torch.Generator().manual_seed(seed))


def constant(*positions: int) -> Constant:
    """Channels that are set to 0.5, 1.0, ..."""
    return Constant(torch.tensor(positions), 0.5 * torch.arange(1.0, len(positions) + 1))


@torch.no_grad()
def literal(net: nn.Module, intervention: Intervention, *inputs: Any) -> Tensor:
    """The network's first output, with hooks that write the constants channel by channel."""
    with ExitStack() as stack:
        for name, held in intervention.items():
            layer = net.get_submodule(name)

            def hook(module: nn.Module, args: Any, kwargs: Any, held: Constant = held) -> Any:
                read = (args[0] if args else kwargs["input"]).clone()
                for position, value in zip(held.positions.tolist(), held.values.tolist(), strict=True):
                    read[:, position] = value
                return (read,), {}

            stack.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
        out: Tensor = net(*inputs)[0]
        return out


INTERVENTIONS: dict[str, Intervention] = {
    "the first layer": {"stem": constant(1)},
    "a branch alone": {"a": constant(0, 5)},
    "a layer that is called twice": {"again": constant(2)},
    "a grouped layer": {"grouped": constant(0, 4)},
    "a transposed layer": {"up": constant(3)},
    "features": {"hidden": constant(7, 8, 40)},
    "the last layer": {"head": constant(4)},
    "all readers of one stream": {"a": constant(1), "again": constant(1)},
    "one behind the other": {"stem": constant(0), "hidden": constant(0)},
    "everything that a layer reads": {"grouped": constant(0, 1, 2, 3, 4, 5)},
    "nothing": {},
}


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_a_subject_computes_what_the_network_with_hooks_does(net: Net, name: str) -> None:
    with torch.no_grad():
        recorded, whole = Recorder(net, READERS).subject(images()), Rerun(net, images())
    assert isinstance(recorded, Replay)
    expected, dense = literal(net, INTERVENTIONS[name], images()), literal(net, {}, images())
    for subject in (recorded, whole):
        for _ in range(2):  # the second time its plan is known
            with torch.no_grad():
                torch.testing.assert_close(subject.under(INTERVENTIONS[name]), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(subject.dense, dense)
    assert torch.allclose(expected, dense) is (name == "nothing")
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_values_take_the_type_of_what_is_read(net: Net) -> None:
    double = Constant(torch.tensor([1]), torch.tensor([0.5], dtype=torch.float64))
    with torch.no_grad():
        for subject in (Recorder(net, READERS).subject(images()), Rerun(net, images())):
            for layer in ("a", "head"):
                found = subject.under({layer: double})
                assert found.dtype == torch.float32
                torch.testing.assert_close(
                    found, literal(net, {layer: constant(1)}, images()), rtol=1e-4, atol=1e-5
                )


@torch.no_grad()
def test_batches_of_one_shape_share_a_recording(net: Net) -> None:
    recorder, ran = Recorder(net, READERS), []
    for batch in (images(3, 1), images(3, 2), images(2, 3), images(3, 4)):
        before = net.calls
        subject = recorder.subject(batch)
        ran.append(net.calls - before)
        expected = literal(net, {"a": constant(1)}, batch)
        torch.testing.assert_close(subject.under({"a": constant(1)}), expected, rtol=1e-4, atol=1e-5)
    assert ran == [2, 1, 2, 1], "once to record, once to compare"


@torch.no_grad()
def test_other_arguments_are_another_recording(net: Net) -> None:
    recorder = Recorder(net, READERS)
    one, two = (recorder.subject((images(), gain)) for gain in (1.0, 2.0))
    torch.testing.assert_close(two.dense, 2 * one.dense)
    named = recorder.subject({"x": images(), "gain": 2.0})
    assert all(isinstance(each, Replay) for each in (one, two, named))
    torch.testing.assert_close(named.under({"head": constant(0)}), 2 * one.under({"head": constant(0)}))


class Branching(Net):
    """What runs depends on the values."""

    def forward(self, x: Tensor, gain: float = 1.0) -> tuple[Tensor, str]:
        return super().forward(x, gain if float(x.sum()) > 0 else -gain)


class Remembering(Net):
    """Computes something else every second time; no operation shows it."""

    def forward(self, x: Tensor, gain: float = 1.0) -> tuple[Tensor, str]:
        return super().forward(x, gain + self.calls % 2)


@torch.no_grad()
@pytest.mark.parametrize(
    ("factory", "readers"), [(Branching, READERS), (Remembering, READERS), (Net, (*READERS, "idle"))]
)
def test_what_cannot_be_recorded_is_run_as_a_whole(
    factory: Callable[[], Net], readers: tuple[str, ...]
) -> None:
    network = factory()
    drawn(network).requires_grad_(False)
    subject = Recorder(network, readers).subject(images())
    assert isinstance(subject, Rerun)
    network.calls = 0
    found = subject.under({"a": constant(1, 3)})
    network.calls = 0
    torch.testing.assert_close(found, literal(network, {"a": constant(1, 3)}, images()))


class Counted(TorchDispatchMode):
    """Takes down every operation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
@pytest.mark.parametrize(
    ("layer", "convolutions", "products"),
    [("head", 0, 1), ("hidden", 0, 2), ("up", 1, 2), ("grouped", 2, 2), ("a", 5, 2), ("stem", 6, 2)],
)
def test_only_what_lies_behind_a_change_runs_again(
    net: Net, layer: str, convolutions: int, products: int
) -> None:
    subject = Recorder(net, READERS).subject(images())
    with Counted() as counted:
        subject.under({layer: constant(1)})
    assert sum("convolution" in name for name in counted.names) == convolutions
    assert sum("mm" in name for name in counted.names) == products
    with Counted() as nothing:
        assert subject.under({}) is subject.dense
    assert nothing.names == []


@torch.no_grad()
def test_the_first_convolution_is_corrected_in_the_changed_channels_alone(net: Net) -> None:
    seen: list[int] = []

    class Widths(Counted):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if "convolution" in str(func):
                seen.append(args[1].shape[1])
            return super().__torch_dispatch__(func, types, args, kwargs)

    subject = Recorder(net, READERS).subject(images())
    with Widths():
        subject.under({"a": constant(1, 4)})
    assert seen == [2, 6, 6, 3, 3], (
        "two channels of a, then whole layers; grouped and transposed ones know three"
    )


@torch.no_grad()
def test_what_is_kept_holds_at_least_the_images_and_every_weight(net: Net) -> None:
    subject = Recorder(net, READERS).subject(images())
    assert isinstance(subject, Replay)
    weights = sum(net.get_parameter(f"{name}.weight").nbytes for name in READERS)
    assert weights + images().nbytes + subject.dense.nbytes < subject.bytes
    larger = Recorder(net, READERS).subject(images(6))
    assert isinstance(larger, Replay) and larger.bytes > subject.bytes
