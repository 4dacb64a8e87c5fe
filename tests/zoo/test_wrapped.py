"""Models in a wrapper, or without numbers: cut correctly or refused by name."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from causal_prune.errors import InputError
from causal_prune.tracing.network_trace import trace
from tests.zoo.check import check_network
from tests.zoo.frame import Frame, image, randomised
from tests.zoo.layers import conv

pytestmark = pytest.mark.filterwarnings("ignore")


def plain() -> nn.Module:
    return randomised(Frame(conv()))


WRAPPED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "compile": (lambda: torch.compile(plain(), backend="eager"), "compile"),
    "DataParallel": (lambda: nn.DataParallel(plain()), "dataparallel"),
    "compiled part": (lambda: Frame(torch.compile(conv(), backend="eager")), "compile"),
    "meta": (lambda: plain().to("meta"), "meta"),
    "scripted": (lambda: torch.jit.script(plain()), "script"),
}


def refusal(model: nn.Module, example: torch.Tensor) -> str | None:
    """The text of the error, where the model is refused."""
    try:
        trace(model, example)
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.slow) if "compile" in k else k for k in WRAPPED]
)
def test_cut_correctly_or_refused_by_name(kind: str) -> None:
    make, word = WRAPPED[kind]
    text = refusal(make(), image())
    if text is None:
        with torch.compiler.set_stance(
            "force_eager"
        ):  # compiled code is kept by class, and would miss the hooks
            outcome = check_network(make, image())
        assert outcome.kind == "right", outcome.detail
    else:
        assert word in text.lower()
        assert "\n" not in text


def test_image_on_another_device_is_refused_or_moved() -> None:
    text = refusal(plain(), image().to("meta"))
    assert text is None or "device" in text or "meta" in text
