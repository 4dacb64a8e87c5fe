"""Modes around a call, and inside a network, do nothing to what is computed; and they are as before afterwards."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from causal_prune.network.ambient_modes import lifting_here, plain_modes, undisturbed


def modes() -> tuple[bool, bool, bool]:
    return torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()


class Modal(nn.Module):
    """Computes under inference mode and autocast of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    @torch.inference_mode()
    def inner(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.inner(x)


@pytest.mark.parametrize("fails", [False, True])
def test_modes_around_a_verb_are_off_inside_and_as_before_afterwards(fails: bool) -> None:
    @undisturbed
    def verb() -> tuple[bool, bool, bool]:
        if fails:
            raise ValueError("here")
        return modes()

    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        before = modes()
        if fails:
            with pytest.raises(ValueError, match="here"):
                verb()
        else:
            assert verb() == (False, False, True)
        assert modes() == before == (True, True, False)
    assert modes() == (False, False, True)


def test_modes_inside_a_network_are_lifted() -> None:
    net, x = Modal(), torch.randn(2, 3)
    assert net(x).is_inference() and net(x).dtype == torch.bfloat16
    enter = torch.inference_mode.__enter__
    with plain_modes(), plain_modes():
        out = net(x)
    assert out.dtype == torch.float32 and out.requires_grad and not out.is_inference()
    assert net(x).is_inference() and torch.inference_mode.__enter__ is enter


def test_no_grad_stays_what_it_is() -> None:
    with plain_modes(), torch.no_grad():
        assert not torch.is_grad_enabled()


def test_other_threads_keep_their_modes_and_helpers_may_lift_them() -> None:
    found: dict[str, Any] = {}

    def other(name: str) -> None:
        with torch.inference_mode():
            found[name] = torch.is_inference_mode_enabled()
        if name == "helper":
            with lifting_here(), torch.inference_mode():
                found["lifted"] = torch.is_inference_mode_enabled()

    with plain_modes():
        for name in ("stranger", "helper"):
            thread = threading.Thread(target=other, args=(name,))
            thread.start()
            thread.join()
    assert found == {"stranger": True, "helper": True, "lifted": False}


def test_a_context_entered_before_is_left_as_it_was_entered() -> None:
    context = torch.inference_mode()
    context.__enter__()
    with plain_modes():
        assert not torch.is_inference_mode_enabled()
    context.__exit__(None, None, None)
    assert not torch.is_inference_mode_enabled()
