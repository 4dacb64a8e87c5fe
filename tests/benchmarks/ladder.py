"""Where the accuracy comes from: ladders of two networks at two sizes, without training; `make bench-ladder`.

    python -m tests.benchmarks.ladder [--nets resnet20,resnet56] [--shares 0.5,0.3] [--images 512] [--views N]

CIFAR-10's 10,000 test images, the public checkpoints, 512 training images without labels to calibrate on, the views of
each that a run takes unasked, widths that are not aligned. MACs are counted in the networks that were cut. Needs
../shared.
"""

import argparse
import time
from pathlib import Path

import torch

from causal_prune.comparison.arms import run_arms
from causal_prune.comparison.ladder import ladder_of
from causal_prune.comparison.options import Rivals
from causal_prune.comparison.rivals import rivals_of
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.pipeline import Options, choose, recipe_of
from causal_prune.report import Ladder
from causal_prune.sources import load_data, load_model, load_weights

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
NORM = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@undisturbed
def ladder(net: str, share: float, images: int, views: int | None) -> tuple[Ladder, int]:
    """The ladder of one network, and the MACs of the dense one."""
    data = load_data(f"npz:{SHARED / 'data' / 'cifar10.npz'}", calibration_images=images, **NORM)
    model = load_model(f"{ROOT / 'examples' / 'cifar_resnet.py'}:{net}")
    load_weights(model, SHARED / "models" / f"cifar10_{net}.safetensors")
    options = Options(keep_macs=share, align=1, views=views, random_seeds=1)
    recipe = recipe_of(model, data, options)
    chosen = choose(recipe, options)
    rivals = rivals_of(chosen.graph, chosen.moments, options.part(Rivals), options.seed)
    outcome = run_arms(recipe, chosen.graph, chosen.plan, options.importance, rivals)
    found = ladder_of(recipe, chosen.graph, chosen.moments, chosen.scores, chosen.plan, outcome, rivals)
    assert found is not None, "something was removed that was not silent"
    return found, outcome.dense.cost.macs


def main() -> int:
    """Print a table for each network and size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", default="resnet20,resnet56")
    parser.add_argument("--shares", default="0.5,0.3")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--views", type=int)
    asked = parser.parse_args()
    if not SHARED.is_dir():
        print(f"{SHARED} is absent")
        return 0
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {asked.images} images")
    for net in asked.nets.split(","):
        for share in map(float, asked.shares.split(",")):
            start = time.perf_counter()
            found, dense = ladder(net, share, asked.images, asked.views)
            print(f"\n{net}, keep_macs={share}, {time.perf_counter() - start:.0f} s")
            print("| units | widths | MACs kept | cut | batch norm | least squares |")
            print("| --- | --- | ---: | ---: | ---: | ---: |")
            for rung in found.rungs:
                stations = " | ".join(f"{rung.at(name):.2%}" for name in found.stations)
                print(f"| {rung.units} | {rung.widths} | {rung.macs / dense:.4f} | {stations} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
