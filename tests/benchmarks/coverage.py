"""What can be cut: tables over torchvision's and timm's networks, and the count over the patterns.

python -m tests.benchmarks.coverage                 # everything
python -m tests.benchmarks.coverage resnet18 vgg11  # some networks
python -m tests.benchmarks.coverage patterns        # the patterns alone
python -m tests.benchmarks.coverage timm            # timm's networks alone
python -m tests.benchmarks.coverage --no-onnx
"""

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch

from tests.zoo.check import Outcome, check_network
from tests.zoo.patterns import PATTERNS
from tests.zoo.torchvision_nets import NETS, Net, with_statistics

HEADER = (
    f"{'network':30} {'trace':>7} {'groups':>6} {'frozen':>7} {'verdict':11} {'error':>7} {'train':5} "
    f"{'onnx':8} {'total':>7} {'tp, proved':16} {'tp as it is':14}"
)


def judged(net: Net, *, onnx: bool) -> Outcome:
    """Cut one network in half and judge it.

    Args:
        net: The network.
        onnx: Whether to export it as well.

    Returns:
        The outcome.
    """
    return check_network(net.make, net.example, prepare=with_statistics(net), onnx=onnx)


def by_torch_pruning(make: Any, example: Any, **options: Any) -> tuple[str, str]:
    """What becomes of a network that torch-pruning's graph cuts.

    Args:
        make: Makes the network.
        example: What to trace it with.
        **options: Of `check_network`.

    Returns:
        Through us, with trial cuts: the verdict and the share of filters that is frozen; and as it is, without them:
        "right", "wrong" where it raises nothing and computes something else, or "raises".
    """
    proved, plain = (
        check_network(make, example, dependencies="torch-pruning", prove=prove, **options)
        for prove in (True, False)
    )
    told = f"{verdict(proved)} {proved.frozen_share:.0%}" if proved.kind == "right" else verdict(proved)
    return told, "raises" if plain.kind == "raised" else plain.kind


def verdict(outcome: Outcome) -> str:
    """The word for the table.

    Args:
        outcome: Of one network.

    Returns:
        The kind, or "approximate".
    """
    return "approximate" if outcome.kind == "right" and outcome.approximate else outcome.kind


def row(name: str, outcome: Outcome, seconds: float, theirs: tuple[str, str]) -> str:
    """One line of the table; what needs words follows below it.

    Args:
        name: Of the network.
        outcome: What became of it.
        seconds: Of the whole check.
        theirs: From `by_torch_pruning`.

    Returns:
        The line or lines.
    """
    onnx = outcome.onnx if len(outcome.onnx) <= 8 else "no"
    notes = [text for text in (outcome.detail, outcome.onnx if onnx == "no" else "") if text]
    line = (
        f"{name:30} {outcome.seconds:6.2f}s {outcome.groups:6} {outcome.frozen_share:7.1%} {verdict(outcome):11} "
        f"{outcome.error:7.0e} {'yes' if outcome.trained else 'no':5} {onnx or '-':8} {seconds:6.1f}s "
        f"{theirs[0]:16} {theirs[1]:14}"
    )
    return "\n".join([line, *(f"    {note}" for note in notes)])


def print_networks(nets: Iterable[Net], names: list[str], *, onnx: bool) -> None:
    """A table over networks.

    Args:
        nets: Of one library.
        names: Which of them; all where empty.
        onnx: Whether to export them.
    """
    print(HEADER)
    outcomes = {}
    counted: Counter[str] = Counter()
    for net in nets:
        if not names or net.name in names:
            start = time.perf_counter()
            outcomes[net.name] = judged(net, onnx=onnx)
            seconds = time.perf_counter() - start
            theirs = by_torch_pruning(net.make, net.example, prepare=with_statistics(net))
            counted.update([f"through us {theirs[0].split()[0]}", f"as it is {theirs[1]}"])
            print(row(net.name, outcomes[net.name], seconds, theirs), flush=True)
    counts = Counter(map(verdict, outcomes.values()))
    slowest = max(outcomes, key=lambda name: outcomes[name].seconds)
    whole = sum(outcome.frozen_share == 0 for outcome in outcomes.values())
    print(
        f"{len(outcomes)} networks: {_listed(counts)}; nothing frozen but the output in {whole}; "
        f"slowest trace {slowest} {outcomes[slowest].seconds:.1f} s"
    )
    print(f"torch-pruning: {', '.join(f'{count} {kind}' for kind, count in sorted(counted.items()))}")


def print_patterns() -> None:
    """The count over the patterns, and those that are neither right nor frozen."""
    outcomes = {p.name: check_network(p.make, p.example, any_batch=p.any_batch) for p in PATTERNS}
    for name, outcome in outcomes.items():
        if outcome.kind in ("wrong", "raised"):
            print(f"{outcome.kind:7} {name:30} {outcome.detail}")
    lacking = [p.name for p in PATTERNS if set(p.must) - outcomes[p.name].cuttable]
    slowest = max(outcomes, key=lambda name: outcomes[name].seconds)
    print(f"{len(PATTERNS)} patterns: {_listed(Counter(outcome.kind for outcome in outcomes.values()))}")
    print(f"frozen where it must be prunable: {len(lacking)}{': ' if lacking else ''}{', '.join(lacking)}")
    print(f"slowest trace: {slowest} {outcomes[slowest].seconds:.2f} s")
    counted: Counter[str] = Counter()
    for p in PATTERNS:
        proved, plain = by_torch_pruning(p.make, p.example, any_batch=p.any_batch)
        counted.update([f"through us {proved.split()[0]}", f"as it is {plain}"])
    print(f"torch-pruning: {', '.join(f'{count} {kind}' for kind, count in sorted(counted.items()))}")


def _listed(counts: Counter[str]) -> str:
    kinds = ("right", "approximate", "frozen", "wrong", "raised")
    return ", ".join(f"{counts[kind]} {kind}" for kind in kinds)


def _of_timm() -> tuple[Net, ...]:
    from tests.zoo.timm_nets import TIMM  # takes a second

    return TIMM


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help="networks, 'timm' or 'patterns'; everything where left out")
    parser.add_argument("--no-onnx", action="store_true", help="leave the export out")
    options = parser.parse_args()
    of_timm = _of_timm() if not options.names or {"timm"} & {*options.names} else ()
    known = {net.name for net in NETS} | {"patterns", "timm"}
    unknown = sorted(set(options.names) - known)
    if unknown:
        parser.error(f"no network {unknown[0]!r}: choose from {', '.join(sorted(known))}")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    chosen = [name for name in options.names if name not in ("patterns", "timm")]
    if chosen or not options.names:
        print_networks(NETS, chosen, onnx=not options.no_onnx)
    if of_timm:
        print_networks(of_timm, [], onnx=False)
    if not options.names or "patterns" in options.names:
        print_patterns()


if __name__ == "__main__":
    main()
