"""Several processes, each with a share of the images, against one that has them all."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from causal_prune.errors import CausalPruneError
from causal_prune.importance.scoring import score
from causal_prune.observation.filter_moments import observe
from causal_prune.tracing.network_trace import trace

SHARES = {"uneven": [(0, 13), (13, 40)], "one empty": [(0, 40), (40, 40)], "first empty": [(0, 0), (0, 40)]}


def network() -> tuple[nn.Module, Tensor]:
    """A residual network in float64, so that only the order of sums can differ, and images that drift."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm = nn.Conv2d(2, 5, 1), nn.BatchNorm2d(5)
            self.inner, self.outer = nn.Conv2d(5, 6, 3, padding=1), nn.Conv2d(6, 5, 1)
            self.hidden, self.head = nn.Linear(5 * 16, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.norm(self.stem(x)))
            x = torch.relu(x + self.outer(torch.relu(self.inner(x))))
            return self.head(torch.relu(self.hidden(x.flatten(1))))

    with torch.random.fork_rng():
        torch.manual_seed(5)
        net = Net().eval().double()
        images = torch.randn(40, 2, 4, 4).double() + torch.linspace(-2, 2, 40).reshape(-1, 1, 1, 1)
    return net, images


def found(images: Tensor, max_memory: int | None) -> dict[str, Tensor]:
    net, example = network()
    graph = trace(net, example[:1])
    moments = observe(net, graph, images.split(7), max_memory=max_memory)
    values = {"images": torch.tensor(moments.images)}
    for name, read in moments.reads.items():
        values[f"read {name}"] = read.covariance
        values[f"rows {name}"] = torch.tensor(read.rows)
        if read.shape is not None:
            values[f"shape {name}"] = read.shape
    for name, state in moments.states.items():
        values[f"gain {name}"], values[f"variance {name}"] = state.gain, state.variance
    for method in ("structural", "documented") if moments.features else ("structural",):
        scores = score(graph, moments, method=method)
        values |= {f"{method} {name}": each for name, each in scores.groups.items()}
        values |= {f"curve {name}": each.unexplained for name, each in scores.curves.items()}
    values |= {f"effects {name}": each for name, each in moments.effects.items()}
    return values


def work(rank: int, folder: str, start: int, stop: int, max_memory: int | None) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        torch.save(found(network()[1][start:stop], max_memory), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def run_two(target: object, folder: Path, arguments: list[tuple[object, ...]]) -> list[int]:
    context = mp.get_context("spawn")
    processes = [
        context.Process(target=target, args=(rank, str(folder), *arguments[rank])) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


@pytest.mark.filterwarnings(
    "ignore:.* is read as channels", "ignore:the documented score", "ignore:40 images cannot"
)
@pytest.mark.parametrize(
    ("share", "max_memory"),
    [
        ("uneven", None),
        pytest.param("one empty", None, marks=pytest.mark.slow),
        pytest.param("first empty", 40_000, marks=pytest.mark.slow),
    ],
)
def test_two_processes_find_what_one_finds(tmp_path: Path, share: str, max_memory: int | None) -> None:
    expected = found(network()[1], max_memory)
    assert run_two(work, tmp_path, [(*each, max_memory) for each in SHARES[share]]) == [0, 0]
    for rank in (0, 1):
        other = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert other.keys() == expected.keys() and int(other["images"]) == 40
        for name, values in expected.items():
            scale = float(values.abs().max())
            torch.testing.assert_close(other[name], values, rtol=1e-9, atol=1e-9 * scale, msg=name)


def fail(rank: int, folder: str, bad: bool) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    net, images = network()
    images = images.clone()
    images[3] = torch.nan if bad else 0.0
    try:
        observe(net, trace(net, images[:1]), images.split(7))
    except CausalPruneError as error:
        Path(folder, f"{rank}.txt").write_text(str(error))
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_a_process_that_fails_keeps_nobody_waiting(tmp_path: Path) -> None:
    assert run_two(fail, tmp_path, [(True,), (False,)]) == [0, 0]
    texts = [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)]
    assert texts[0] == "calibration: the output of stem is NaN or infinite in batch 1"
    assert texts[1] == "1 of 2 processes failed while they observed their images: see theirs"
