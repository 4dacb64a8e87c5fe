"""Print the table of speed and memory of the causal engine: `make engine-table`.

`python -m tests.benchmarks.causal_engine resnet50 512` prints the row of another network of torchvision and another
number of images.

Everything that is compared runs in one process, one after the other in turns; ratios of medians are printed.
"""

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import numpy as np
import torch
import torchvision
from sklearn.linear_model import LinearRegression
from torch import Tensor, nn

import causal_prune as cp
from causal_prune.importance.documented import _coefficients
from causal_prune.observation.filter_norms import FeatureMoments
from causal_prune.observation.gathering import Gathering, Moments

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
IMAGES, PARENTS, CHILDREN = 10_000, 512, 512
FITTED = 8
"""Children that scikit-learn fits; its time for all of them is this many times shorter."""


def seconds(*tasks: Callable[[], object], rounds: int) -> list[float]:
    """Median time of each task, run in turns."""
    taken: list[list[float]] = [[] for _ in tasks]
    for _ in range(rounds):
        for task, times in zip(tasks, taken, strict=True):
            start = perf_counter()
            task()
            times.append(perf_counter() - start)
    return [median(times) for times in taken]


def documented() -> str:
    """One multi-output solve against one regression of scikit-learn per child."""
    rng = np.random.default_rng(0)
    x = np.abs(rng.normal(size=(IMAGES, PARENTS)) @ rng.normal(size=(PARENTS, PARENTS)) / 20 + 30)
    y = x @ rng.normal(size=(PARENTS, CHILDREN)) / 20 + rng.normal(size=(IMAGES, CHILDREN))
    net = nn.Sequential(nn.Conv2d(1, PARENTS, 1), nn.Conv2d(PARENTS, CHILDREN, 1), nn.Conv2d(CHILDREN, 1, 1))
    graph = cp.trace(net, torch.zeros(1, 1, 1, 1), prove=False)
    rows = torch.from_numpy(np.concatenate([x, y], axis=1))
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        gathering = Gathering(1, 1, PARENTS + CHILDREN, torch.device("cpu"))
        for batch in rows.split(500):
            gathering.add(batch[None, :, None].clone())
        whole = gathering.result()
        flat = Moments(whole.count, whole.mean[0], whole.scatter[0])
        joint = FeatureMoments(("0", "1"), flat, torch.arange(PARENTS + CHILDREN))
        found["ours"] = _coefficients(graph, joint, ["0"], "1").numpy()

    def theirs() -> None:
        fits = [LinearRegression().fit(x, y[:, child]).coef_ for child in range(FITTED)]
        found["theirs"] = np.stack(fits, axis=1)

    ours_s, theirs_s = seconds(ours, theirs, rounds=3)
    faster = theirs_s * CHILDREN / FITTED / ours_s
    error = np.abs(found["ours"][:, :FITTED] - found["theirs"]).max()
    return (
        f"| documented score, {IMAGES:,} images x {PARENTS} parents x {CHILDREN} children, against scikit-learn "
        f"({FITTED} children fitted, times {CHILDREN // FITTED}) | {faster:,.0f} times faster, coefficients equal to "
        f"{error:.0e} | 100 times, 1e-6 |"
    )


def speed() -> str:
    """Observe and score against the forward pass over the same images."""
    sys.path.insert(0, str(ROOT / "examples"))
    from cifar_resnet import resnet56
    from safetensors.torch import load_file

    net = resnet56().eval()
    net.load_state_dict(load_file(SHARED / "models" / "cifar10_resnet56.safetensors"))
    with np.load(SHARED / "data" / "cifar10.npz") as file:
        images = torch.from_numpy(file["train_images"][:2048]).permute(0, 3, 1, 2).float() / 255
    images = (images - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / 0.225
    graph = cp.trace(net, images[:1])
    batches = images.split(128)
    shares: dict[str, float] = {}

    def forward() -> None:
        with torch.no_grad():
            for batch in batches:
                net(batch)

    def engine() -> None:
        start = perf_counter()
        moments = cp.observe(net, graph, batches)
        shares["observe"] = perf_counter() - start
        cp.score(graph, moments)
        shares["score"] = perf_counter() - start - shares["observe"]

    forward()
    forward_s, engine_s = seconds(forward, engine, rounds=3)
    return (
        f"| observe and score, ResNet-56, 2,048 images, against the forward pass ({forward_s:.1f} s) | "
        f"{engine_s / forward_s:.1f} times its time (last round: observe {shares['observe']:.1f} s, score "
        f"{shares['score']:.1f} s) | 6 times |"
    )


def drawn(images: int) -> Iterator[Tensor]:
    """Batches that exist one at a time."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(images // 100):
        yield torch.randn(100, 3, 16, 16, generator=generator)


def observe_many(images: int) -> None:
    """Observe a small network in a process of its own; prints the peak of its memory in kB."""
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(),
        nn.Linear(3200, 10),
    )  # fmt: skip
    cp.observe(net, cp.trace(net, torch.zeros(1, 3, 16, 16)), drawn(images))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def memory() -> str:
    """Peak memory for ten times the images."""
    command = [sys.executable, "-m", "tests.benchmarks.causal_engine"]
    few, many = (
        int(subprocess.run([*command, str(n)], capture_output=True, check=True, text=True, cwd=ROOT).stdout)
        for n in (4_000, 40_000)
    )
    return (
        f"| peak memory of observe, 40,000 images against 4,000 ({few / 1000:,.0f} MB) | {many / few:.3f} times | "
        "1.05 times |"
    )


def wide(name: str, count: int) -> str:
    """Seconds per step for a network of ImageNet's size with weights and images at random, at half its MACs."""
    torch.manual_seed(0)
    net = getattr(torchvision.models, name)(weights=None)
    images = smooth(count)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # of statistics that fit, as in a trained network
            module.momentum = None  # type: ignore[assignment]  # the mean of all batches
            nn.init.uniform_(module.weight, 0.2, 1.0)
            nn.init.normal_(module.bias, 0.0, 0.2)
    batches = list(images.split(12))
    with torch.no_grad():
        for batch in batches[:6]:
            net(batch)
    net.eval()
    taken: dict[str, tuple[float, float]] = {}

    @contextmanager
    def step(what: str) -> Iterator[None]:
        wall, cpu = perf_counter(), process_time()
        yield
        taken[what] = perf_counter() - wall, process_time() - cpu

    with torch.no_grad(), step("forward"):
        for batch in batches:
            net(batch)
    graph = cp.trace(net, images[:2])
    with step("observe"):
        moments = cp.observe(net, graph, batches)
    with step("score"):
        scores = cp.score(graph, moments)
    small = cp.remove(net, cp.plan(graph, scores, keep_macs=0.5))
    with step("repair"):
        cp.compensate(small, net, batches)
    told = ", ".join(f"{what} {wall:.1f} s ({cpu:.0f} CPU s)" for what, (wall, cpu) in taken.items())
    passes = sum(wall for what, (wall, _) in taken.items() if what != "forward") / taken["forward"][0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return f"| {name}, 224 pixels, {count} images | {told}; {passes:.0f} forward passes, {peak:.1f} GB at its peak |  |"


def smooth(count: int) -> Tensor:
    """Noise that is alike at neighbouring places, as images are."""
    coarse = torch.randn(count, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(coarse, size=(224, 224), mode="bicubic")


if __name__ == "__main__":
    if len(sys.argv) == 2:
        observe_many(int(sys.argv[1]))
        sys.exit()
    if len(sys.argv) > 2:
        print(wide(sys.argv[1], int(sys.argv[2])))
        sys.exit()
    print(f"threads: {torch.get_num_threads()}, torch {torch.__version__}\n")
    print("| what | measured | must hold |\n| --- | --- | --- |")
    print(memory(), flush=True)
    print(documented(), flush=True)
    if SHARED.is_dir():
        print(speed(), flush=True)
    else:
        print(f"| ResNet-56 | skipped: {SHARED.name} is not there | 6 times |")
    for images in ("12", "128"):  # each in a process of its own, whose peak it is
        command = [sys.executable, "-m", "tests.benchmarks.causal_engine", "resnet34", images]
        subprocess.run(command, check=True, cwd=ROOT)
