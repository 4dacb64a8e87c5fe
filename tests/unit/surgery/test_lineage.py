"""A cut network knows what it was cut from, however it is copied, wrapped or stored, and however often it was cut."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models.feature_extraction import create_feature_extractor

import causal_prune as cp
from causal_prune.surgery.lineage import RECORD, Stage, composed, inner_of, stages_of
from causal_prune.surgery.rebuilding import bundle_weights

pytestmark = pytest.mark.filterwarnings("ignore")


class Net(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.body = nn.Sequential(
            nn.Conv2d(width, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, width, 3, padding=1)
        )
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, width)[:, None, None])
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x))) * self.scale
        return self.head(torch.relu(x + self.body(x)).mean((2, 3)))


def made(width: int = 16, seed: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(width).eval()


def images(seed: int = 1, count: int = 96) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def planned(net: nn.Module, share: float, **options: Any) -> cp.PruningPlan:
    graph = cp.trace(net, images()[:2])
    return cp.plan(graph, cp.score(graph, cp.observe(net, graph, [images()])), keep_macs=share, **options)


def smaller(net: nn.Module, share: float) -> nn.Module:
    return cp.remove(net, planned(net, share))


def error(net: nn.Module, dense: nn.Module) -> float:
    with torch.no_grad():
        a, b = net(images(2)), dense(images(2))
    return float((a - b).norm() / b.norm())


def stored(net: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    found: nn.Module = torch.load(buffer, weights_only=False)
    return found


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class Holder(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


PASSED_ON: dict[str, Callable[[nn.Module], nn.Module]] = {
    "itself": lambda net: net,
    "copy.copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "torch.save": stored,
    "to": lambda net: net.to(torch.float64).to("cpu").float(),
    "DataParallel": nn.DataParallel,
    "AveragedModel": AveragedModel,
    "copy of AveragedModel": lambda net: copy.deepcopy(AveragedModel(net)),
    "symbolic_trace": fx.symbolic_trace,
    "deepcopy of symbolic_trace": lambda net: copy.deepcopy(fx.symbolic_trace(net)),
    "fine-tuned": lambda net: cp.fine_tune(net, [(images()[:8], torch.arange(8) % 5)], lr=1e-5),
}


@pytest.mark.parametrize("how", PASSED_ON)
def test_the_record_survives(how: str) -> None:
    dense = made()
    cut = smaller(dense, 0.5)
    passed = PASSED_ON[how](cut)
    assert stages_of(inner_of(passed)) == stages_of(cut) != ()
    repaired = cp.compensate(passed, dense, [images()])
    assert (
        type(repaired).__name__ == type(passed).__name__ or how == "symbolic_trace"
    )  # torch renames its copies
    plain = cp.compensate(cut, dense, [images()])
    if how != "fine-tuned":
        assert error(repaired, dense) == pytest.approx(error(plain, dense), rel=1e-4)
    assert error(repaired, dense) < 0.9 * error(cut, dense)


@pytest.mark.usefixtures("process_group")
def test_the_record_survives_distributed_training() -> None:
    dense = made()
    cut = smaller(dense, 0.5)
    wrapped = nn.parallel.DistributedDataParallel(cut)
    repaired = cp.compensate(wrapped, dense, [images()])
    assert error(repaired, dense) < 0.9 * error(cut, dense)


@pytest.mark.parametrize(
    "traced", [fx.symbolic_trace, lambda net: create_feature_extractor(net, {"head": "scores"}), Holder]
)
def test_graph_modules_and_networks_in_networks_are_cut_and_repaired(traced: Any) -> None:
    dense = traced(made()).eval()
    plan = planned(dense, 0.5)
    cut = copy.deepcopy(cp.remove(dense, plan)).eval()  # a copy of a feature extractor is in training mode
    repaired = cp.compensate(cut, dense, [images()])

    def outputs(net: nn.Module) -> Tensor:
        found = net(images(2))
        return found["scores"] if isinstance(found, dict) else found

    with torch.no_grad():
        errors = [float((outputs(net) - outputs(dense)).norm()) for net in (cut, repaired)]
    assert errors[1] < 0.9 * errors[0]


def test_a_network_can_be_given_its_plan_back() -> None:
    dense = made()
    plan = planned(dense, 0.5)
    cut = cp.remove(dense, plan)
    rebuilt = made()
    forgotten = cp.remove(rebuilt, plan)
    forgotten.load_state_dict(cut.state_dict())
    for module in forgotten.modules():
        vars(module).pop("_causal_prune_cuts", None)
    with pytest.raises(cp.InputError, match=r"^compensate: \S+ was cut and it is not known how: .*plan=\)$"):
        cp.compensate(forgotten, dense, [images()])
    found = cp.compensate(forgotten, dense, [images()], plan=plan)
    assert error(found, dense) == error(cp.compensate(cut, dense, [images()]), dense)


def test_cuts_compose_and_any_ancestor_repairs() -> None:
    dense = made()
    first = smaller(dense, 0.7)
    second = smaller(first, 0.6)
    third = smaller(second, 0.6)
    assert [stage.removes for stage in stages_of(third)] == [True] * 3
    whole = composed(stages_of(third))
    direct = cp.remove(dense, cp.PruningPlan(planned(dense, 0.5).target, {}, whole))
    for name, tensor in direct.state_dict().items():
        assert torch.equal(tensor, third.state_dict()[name]), name
    for ancestor in (dense, first, second):
        repaired = cp.compensate(third, ancestor, [images()])
        assert error(repaired, ancestor) < 0.9 * error(third, ancestor)
    once = cp.compensate(direct, dense, [images()])
    assert error(cp.compensate(third, dense, [images()]), dense) == pytest.approx(
        error(once, dense), rel=1e-6
    )


def test_what_is_no_ancestor_is_refused_by_name() -> None:
    dense = made()
    second = smaller(smaller(dense, 0.7), 0.7)
    wider = made(width=20)
    for method in ("least_squares", "batchnorm"):
        with pytest.raises(
            cp.InputError, match=r"^compensate: dense is none of .*: stem has 20 filters and 3 inputs"
        ):
            cp.compensate(second, wider, [images()], method=method)
    with pytest.raises(cp.InputError, match="stem has no such layer there, and had 16 filters and 3 inputs$"):
        cp.compensate(second, nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), [images()])


def test_a_plan_of_a_network_cut_twice_rebuilds_from_the_first_factory_bit_for_bit(tmp_path: Path) -> None:
    dense = made()
    first = smaller(dense, 0.7)
    plan = planned(cp.compensate(first, dense, [images()]), 0.6)
    second = cp.compensate(cp.remove(first, plan), dense, [images()])
    plan.save(tmp_path / "plan.json")
    bundle_weights(second, tmp_path / "model.safetensors")
    assert cp.PruningPlan.load(tmp_path / "plan.json") == plan and len(plan.earlier) == 1
    found = cp.load(tmp_path, lambda: made(seed=9))
    assert torch.equal(found(images(2)), second(images(2)))
    again = smaller(found, 0.6)
    assert len(stages_of(again)) == 3
    assert error(cp.compensate(again, dense, [images()]), dense) < error(again, dense)
    assert [tensor.shape for tensor in cp.remove(made(), plan).parameters()] == [
        t.shape for t in second.parameters()
    ]


def test_zero_first_and_remove_later() -> None:
    dense = made()
    plan = planned(dense, 0.5)
    zeroed = cp.zero(dense, plan)
    graph = cp.trace(zeroed, images()[:2])
    scores = cp.score(graph, cp.observe(zeroed, graph, [images()]))
    gone = cp.remove(zeroed, cp.plan(graph, scores, remove_silent=True))
    assert error(gone, zeroed) < 1e-5
    assert stages_of(gone)[0] == Stage(plan.cuts, removes=False)
    assert error(cp.compensate(gone, dense, [images()]), dense) < error(gone, dense)


def test_state_dicts_do_not_carry_the_record_and_something_else_under_its_name_is_none() -> None:
    net = made()
    keys = list(net.state_dict())
    cut = smaller(net, 0.6)
    assert list(cut.state_dict()) == keys and stages_of(net) == ()
    vars(net)[RECORD] = "a user's"
    assert stages_of(net) == ()
    held = Holder(cut)
    assert {name for stage in stages_of(held) for name in stage.cuts.layers} == {
        f"net.{name}" for stage in stages_of(cut) for name in stage.cuts.layers
    }
