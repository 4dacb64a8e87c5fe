"""Patterns of other people's networks: what public bug reports and the networks of practitioners held."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo.frame import Frame, Pattern, block

X = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(5))


@dataclass
class Answer:
    """As detectors and language models return."""

    scores: Tensor
    features: Any = None


class Returning(nn.Module):
    """A network whose outputs are packed."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net, self.kind = Frame(block(8, 8)), kind

    def forward(self, x: Tensor) -> Any:
        scores = self.net(x)
        match self.kind:
            case "dataclass":
                return Answer(scores, {"norm": scores.norm(dim=1)})
            case "object":
                return SimpleNamespace(fields={"scores": [scores]}, size=(3, 4))
            case "integers":
                return (scores * 1000).round().long()
            case _:
                return torch.topk(scores, 2).indices, scores.argmax(1)


OUTPUTS = tuple(
    Pattern(
        f"outputs in {kind}",
        lambda kind=kind: Returning(kind),
        X,
        ("net.stem.0", "net.before.0", "net.after.0"),
    )
    for kind in ("dataclass", "object", "integers", "places")
)

OTHERS: tuple[Pattern, ...] = OUTPUTS
