"""Latency: order, warm-up, repeats and percentiles by an injected clock; real files for the rest."""

import gc
import itertools
import math

import numpy as np
import pytest

from causal_prune.errors import InputError
from causal_prune.measure.latency import Latency, clock_tick, interleave, measure_latency, speedup


class FakeTime:
    """A clock that moves only when a fake network runs, plus one tick per reading."""

    def __init__(self, tick: int = 1) -> None:
        self.now, self.tick, self.calls = 0, tick, []

    def clock(self) -> int:
        self.now += self.tick
        return self.now

    def run(self, name: str, durations):
        durations = itertools.cycle(durations)

        def call() -> None:
            self.calls.append(name)
            self.now += next(durations)

        return call


def test_rounds_rotate_the_order_and_run_once_untimed_before_each_sample():
    time = FakeTime()
    runs = {name: time.run(name, [1_000_000]) for name in "abc"}

    samples = interleave(runs, seconds=0.04, clock=time.clock)

    warm_up = 3 * 10  # two windows of five runs for each
    rest = time.calls[warm_up:]
    visits = rest[::2]
    assert rest[::2] == rest[1::2]
    assert ["".join(visits[place : place + 3]) for place in range(0, 12, 3)] == ["abc", "bca", "cab", "abc"]
    assert {name: len(values) for name, values in samples.items()} == {"a": 30, "b": 30, "c": 30}
    assert samples["a"][0] == pytest.approx(1.0, rel=1e-5)


def test_samples_are_milliseconds_of_the_timed_run_alone():
    time = FakeTime()
    # ten warm-up runs, then an untimed slow run before each fast timed one
    durations = [2_000_000] * 10 + [9_000_000, 2_000_000] * 200
    samples = interleave({"net": time.run("net", durations)}, seconds=0.05, clock=time.clock)

    assert samples["net"] == pytest.approx([2.0] * 30, rel=1e-5)


@pytest.mark.parametrize(("seconds", "expected"), [(0.001, 30), (0.4, 200), (100.0, 1000)])
def test_number_of_samples_follows_the_time_within_its_limits(seconds, expected):
    time = FakeTime()

    samples = interleave({"net": time.run("net", [1_000_000])}, seconds=seconds, clock=time.clock)

    assert len(samples["net"]) == pytest.approx(expected, abs=1)


def test_runs_shorter_than_fifty_ticks_are_repeated_within_a_sample():
    time = FakeTime(tick=1000)
    samples = interleave({"net": time.run("net", [4000])}, seconds=0.001, clock=time.clock)

    measured = 4000 + 1000  # one reading of the clock is part of what the warm-up saw
    repeats = math.ceil(50 * 1000 / measured)
    settling = math.ceil(1e6 / measured)  # untimed, about a millisecond
    assert len(time.calls) - 10 == len(samples["net"]) * (settling + repeats)
    assert samples["net"][0] == pytest.approx((4000 * repeats + 1000) / repeats / 1e6)


def test_warm_up_goes_on_until_stable_and_ends_with_the_budget():
    settling, never = FakeTime(), FakeTime()
    falling = [int(1e6 * 2 ** (-place / 4)) for place in range(40)] + [1000] * 10_000
    interleave({"net": settling.run("net", falling)}, seconds=1.0, clock=settling.clock)
    growing = [int(1e6 * 1.3**place) for place in range(60)]
    interleave({"net": never.run("net", growing)}, seconds=0.1, clock=never.clock)

    assert settling.now > sum(falling[:40])
    spent = list(itertools.accumulate(growing))
    in_budget = next(place for place, total in enumerate(spent, start=1) if total >= 0.05e9)
    assert len(never.calls) == in_budget + 2 * 30


def test_clock_tick_is_the_smallest_step_seen():
    readings = itertools.chain([0, 700, 700, 700, 1000], itertools.count(2000, 500))

    assert clock_tick(lambda: next(readings)) == 300
    assert clock_tick() >= 1


def test_a_clock_that_stands_still_is_refused(monkeypatch):
    monkeypatch.setattr("causal_prune.measure.latency._MAX_READS", 1000)
    with pytest.raises(InputError, match="clock stands still"):
        clock_tick(lambda: 5)


def test_a_small_network_does_not_pay_for_the_large_one_before_it():
    """A cache that the large network fills, and that the small one needs ten runs to win back."""
    time, cold = FakeTime(), [0]
    large, small = time.run("large", [30_000_000]), time.run("small", [10_000])

    def large_fills_the_cache() -> None:
        large()
        cold[0] = 10

    def small_pays() -> None:
        small()
        time.now += 10_000 if cold[0] else 0
        cold[0] = max(0, cold[0] - 1)

    samples = interleave({"large": large_fills_the_cache, "small": small_pays}, seconds=1.0, clock=time.clock)

    assert samples["small"] == pytest.approx([0.01] * len(samples["small"]), rel=1e-3)


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_off_while_timing_and_restored(enabled):
    seen: list[bool] = []
    time = FakeTime()
    inner = time.run("net", [1_000_000])
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        interleave({"net": lambda: (seen.append(gc.isenabled()), inner())}, seconds=0.01, clock=time.clock)
        assert gc.isenabled() is enabled
        with pytest.raises(RuntimeError, match="broken on purpose"):
            interleave({"net": raise_on_purpose}, seconds=0.01, clock=time.clock)
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
    assert seen and not any(seen)


def raise_on_purpose() -> None:
    raise RuntimeError("broken on purpose")


def test_percentiles_by_sorting():
    values = [5.0, 1.0, 4.0, 2.0, 3.0, 9.0, 8.0, 7.0, 6.0, 100.0, 11.0]
    latency = Latency(tuple(values), 1, 1)

    def percentile(percent: float) -> float:
        position = (len(values) - 1) * percent / 100
        low, ordered = int(position), sorted(values)
        high = min(low + 1, len(values) - 1)
        return ordered[low] + (position - low) * (ordered[high] - ordered[low])

    assert latency.median == sorted(values)[5] == 6.0
    assert latency.p90 == pytest.approx(percentile(90))
    assert latency.p99 == pytest.approx(percentile(99))
    assert latency.iqr == pytest.approx(percentile(75) - percentile(25))


def test_speedup_is_above_one_when_the_other_is_faster():
    slow, fast = Latency((4.0, 6.0, 5.0), 1, 1), Latency((2.0, 2.5, 9.0), 1, 1)

    assert speedup(slow, fast) == 2.0
    assert speedup(fast, slow) == 0.5


def test_speedup_of_unlike_measurements_is_refused():
    with pytest.raises(InputError, match="1 threads, batch 1 and 2 threads, batch 1 cannot be compared"):
        speedup(Latency((4.0,), 1, 1), Latency((2.0,), 2, 1))


def test_files_are_measured_with_equally_many_samples(write_onnx):
    small, large = write_onnx("small.onnx"), write_onnx("large.onnx", ("batch", 300, 4000))

    found = measure_latency({"small": small, "large": large}, batch=2, seconds=0.02, threads=1)

    assert list(found) == ["small", "large"]
    assert len(found["small"].samples_ms) == len(found["large"].samples_ms) >= 30
    assert (found["small"].threads, found["small"].batch) == (1, 2)
    assert all(np.isfinite(found["small"].samples_ms)) and min(found["small"].samples_ms) > 0
    assert speedup(found["large"], found["small"]) > 1


def test_a_fixed_batch_is_used_or_refused(write_onnx):
    file = write_onnx(shape=(2, 3, 4))

    assert measure_latency({"net": file}, batch=2, seconds=0.01)["net"].batch == 2
    with pytest.raises(InputError, match=r"net\.onnx has a fixed batch of 2, but batch=1 is asked"):
        measure_latency({"net": file}, seconds=0.01)


def test_other_dynamic_dimensions_are_refused(write_onnx):
    with pytest.raises(InputError, match="only the first dimension may be dynamic"):
        measure_latency({"net": write_onnx(shape=("batch", 3, "width"))}, seconds=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads=0 must be at least 1"),
        ({"batch": 0}, "batch=0 must be at least 1"),
        ({"seconds": 0.0}, "seconds=0.0 must be a number greater than 0"),
        ({"seconds": math.nan}, "seconds=nan must be"),
    ],
)
def test_arguments_out_of_range_are_refused(write_onnx, options, message):
    with pytest.raises(InputError, match=message):
        measure_latency({"net": write_onnx()}, **options)


def test_no_files_and_missing_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="files is empty"):
        measure_latency({})
    with pytest.raises(InputError, match=r"absent\.onnx does not exist"):
        measure_latency({"net": tmp_path / "absent.onnx"})
