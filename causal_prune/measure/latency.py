"""Latency of ONNX files under ONNX Runtime: all files in one process, interleaved, raw samples kept."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from causal_prune.errors import InputError, first_line
from causal_prune.onnx_files import open_session, random_feed, signature
from causal_prune.progress import track

Clock = Callable[[], int]  # nanoseconds, never going back

MIN_SAMPLES = 30
MAX_SAMPLES = 1000
MIN_TICKS = 50  # a sample this long is known to 2 %
_MAX_READS = 10_000_000  # some seconds: no clock in use is that coarse
_SETTLE_NS = 1_000_000  # after a large network one run of a small one is not enough: it measured 1.6x slower
_WARM_WINDOW = 5
_WARM_TOLERANCE = 0.05
_WARM_SHARE = 0.5  # of `seconds`: a network that never settles still gets measured


@dataclass(frozen=True)
class Latency:
    """How long one network takes for one batch.

    Attributes:
        samples_ms: Milliseconds per run, in the order measured.
        threads: Threads inside an operator.
        batch: Images per run.
    """

    samples_ms: tuple[float, ...]
    threads: int
    batch: int

    @property
    def median(self) -> float:
        """Median, milliseconds."""
        return self._percentile(50)

    @property
    def p90(self) -> float:
        """90th percentile, milliseconds."""
        return self._percentile(90)

    @property
    def p99(self) -> float:
        """99th percentile, milliseconds; close to the maximum where there are fewer than 100 samples."""
        return self._percentile(99)

    @property
    def iqr(self) -> float:
        """Width of the middle half of the samples, milliseconds."""
        return self._percentile(75) - self._percentile(25)

    def _percentile(self, percent: float) -> float:
        return float(np.percentile(self.samples_ms, percent))


def measure_latency(
    files: Mapping[str, Path],
    *,
    threads: int = 1,
    batch: int = 1,
    seconds: float = 1.0,
    seed: int = 0,
    label: str = "latency",
) -> dict[str, Latency]:
    """Time ONNX files side by side, so that what disturbs the machine disturbs all of them alike.

    All sessions are open at once. After a warm-up until the times are stable, rounds follow: each times every
    file once, in an order that rotates by one place per round. Before each sample the file runs untimed,
    at least once and for about a millisecond, so that it does not pay for the caches that the file before it
    filled. Where a run is shorter than 50 ticks of the
    clock, a sample is the mean of several runs. Garbage collection is off meanwhile.

    Args:
        files: ONNX files by name, all with one input signature or each with its own.
        threads: Threads inside an operator, at least 1.
        batch: Images per run, at least 1; the size of the first input's first dimension.
        seconds: Time for each file, greater than 0; at least 30 samples are taken even if that takes longer, and
            at most 1000.
        seed: Seed of the random inputs.
        label: What the progress bar is called.

    Returns:
        A `Latency` per name, with equally many samples each.

    Raises:
        InputError: If a file cannot be opened or run, its batch is fixed at another size, another dimension is
            dynamic, or an argument is out of range.

    Cost:
        About `seconds` per file, and half as much again for the warm-up at most.
    """
    if not files:
        raise InputError("files is empty: give at least one ONNX file to time")
    for name, count in (("threads", threads), ("batch", batch)):
        if count < 1:
            raise InputError(f"{name}={count} must be at least 1")
    if not (math.isfinite(seconds) and seconds > 0):
        raise InputError(f"seconds={seconds} must be a number greater than 0")
    runs = {name: _runner(Path(path), threads, batch, seed) for name, path in files.items()}
    samples = interleave(runs, seconds=seconds, label=label)
    return {name: Latency(tuple(values), threads, batch) for name, values in samples.items()}


def speedup(reference: Latency, other: Latency) -> float:
    """How many times faster `other` is: the median of `reference` divided by the median of `other`.

    Args:
        reference: The network before.
        other: The network compared with it.

    Returns:
        Above 1: `other` is faster. 1: as fast. Below 1: slower.

    Raises:
        InputError: If the two were measured with different threads or batches.

    Example:
        >>> speedup(Latency((4.0,), 1, 1), Latency((2.0,), 1, 1))
        2.0
    """
    if (reference.threads, reference.batch) != (other.threads, other.batch):
        raise InputError(
            f"latencies of {reference.threads} threads, batch {reference.batch} and {other.threads} threads, "
            f"batch {other.batch} cannot be compared: measure both alike"
        )
    return reference.median / other.median


def interleave(
    runs: Mapping[str, Callable[[], Any]],
    *,
    seconds: float,
    clock: Clock = time.perf_counter_ns,
    label: str = "latency",
) -> dict[str, list[float]]:
    """Time functions in rounds, each round in an order rotated by one place.

    Args:
        runs: Functions by name.
        seconds: Time for each function, greater than 0.
        clock: Nanoseconds.
        label: What the progress bar is called.

    Returns:
        Milliseconds per call, by name: 30 to 1000 samples, equally many for each.
    """
    names = list(runs)
    tick = clock_tick(clock)
    with _no_garbage_collection():
        expected = {name: _warm_up(runs[name], int(seconds * _WARM_SHARE * 1e9), clock) for name in names}
        repeats = {name: max(1, math.ceil(MIN_TICKS * tick / expected[name])) for name in names}
        settling = {name: max(1, math.ceil(_SETTLE_NS / expected[name])) for name in names}
        round_ns = sum((settling[name] + repeats[name]) * expected[name] for name in names)
        rounds = min(MAX_SAMPLES, max(MIN_SAMPLES, int(seconds * 1e9 * len(names) / round_ns)))
        samples: dict[str, list[float]] = {name: [] for name in names}
        for number in track(range(rounds), label, unit="round"):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                samples[name].append(_sample(runs[name], settling[name], repeats[name], clock))
    return samples


def clock_tick(clock: Clock = time.perf_counter_ns) -> int:
    """The smallest step that a clock is seen to take, which includes the time of reading it.

    Args:
        clock: Nanoseconds.

    Returns:
        Nanoseconds, at least 1.

    Raises:
        InputError: If the clock stands still.
    """
    steps = []
    for _ in range(100):
        start, now, reads = clock(), clock(), 1
        while now == start:
            now, reads = clock(), reads + 1
            if reads > _MAX_READS:
                raise InputError("the clock stands still: latency cannot be measured on this machine")
        steps.append(now - start)
    return min(steps)


def _runner(path: Path, threads: int, batch: int, seed: int) -> Callable[[], Any]:
    session = open_session(path, threads=threads)
    inputs, _ = signature(session)
    fixed = inputs[0].shape[0] if inputs and inputs[0].shape else None
    if fixed not in (None, batch):
        raise InputError(
            f"{path} has a fixed batch of {fixed}, but batch={batch} is asked: export with a dynamic batch"
        )
    feed = random_feed(inputs, batch=batch, seed=seed)
    try:
        session.run(None, feed)
    except Exception as error:  # ONNX Runtime has one exception class per status and no common base
        raise InputError(f"{path} cannot run a batch of {batch}: {first_line(error)}") from error
    return lambda: session.run(None, feed)


def _warm_up(run: Callable[[], Any], budget_ns: int, clock: Clock) -> float:
    """Run until two windows of runs have the same median; the nanoseconds of the last window's."""
    times: list[int] = []
    begin = clock()
    while True:
        start = clock()
        run()
        end = clock()
        times.append(end - start)
        last = max(1.0, statistics.median(times[-_WARM_WINDOW:]))
        if len(times) >= 2 * _WARM_WINDOW:
            before = statistics.median(times[-2 * _WARM_WINDOW : -_WARM_WINDOW])
            if abs(last - before) <= _WARM_TOLERANCE * last:
                return last
        if len(times) >= 3 and end - begin >= budget_ns:
            return last


def _sample(run: Callable[[], Any], settling: int, repeats: int, clock: Clock) -> float:
    for _ in range(settling):
        run()
    start = clock()
    for _ in range(repeats):
        run()
    return (clock() - start) / repeats / 1e6


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
