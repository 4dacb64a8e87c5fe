"""Numbers and sentences of the report: one place for units and directions."""

from causal_prune.report.report import Arm, Report
from causal_prune.report.yardstick import NONE, Yardstick

_TARGETS = {
    "keep_macs": ("keep {} of the MACs", "MACs kept {}"),
    "keep_params": ("keep {} of the parameters", "parameters kept {}"),
    "keep_latency": ("keep {} of the median latency", "median latency kept {}"),
    "remove_filters": ("remove {} of the filters that can be cut", "filters removed {}"),
    "remove_silent": ("remove the {} of the filters that are silent", "filters removed {}"),
    "max_drop": ("lose at most {} of validation {}", "{} of validation {} lost"),
}


def percent(share: float | None, digits: int = 2) -> str:
    """Write a share as a percentage.

    Args:
        share: 0..1, or None.
        digits: Digits after the point.

    Returns:
        For example "97.50 %"; a dash for None.
    """
    return NONE if share is None else f"{100 * share:.{digits}f} %"


def correlation(rho: float, digits: int = 2) -> str:
    """Write a rank correlation.

    Args:
        rho: -1..1.
        digits: Digits after the point.

    Returns:
        For example "+0.48" or "−0.02".
    """
    return f"{rho:+.{digits}f}".replace("-", "−")


def quantity(number: float | None) -> str:
    """Write a count with three digits and a decimal prefix.

    Args:
        number: 0 or more, or None.

    Returns:
        For example "3.42 M", "812"; a dash for None.
    """
    if number is None:
        return NONE
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= limit * 0.9995:
            scaled = number / limit
            return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f}{unit}"
    return f"{number:.0f}"


def milliseconds(value: float | None) -> str:
    """Write a time with three significant digits.

    Args:
        value: Milliseconds, or None.

    Returns:
        For example "0.342", "12.3", "1250"; a dash for None.
    """
    if value is None:
        return NONE
    return f"{value:.{3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0}f}"


def probability(p: float | None) -> str:
    """Write a p value.

    Args:
        p: 0..1, or None.

    Returns:
        For example "0.031", "< 0.0001"; a dash for None.
    """
    if p is None:
        return NONE
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def p_told(value: float) -> str:
    """Write a p value as it stands in a sentence.

    Args:
        value: 0..1.

    Returns:
        For example "p = 0.031", "p < 0.0001".
    """
    return f"p = {probability(value)}".replace("= <", "<")


def pace(speedup: float | None) -> str:
    """Say how fast a network is compared with the dense one.

    Args:
        speedup: Median time of the dense network / median time of this one, or None.

    Returns:
        For example "1.71x faster", "1.12x slower", "as fast (1.00x)"; "speed not measured" for None.
    """
    if speedup is None:
        return "speed not measured"
    if f"{speedup:.2f}" == "1.00":
        return "as fast (1.00x)"
    return f"{speedup:.2f}x faster" if speedup > 1 else f"{1 / speedup:.2f}x slower"


def plural(number: int, noun: str, ending: str = "s") -> str:
    """Write a number with its noun.

    Args:
        number: How many.
        noun: In the singular.
        ending: What the plural appends.

    Returns:
        For example "1 seed", "1,024 images".
    """
    return f"{number:,} {noun}{'' if number == 1 else ending}"


def asked(report: Report) -> str:
    """Say what was asked.

    Args:
        report: The report.

    Returns:
        For example "keep 50.0 % of the MACs".
    """
    return _TARGETS[report.target.kind][0].format(*_amount(report, report.target.requested))


def _amount(report: Report, amount: float) -> tuple[str, ...]:
    """What a target counts, and of what."""
    if report.target.kind != "max_drop":
        return (percent(amount, 1),)
    yardstick = report.yardstick
    return yardstick.change(amount).removeprefix("+"), yardstick.name


def achieved(report: Report) -> str:
    """Say what the plan achieved.

    Args:
        report: The report.

    Returns:
        For example "MACs kept 49.8 %"; with mode "zero" it says that this needs removal.
    """
    text = _TARGETS[report.target.kind][1].format(*_amount(report, report.target.achieved))
    if report.mode == "remove":
        return text
    if report.target.kind == "remove_filters":
        return text.replace("removed", "zeroed")
    return f"{text} once the zeroed filters are removed"


def counted(arm: Arm, yardstick: Yardstick) -> str:
    """Say what a quality was counted over.

    Args:
        arm: The arm.
        yardstick: Of the report.

    Returns:
        For example "351 of 359 images", or "359 images" where none is right or wrong.
    """
    right = "" if arm.correct is None else f"{arm.correct:,} of "
    return f"{right}{arm.total:,} {yardstick.item}s"


def judged_by(report: Report) -> str:
    """Say how quality was measured.

    Args:
        report: The report.

    Returns:
        Sentences on the split, the interval and the test.
    """
    yardstick = report.yardstick
    exact = "exact and two-sided" if yardstick.kind == "share" else "of signed ranks and two-sided"
    return (
        f"{yardstick.name.capitalize()} is measured on the test split "
        f"({plural(report.split.test, yardstick.item)}); {yardstick.better} is better. "
        f"The interval is {yardstick.interval_of}'s. {yardstick.test}'s p is {exact}, on the same {yardstick.item}s. "
        "A dash: not measured."
    )


def described_data(report: Report) -> str:
    """Say what the data are.

    Args:
        report: The report.

    Returns:
        A sentence, with the number of classes where there are any.
    """
    return f"{report.data}; {plural(report.classes, 'class', 'es')}." if report.classes else f"{report.data}."


def size_and_speed(report: Report, arm: Arm) -> str:
    """Say how large and how fast an arm is beside the dense network.

    Args:
        report: The report, for the dense network.
        arm: The arm.

    Returns:
        One sentence on MACs, parameters and median latency.
    """
    dense = report.dense
    text = (
        f"The {arm.name} network keeps {kept(arm.macs, dense.macs)} of the MACs and "
        f"{kept(arm.params, dense.params)} of the parameters"
    )
    if arm.latency_ms is None or dense.latency_ms is None:
        return f"{text}; its latency was not measured."
    return (
        f"{text}; it runs {pace(arm.speedup)}: median {milliseconds(arm.latency_ms.median)} ms against "
        f"{milliseconds(dense.latency_ms.median)} ms ({conditions(arm)})."
    )


def kept(part: int | None, whole: int | None) -> str:
    """Write what is left as a percentage of the dense network.

    Args:
        part: Of the arm.
        whole: Of the dense network.

    Returns:
        For example "49.8 %"; a dash where either is missing or the whole is 0.
    """
    return NONE if part is None or not whole else percent(part / whole, 1)


def conditions(arm: Arm) -> str:
    """Say how a latency was measured.

    Args:
        arm: The arm.

    Returns:
        For example "ONNX Runtime, 1 thread, batch 1"; "not measured" where there is no latency.
    """
    if arm.latency_ms is None:
        return "not measured"
    return f"ONNX Runtime, {plural(arm.latency_ms.threads, 'thread')}, batch {arm.latency_ms.batch}"


def describe_latency(report: Report) -> str:
    """Say how the latencies were measured.

    Args:
        report: The report.

    Returns:
        One or two sentences; they say so where the causal network was not timed.
    """
    latency = report.causal.latency_ms
    if latency is None:
        return "Latency: the causal network was not timed in this run."
    return (
        f"Latency: {conditions(report.causal)}; median over the run, IQR is the width of the "
        f"interquartile range. The causal network needed at most {milliseconds(latency.p90)} ms in 90 % and "
        f"{milliseconds(latency.p99)} ms in 99 % of its runs."
    )


def describe_parity(report: Report) -> str:
    """Say whether the ONNX file computes what the network computes.

    Args:
        report: The report.

    Returns:
        One sentence with the largest difference and the tolerance.
    """
    parity = report.parity
    if parity is None:
        return "Parity: nothing was exported in this run, so nothing was compared."
    verdict = "passed" if parity.passed else "FAILED"
    return (
        f"Parity {verdict}: the outputs of the ONNX file and of the PyTorch network differ by at most "
        f"{parity.max_abs:.2g} (tolerance {parity.tolerance:.2g})."
    )


def describe_agreement(report: Report) -> str:
    """Say how well the importances rank the units, judged by ablation.

    Args:
        report: The report.

    Returns:
        One sentence, and others on the sample where they are known.
    """
    agreement, items = report.agreement, f"{report.yardstick.item}s"
    if agreement is None:
        return "Agreement with ablation was not measured in this run."
    if agreement.median is None:
        return (
            f"The rank correlation of “{agreement.method}” with {agreement.versus} is undefined "
            "for every group."
        )
    sample = stable = noise = ""
    if agreement.units is not None and agreement.images is not None:
        sample = (
            f" {plural(agreement.units, 'unit')} {'was' if agreement.units == 1 else 'were'} held at "
            f"{'its mean' if agreement.units == 1 else 'their means'}, one at a time, on "
            f"{plural(agreement.images, f'validation {report.yardstick.item}')}."
        )
    if agreement.stability is not None:
        stable = (
            f" From two halves of the calibration {items} the importances agree with each other by "
            f"{correlation(agreement.stability)}."
        )
    if agreement.reliability is not None:
        noise = (
            f" From two halves of the validation {items} ablation agrees with itself by "
            f"{correlation(agreement.reliability)}; where this is near 0, so few {items} tell little about any method."
        )
    return (
        f"Spearman rank correlation of “{agreement.method}” with {agreement.versus}, median over "
        f"{plural(len(agreement.spearman_by_group), 'group')}: {correlation(agreement.median)} "
        f"(+1 the same order, 0 unrelated, −1 reversed).{sample}{noise}{stable}"
    )
