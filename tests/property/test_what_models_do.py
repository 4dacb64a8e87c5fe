"""What models return and do: integers, boxes, lists of images, modes, precisions, loaders; the whole flow of each."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

import causal_prune as cp
from causal_prune.measure import evaluate

pytestmark = pytest.mark.filterwarnings("ignore")


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.head = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 6, 1)

    def maps(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.norm(self.a(x)).relu()).relu())

    def forward(self, x: Tensor) -> Any:
        return self.maps(x).mean((2, 3))


class Labels(Base):
    def forward(self, x: Tensor) -> Any:
        return self.maps(x).argmax(1)


class Best(Base):
    def forward(self, x: Tensor) -> Any:
        return self.maps(x).mean((2, 3)).topk(2).indices


class Inference(Base):
    @torch.inference_mode()
    def forward(self, x: Tensor) -> Any:
        return super().forward(x)


class Mixed(Base):
    def forward(self, x: Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x).float()


class WithoutGradients(Base):
    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            return super().forward(x)


class Boxes(Base):
    """A detector that ends in the suppression of boxes."""

    def forward(self, x: Tensor) -> Any:
        found = []
        for maps in self.maps(x):
            corners = maps[:4].flatten(1).T * 10
            boxes = torch.cat((corners[:, :2], corners[:, :2] + corners[:, 2:].abs() + 1), 1)
            scores = maps[4].flatten()
            keep = torchvision.ops.nms(boxes, scores, 0.3)
            keep = keep[scores[keep] > 0]
            found.append({"boxes": boxes[keep], "scores": scores[keep]})
        return found


class Detector(Boxes):
    """Takes images of any sizes, as torchvision's do."""

    def forward(self, images: list[Tensor], targets: Any = None) -> Any:  # type: ignore[override]
        return super().forward(torch.stack([F.interpolate(each[None], size=(16, 16))[0] for each in images]))


class Timed(Base):
    def forward(self, time: Tensor, x: Tensor) -> Any:  # type: ignore[override]
        return super().forward(x * time)


class OwnTensor(Tensor):
    """A class of the user's own."""


X = torch.randn(96, 3, 16, 16, generator=torch.Generator().manual_seed(4))
LIST = [*X[:48]]
SIZES = [image[:, : 10 + k % 6] for k, image in enumerate(X)]
NET: Callable[[], nn.Module] = Base
CASES: dict[str, tuple[Callable[[], nn.Module], Any, list[Any]]] = {
    "argmax": (Labels, X[:2], [(X, 0)]),
    "topk": (Best, X[:2], [(X, 0)]),
    "inference mode inside": (Inference, X[:2], [(X, 0)]),
    "autocast inside": (Mixed, X[:2], [(X, 0)]),
    "no gradients inside": (WithoutGradients, X[:2], [(X, 0)]),
    "suppression": (Boxes, X[:2], [(X, 0)]),
    "list of images": (Detector, LIST[:2], [(LIST, 0), ([*X[48:]], 0)]),
    "images of many sizes": (Detector, SIZES[:3], [(SIZES[:48], 0), (tuple(SIZES[48:]), 0)]),
    "a scalar first": (Timed, (torch.tensor(0.5), X[:2]), [((torch.tensor(0.5), X), 0)]),
    "a class of tensors": (Base, X[:2].as_subclass(OwnTensor), [(X.as_subclass(OwnTensor), 0)]),
    "float64": (lambda: Base().double(), X[:2].double(), [(X.double(), 0)]),
    "float16": (lambda: Base().half(), X[:2].half(), [(X.half(), 0)]),
    "bfloat16": (lambda: Base().bfloat16(), X[:2].bfloat16(), [(X.bfloat16(), 0)]),
}  # fmt: skip
NO_FILE = {"suppression": "batch", "list of images": "list of images", "images of many sizes": "list of images",
           "float64": r"float64, for which ONNX Runtime lacks operations: export model\.float\(\)",
           "bfloat16": "bfloat16"}  # fmt: skip


def made(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return make().eval()


@pytest.mark.parametrize("around", ["nothing", "inference mode"])
@pytest.mark.parametrize("name", CASES)
def test_the_whole_flow(name: str, around: str, tmp_path: Path) -> None:
    make, example, calibration = CASES[name]
    net = made(make)
    with torch.inference_mode(around == "inference mode"):
        graph = cp.trace(net, example)
        assert {"a", "b"} <= {group.name for group in graph.prunable}
        moments = cp.observe(net, graph, calibration)
        assert moments.images == 96
        small = cp.remove(net, cp.plan(graph, cp.score(graph, moments), keep_macs=0.5))
        better = cp.compensate(small, net, calibration)
        state = (
            small.state_dict()
        )  # where whole batches must stay together, batch norms are re-estimated instead
        assert any(not torch.equal(value, state[key]) for key, value in better.state_dict().items())
        cp.compensate(small, net, calibration, method="batchnorm")
        if name in NO_FILE:
            with pytest.raises(cp.InputError, match=NO_FILE[name]):
                cp.export_onnx(better, tmp_path / "net.onnx", example)
        else:
            assert cp.export_onnx(better, tmp_path / "net.onnx", example).passed


def test_effects_on_outputs_that_have_no_derivative_are_left_out_with_a_note() -> None:
    net = made(Labels)
    notes = cp.observe(net, cp.trace(net, X[:2]), [X]).notes
    assert any("no output has a derivative" in note for note in notes)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda net: setattr(net, "extra", nn.LazyLinear(3)),
            r"lazy layers .* \(extra\.weight\): run it on an image",
        ),
        (
            lambda net: setattr(net, "head", torch.jit.script(net.head)),
            r"holds a TorchScript module \(head\), whose code cannot be cut",
        ),
    ],
)
def test_what_cannot_be_traced_is_named(change: Callable[[nn.Module], None], text: str) -> None:
    net = made(NET)
    change(net)
    with pytest.raises(cp.InputError, match=f"^the model .*{text}"):
        cp.trace(net, X[:2])


def test_a_quantised_network_comes_too_late() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.ReLU(), nn.Linear(16, 4))
    small = torch.ao.quantization.quantize_dynamic(net, {nn.Linear})
    graph = cp.trace(small, X[:2])
    scores = cp.score(graph, cp.observe(small, graph, [X]), method="magnitude")
    with pytest.raises(cp.TargetError, match="a quantised network is pruned before it is quantised$"):
        cp.plan(graph, scores, keep_macs=0.5)


class Endless(IterableDataset[Any]):
    """Knows no length."""

    def __iter__(self) -> Iterator[Any]:
        return iter([(image, k % 5) for k, image in enumerate(X)])


def test_loaders_without_a_length_serve_every_verb() -> None:
    net, batches = made(NET), DataLoader(Endless(), batch_size=32)
    graph = cp.trace(net, X[:2])
    moments = cp.observe(net, graph, batches)
    assert moments.images == 96
    scores = cp.score(graph, moments, method="taylor", model=net, labelled=batches)
    small = cp.remove(net, cp.plan(graph, scores, keep_macs=0.5))
    tuned = cp.fine_tune(cp.compensate(small, net, batches), batches, teacher=net, lr=1e-4)
    assert evaluate({"tuned": tuned}, batches)["tuned"].value >= 0


class Upsampling(Base):
    """A transposed convolution that is told how large its output is to be."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(12, 8, 3, stride=2, padding=1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Any:
        y = F.max_pool2d(self.b(self.norm(self.a(x)).relu()).relu(), 2)
        return self.last(self.up(y, output_size=x.shape[2:]).relu()).mean((2, 3))


def test_a_layer_that_is_given_more_than_its_input_is_run_again_with_it() -> None:
    net = made(Upsampling)
    graph = cp.trace(net, X[:2])
    small = cp.remove(net, cp.plan(graph, cp.score(graph, cp.observe(net, graph, [X])), keep_macs=0.5))
    better = cp.compensate(small, net, [X[:64], X[64:, :, :14, :14]])
    with torch.no_grad():
        errors = [float((each(X) - net(X)).norm()) for each in (small, better)]
    assert errors[1] < 0.7 * errors[0]
