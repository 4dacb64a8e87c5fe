"""Half the multiply-accumulates and no training: accuracy per arm and stage, time in dense passes, and memory.

    python -m tests.benchmarks.compensation [--nets resnet20,resnet56,mobilenet_v2_half,vgg16_half] [--shares 0.5]
        [--arms causal,random,magnitude]

It needs the pretrained networks and CIFAR-10 of `../shared`. Calibration: 2,048 training images without labels; the
test split is read once per arm. Widths are those of `plan` as it stands, not aligned; --align does as `causal-prune
run` does. Arms share the causal arm's widths and the compensation.
"""

import argparse
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean, median, stdev
from typing import Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import causal_prune as cp
from causal_prune.importance.scores import FilterScores
from causal_prune.measure.quality import evaluate
from causal_prune.measure.statistics import mcnemar_exact, two_way_difference, wilson_interval
from causal_prune.planning.unit_choice import plan_like
from causal_prune.surgery.pruning_plan import PruningPlan

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
IMAGES, BATCH, SEEDS = 2048, 128, 5
Batches = list[tuple[Tensor, Tensor]]


def network(name: str) -> nn.Module:
    """One of the networks of the table, with its weights."""
    sys.path.insert(0, str(ROOT / "examples"))
    if name.startswith("resnet"):
        import cifar_resnet

        net: nn.Module = getattr(cifar_resnet, name)()
        net.load_state_dict(load_file(SHARED / "models" / f"cifar10_{name}.safetensors"))
    else:
        import cifar_vgg_mobilenet

        net = getattr(cifar_vgg_mobilenet, name)()
        weights = ROOT / "examples" / "weights" / f"cifar10_{name}.safetensors"
        if not weights.is_file():
            sys.exit(
                f"{weights} is missing: python examples/cifar_vgg_mobilenet.py {name} "
                f"../shared/data/cifar10.npz --epochs 8 --out {weights.relative_to(ROOT)}"
            )
        net.load_state_dict(load_file(weights))
    return net.eval()


def batches(images: np.ndarray, labels: np.ndarray, size: int) -> Batches:
    """Normalised images in batches."""
    centre = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
    spread = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
    pixels = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - centre) / spread
    return list(zip(pixels.split(size), torch.from_numpy(labels).long().split(size), strict=True))


def plans(
    graph: cp.FilterGraph,
    moments: cp.FilterMoments,
    scores: FilterScores,
    share: float,
    arms: str,
    align: Literal["auto"] | int,
) -> Iterator[tuple[str, PruningPlan]]:
    """The causal plan and those of its rivals, at its widths."""
    causal = cp.plan(graph, scores, keep_macs=share, align=align)
    yield "causal", causal
    rivals: list[tuple[str, FilterScores]] = []
    if "random" in arms:
        rivals += [("random", cp.score(graph, moments, method="random", seed=k)) for k in range(SEEDS)]
    if "magnitude" in arms:
        rivals.append(("magnitude", cp.score(graph, moments, method="magnitude")))
    for name, theirs in rivals:
        yield name, plan_like(graph, theirs, causal)


def table(
    name: str,
    shares: list[float],
    arms: str,
    align: Literal["auto"] | int,
    calibration: Batches,
    test: Batches,
) -> None:
    """Print the rows of one network."""
    net = network(name)
    dense_pass = median(_pass(net, calibration) for _ in range(3))
    start = time.perf_counter()
    graph = cp.trace(net, calibration[0][0][:2])
    traced = time.perf_counter() - start
    start = time.perf_counter()
    moments = cp.observe(net, graph, calibration)
    scores = cp.score(graph, moments)
    scored = time.perf_counter() - start
    dense = evaluate({"dense": net}, test)["dense"]
    print(
        f"\n{name}: dense {dense.value:.2%} of {dense.total:,}; one dense pass over {IMAGES:,} images ",
        end="",
    )
    print(f"{dense_pass:.1f} s; trace {traced:.1f} s; observe and score {scored / dense_pass:.1f} passes")
    print(
        "| keep MACs | arm | cut | batch norm | compensated | 95 % interval | compensation, passes | all, passes "
        "| all, seconds |"
    )
    print("| ---: | --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |")
    for share in shares:
        found: dict[str, list[Mapping[str, object]]] = {}
        for arm, chosen in plans(graph, moments, scores, share, arms, align):
            cut = cp.remove(net, chosen)
            start = time.perf_counter()
            repaired = cp.compensate(cut, net, calibration)
            seconds = time.perf_counter() - start
            models = {"end": repaired}
            if (
                arm != "random" or "random" not in found
            ):  # the stages before the end of one random arm say enough
                cheap = cp.compensate(cut, net, calibration, method="batchnorm")
                models |= {"cut": cut, "batchnorm": cheap}
            stages = evaluate(models, test)
            end = stages["end"]
            before = [f"{stages[key].value:.2%}" if key in stages else "" for key in ("cut", "batchnorm")]
            low, high = wilson_interval(end.correct, end.total)
            found.setdefault(arm, []).append({"value": end.value, "hits": end.merits})
            print(
                f"| {chosen.target.achieved:.4f} | {arm} | {before[0]} | {before[1]} | {end.value:.2%} | "
                f"{low:.2%} to {high:.2%} | "
                f"{seconds / dense_pass:.1f} | {(scored + seconds) / dense_pass:.1f} | {scored + seconds:.0f} |",
                flush=True,
            )
        _verdicts(found)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of the process so far: {peak:.2f} GiB")


def _pass(net: nn.Module, calibration: Batches) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        for images, _ in calibration:
            net(images)
    return time.perf_counter() - start


def _verdicts(found: Mapping[str, list[Mapping[str, object]]]) -> None:
    causal = found["causal"][0]
    for arm, results in found.items():
        if arm == "causal":
            continue
        values = [float(result["value"]) for result in results]  # type: ignore[arg-type]
        difference = two_way_difference(causal["hits"], [result["hits"] for result in results])  # type: ignore[arg-type]
        p = [mcnemar_exact(causal["hits"], result["hits"]) for result in results]  # type: ignore[arg-type]
        spread = f" ± {stdev(values):.2%}" if len(values) > 1 else ""
        bounds = difference.ci95
        interval = f", 95 % over images and seeds {bounds[0]:.2%} to {bounds[1]:.2%}" if bounds else ""
        print(
            f"causal against {arm} ({mean(values):.2%}{spread}): {difference.mean:+.2%}{interval}; "
            f"McNemar p {max(p):.2g} at most"
        )


def main() -> None:
    """Parse, load, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", default="resnet20,resnet56")
    parser.add_argument("--shares", default="0.5")
    parser.add_argument("--arms", default="causal,random,magnitude")
    parser.add_argument("--align", action="store_true", help="widths as `causal-prune run` aligns them")
    parser.add_argument(
        "--validate", action="store_true", help="read 5,000 training images, not the test split"
    )
    options = parser.parse_args()
    if not SHARED.is_dir():
        sys.exit("this benchmark needs ../shared (CIFAR-10 and the pretrained networks)")
    arrays = np.load(SHARED / "data" / "cifar10.npz")
    order = np.random.RandomState(0).permutation(len(arrays["train_images"]))
    chosen = order[:IMAGES]
    calibration = batches(arrays["train_images"][chosen], arrays["train_labels"][chosen], BATCH)
    if options.validate:
        held = order[-5000:]
        test = batches(arrays["train_images"][held], arrays["train_labels"][held], 250)
    else:
        test = batches(arrays["test_images"], arrays["test_labels"], 250)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, seed 0")
    for name in options.nets.split(","):
        shares = [float(share) for share in options.shares.split(",")]
        table(name, shares, options.arms, "auto" if options.align else 1, calibration, test)


if __name__ == "__main__":
    main()
