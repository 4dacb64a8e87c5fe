"""How far every importance ranks the units of a group as ablation does, on the CIFAR-10 ResNets of ../shared.

    make agreement                                     # ResNet-20 and ResNet-56
    python tests/benchmarks/agreement.py resnet20 --images 1000

The judge, ablation, reads the first half of the test images; the methods that need labels read 1,000 of the other half.
The checkpoints were trained on all 50,000 training images, which are memorised and say little about which unit matters.
A single unit moves the loss by less than its standard error over 1,000 images: the line on the judge with itself says
how much of what it finds is more than noise. Nothing is chosen by these tables. Statistics without labels come from
training images. --units N ablates at most N units of a group. With --partial FOLDER an interrupted ablation goes on
where it stopped. --once does not score two halves of the data as well: a third of the time.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from causal_prune.comparison.agreement import agreement, median_agreement, spearman_by_group, spread_units
from causal_prune.importance.ablation import Ablation, ablate, joined
from causal_prune.importance.methods import METHODS
from causal_prune.importance.scoring import score
from causal_prune.observation.filter_moments import FilterMoments, observe
from causal_prune.progress import shown
from causal_prune.tracing.filter_graph import FilterGraph
from causal_prune.tracing.network_trace import trace

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 128
Data = tuple[FilterMoments, list[tuple[Tensor, Tensor]]]


def main() -> int:
    """Print one table per network.

    Returns:
        The exit code.
    """
    options = _options()
    if not SHARED.is_dir():
        print(f"there is no {SHARED}: nothing to measure")
        return 0
    with shown(sys.stderr.isatty()):
        for name in options.networks:
            print("\n".join(table(name, options)), flush=True)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="agreement of the importances with ablation")
    parser.add_argument("networks", nargs="*", default=["resnet20", "resnet56"])
    parser.add_argument("--images", type=int, default=5000, help="held-out images of the judge")
    parser.add_argument(
        "--labelled", type=int, default=1000, help="held-out images of the methods with labels"
    )
    parser.add_argument("--calibration", type=int, default=2048, help="training images for the statistics")
    parser.add_argument("--units", type=int, default=10**9, help="units of a group that are ablated, at most")
    parser.add_argument("--partial", type=Path, help="folder for the state of the ablation")
    parser.add_argument("--once", action="store_true", help="do not score two halves of the data as well")
    parser.add_argument("--methods", nargs="*", default=[name for name in METHODS if name != "ablation"])
    return parser.parse_args()


def table(name: str, options: argparse.Namespace) -> list[str]:
    """Measure one network.

    Args:
        name: resnet20 or resnet56.
        options: Of the command line.

    Returns:
        The lines of its table.
    """
    model = network(name)
    with np.load(SHARED / "data" / "cifar10.npz") as file:
        train = spread(file["train_images"], file["train_labels"], options.calibration)
        half = len(file["test_labels"]) // 2
        judging = spread(file["test_images"][:half], file["test_labels"][:half], options.images)
        labelled = spread(file["test_images"][half:], file["test_labels"][half:], options.labelled)
    graph = trace(model, judging[0][0][:2])
    begun = time.perf_counter()
    middle = len(judging) // 2
    chosen = spread_units({group.name: group.size for group in graph.prunable}, options.units)
    halves = [
        ablate(
            model,
            graph,
            half,
            units=chosen,
            partial=options.partial / f"{name}-{k}.npz" if options.partial else None,
        )
        for k, half in enumerate((judging[:middle], judging[middle:]))
    ]
    judge = joined(*halves)
    took = time.perf_counter() - begun
    own = median_agreement(spearman_by_group(halves[0].rise, halves[1].rise))
    units = sum(len(each) for each in judge.units.values())
    lines = [
        f"{name}: {units} units in {len(graph.prunable)} groups, ablated on {judge.images} held-out test images",
        f"  dense loss {judge.loss:.4f} nats; ablation took {took / plain(model, judging):.0f} forward passes",
        f"  the judge with itself on two halves of its images:{_rho(own)}",
        "  method              median   least  groups   of two halves of the data  seconds",
    ]
    middle, centre = len(train) // 2, max(1, len(labelled) // 2)
    data = [
        (observe(model, graph, images), pairs)
        for images, pairs in (
            (train, labelled),
            (train[:middle], labelled[:centre]),
            (train[middle:], labelled[centre:]),
        )[: 1 if options.once else 3]
    ]
    return lines + [row(method, model, graph, data, judge) for method in options.methods]


def row(method: str, model: nn.Module, graph: FilterGraph, data: list[Data], judge: Ablation) -> str:
    """Measure one method; `data` are all, and perhaps two halves; the seconds are those of all that is scored."""
    begun = time.perf_counter()
    whole, *halves = (
        score(graph, moments, method=method, model=model, labelled=labelled) for moments, labelled in data
    )
    took = time.perf_counter() - begun
    stable = median_agreement(spearman_by_group(*(half.groups for half in halves))) if halves else None
    found = agreement(whole, judge)
    defined = [rho for rho in found.spearman_by_group.values() if rho is not None]
    least = min(defined, default=None)
    return f"  {method:<18} {_rho(found.median)} {_rho(least)}  {len(defined):>6}   {_rho(stable):>26}  {took:>6.1f}"


def _rho(value: float | None) -> str:
    return "   none" if value is None else f"{value:+7.2f}"


def plain(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Seconds of one forward pass over some batches."""
    begun = time.perf_counter()
    with torch.no_grad():
        for images, _ in batches:
            model(images)
    return time.perf_counter() - begun


def network(name: str) -> nn.Module:
    """A pretrained network of ../shared."""
    sys.path.insert(0, str(ROOT / "examples"))
    import cifar_resnet

    model = getattr(cifar_resnet, name)()
    model.load_state_dict(load_file(SHARED / "models" / f"cifar10_{name}.safetensors"))
    return model.eval()


def spread(images: np.ndarray, labels: np.ndarray, count: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of images spread evenly over a split, normalised."""
    chosen = np.arange(min(count, len(labels))) * len(labels) // min(count, len(labels))
    pixels = torch.from_numpy(images[chosen]).permute(0, 3, 1, 2).float() / 255
    pixels = (pixels - torch.tensor(MEAN).reshape(3, 1, 1)) / torch.tensor(STD).reshape(3, 1, 1)
    classes = torch.from_numpy(labels[chosen]).long()
    return list(zip(pixels.split(BATCH), classes.split(BATCH), strict=True))


if __name__ == "__main__":
    sys.exit(main())
