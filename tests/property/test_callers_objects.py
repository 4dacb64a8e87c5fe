"""What belongs to the caller is as before after every public verb, also when the verb raises.

One network does all that a well-behaved one does not: it writes into its input, counts its calls in buffers also in
eval mode, and has modules in different modes, gradients and hooks of the caller's.
"""

import copy
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import causal_prune as cp
from causal_prune import explanation
from causal_prune.compensation import repair
from causal_prune.explanation import (
    activation_maximisation,
    drift,
    pcace_ranking,
    randomised,
    visualize_heatmap_on_input,
    visualize_top_filter_maps,
)
from causal_prune.explanation.map_drift import MAPPED
from causal_prune.importance.ablation import ablate
from causal_prune.importance.methods import METHODS
from causal_prune.measure import count_cost, evaluate

OTHERS = {
    "CausalPruneError", "CausalPruneWarning", "InputError", "ParityError", "TargetError", "Data", "Task",
    "FilterGraph", "FilterMoments", "FilterScores", "PruningPlan", "Compressed", "Options",
    "regression_task", "plan",  # take no network
}  # fmt: skip
"""Public names that run no network."""


class Rude(nn.Module):
    """A classifier that spoils its input and its buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.next, self.drop = nn.Conv2d(8, 8, 3, padding=1), nn.Dropout(0.5)
        self.head = nn.Linear(8, 4)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(x.mean((2, 3), keepdim=True)).mul_(0.5)
        self.calls += 1
        self.seen = self.seen * 0.9 + x.detach().abs().mean((0, 2, 3))
        x = torch.relu(self.norm(self.conv(x)))
        x = torch.relu(self.next(x))
        return self.head(self.drop(x.mean((2, 3))))


class Situation:
    """A network, a smaller one of it, and data, all the caller's."""

    def __init__(self) -> None:
        self.net = Rude()
        self.net.train()
        self.net.norm.eval()
        self.net.drop.eval()
        self.net(torch.randn(4, 3, 6, 6)).sum().backward()
        self.images, self.labels = torch.randn(40, 3, 6, 6), torch.arange(40) % 4
        self.batches = [(self.images, self.labels)]
        self.example = torch.randn(2, 3, 6, 6)
        clean = copy.deepcopy(self.net)
        self.graph = cp.trace(clean, self.example.clone())
        self.moments = cp.observe(clean, self.graph, [self.images.clone()])
        self.plan = cp.plan(self.graph, cp.score(self.graph, self.moments), keep_macs=0.6)
        self.small = cp.remove(clean, self.plan)
        handles = [self.net.head, self.small.head]
        self.seen: list[int] = []
        for module in handles:
            module.register_forward_hook(lambda *_: None)

    @property
    def tensors(self) -> Iterator[Tensor]:
        for net in (self.net, self.small):
            yield from net.parameters()
            yield from net.buffers()
        yield from (self.images, self.labels, self.example)

    def state(self) -> dict[str, Any]:
        modules = [module for net in (self.net, self.small) for module in net.modules()]
        return {
            "tensors": [tensor.detach().clone() for tensor in self.tensors],
            "same": [id(tensor) for tensor in self.tensors],
            "gradients": [t.grad if t.grad is None else t.grad.clone() for t in self.net.parameters()],
            "modes": [module.training for module in modules],
            "hooks": [
                (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in modules
            ],
            "names": [sorted(vars(module)) for module in modules],
            "rng": torch.get_rng_state(),
            "numpy": np.random.get_state()[1],
            "threads": torch.get_num_threads(),
            "dtype": torch.get_default_dtype(),
            "grad": torch.is_grad_enabled(),
            "inference": torch.is_inference_mode_enabled(),
        }


def data_of(s: Situation) -> cp.Data:
    pairs = [(image, int(label)) for image, label in zip(s.images, s.labels, strict=True)]
    return cp.Data(pairs, pairs, pairs, pairs, tuple("abcd"), "mine", "train")


Verb = Callable[[Situation, Any, Path], Any]
VERBS: dict[str, Verb] = {
    "trace": lambda s, batches, _: cp.trace(s.net, batches[0][0]),
    "observe": lambda s, batches, _: cp.observe(s.net, s.graph, batches),
    "remove": lambda s, *_: cp.remove(s.net, s.plan),
    "zero": lambda s, *_: cp.zero(s.net, s.plan),
    "compensate": lambda s, batches, _: cp.compensate(s.small, s.net, batches),
    "compensate batchnorm": lambda s, batches, _: cp.compensate(s.small, s.net, batches, method="batchnorm"),
    "compensate none": lambda s, batches, _: cp.compensate(s.small, s.net, batches, method="none"),
    "repair": lambda s, batches, _: repair(s.small, s.net, batches),
    "fine_tune": lambda s, batches, _: cp.fine_tune(s.small, batches, teacher=s.net, lr=1e-3),
    "export_onnx": lambda s, batches, path: cp.export_onnx(s.net, path / "net.onnx", batches[0][0]),
    "evaluate": lambda s, batches, _: evaluate({"net": s.net, "small": s.small}, batches),
    "count_cost": lambda s, batches, _: count_cost(s.net, batches[0][0]),
    "ablate": lambda s, batches, _: ablate(s.net, s.graph, batches),
    "load": lambda s, *_: cp.load("no-such-folder", lambda: s.net),
    "compress": lambda s, batches, _: cp.compress(
        s.net, data_of(s), keep_macs=0.6, epochs=0, arms=("causal",), threads=torch.get_num_threads()
    ),
    "frontier": lambda s, batches, _: cp.frontier(
        s.net, data_of(s), keep=(0.6,), evidence="none", threads=torch.get_num_threads()
    ),
    "CausalCNNExplainer": lambda s, batches, _: cp.CausalCNNExplainer(s.net).collect_data(batches),
    **{
        f"explanation {name}": lambda s, batches, _, name=name: MAPPED[name](s.net, batches[0][0][:6])
        for name in MAPPED
    },
    "explanation activation_maximisation": lambda s, batches, _: activation_maximisation(
        s.net, batches[0][0][:6], steps=2
    ),
    "explanation drift": lambda s, batches, _: drift(s.net, s.small, batches[0][0][:6]),
    "explanation randomised": lambda s, batches, _: randomised(s.net, images=batches[0][0][:6]),
    "explanation pcace_ranking": lambda s, batches, _: pcace_ranking(s.net, batches[0][0], 1, permutations=2),
    "explanation visualize_heatmap_on_input": lambda s, batches, _: visualize_heatmap_on_input(
        s.net, batches[0][0][:2], [0.1] * 8
    ),
    "explanation visualize_top_filter_maps": lambda s, batches, _: visualize_top_filter_maps(
        s.net, batches[0][0][:2], [0.1] * 8
    ),
    **{
        f"score {method}": lambda s, batches, _, method=method: cp.score(
            s.graph, s.moments, method=method, model=s.net, labelled=batches
        )
        for method in METHODS
    },
}  # fmt: skip


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, list):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def test_every_verb_that_explains_is_in_the_table() -> None:
    told = {name.split()[1] for name in VERBS if name.startswith("explanation ")}
    verbs = {
        name
        for name in explanation.__all__
        if callable(each := getattr(explanation, name))
        and next(iter(inspect.signature(each).parameters.values()), None) is not None
        and {"images"} <= {*inspect.signature(each).parameters}
    }
    assert {each for each in verbs if each not in ("Mapped", "mapped", "mapped_anew")} <= told


def test_every_public_name_is_a_verb_of_the_table_or_runs_no_network() -> None:
    named = {name.split()[0] for name in VERBS}
    named -= {"explanation"}
    assert {*cp.__all__} - OTHERS - named - {"__version__"} == set()


@pytest.mark.parametrize("around", ["nothing", "no_grad", "inference_mode", "autocast", "float64"])
@pytest.mark.parametrize("name", VERBS)
@pytest.mark.filterwarnings("ignore")
def test_a_verb_leaves_all_that_is_the_callers_as_it_was(name: str, around: str, tmp_path: Path) -> None:
    if around not in ("nothing", "inference_mode") and name.startswith(("score", "compensate ", "repair")):
        pytest.skip("as for those above, which come the same way")
    with torch.random.fork_rng():
        torch.manual_seed(4)
        s = Situation()
        before = s.state()
        modes = {
            "nothing": torch.enable_grad(), "no_grad": torch.no_grad(), "inference_mode": torch.inference_mode(),
            "autocast": torch.autocast("cpu", dtype=torch.bfloat16), "float64": torch.enable_grad(),
        }  # fmt: skip
        if around == "float64":
            torch.set_default_dtype(torch.float64)
            before["dtype"] = torch.float64
        try:
            with modes[around]:
                if name == "load":
                    with pytest.raises(cp.InputError, match="no-such-folder"):
                        VERBS[name](s, s.batches, tmp_path)
                else:
                    VERBS[name](s, s.batches, tmp_path)
            after = s.state()
        finally:
            torch.set_default_dtype(torch.float32)
    assert [key for key in before if not equal(before[key], after[key])] == []


def reads_no_images(name: str) -> bool:
    words = name.split()
    if words[0] == "score":
        return "images" not in METHODS[words[1]].needs
    return name in ("remove", "zero", "compensate none")


BAD = [(torch.full((4, 5, 6, 6), 0.5), torch.zeros(4, dtype=torch.int64))]
"""Images with channels that the network does not take."""


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.filterwarnings("ignore")
def test_a_verb_that_raises_does_so_in_one_line_and_leaves_all_as_it_was(name: str, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        s = Situation()
        before = s.state()
        images = s.images
        s.images, s.labels = BAD[0]  # for `compress`, which makes its batches itself
        if reads_no_images(name):
            VERBS[name](s, [*BAD], tmp_path)
        else:
            with pytest.raises(cp.CausalPruneError, match=r"^[^\n]+$"):
                VERBS[name](s, [*BAD], tmp_path)
        s.images, s.labels = images, torch.arange(40) % 4
        after = s.state()
    after["same"] = before["same"]
    assert [key for key in before if not equal(before[key], after[key])] == []
