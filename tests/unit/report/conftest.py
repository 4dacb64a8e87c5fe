"""Fake reports with believable numbers: of any depth, complete or with pieces missing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from causal_prune.report.report import Report, hits_to_text
from causal_prune.report.yardstick import Yardstick
from tests.unit.report import made_ladders

DENSE_MACS, DENSE_PARAMS, DENSE_BYTES = 3_421_184, 78_042, 330_115


def _arm(
    name: str,
    correct: int,
    *,
    kept: float = 1.0,
    median: float | None = 0.362,
    seed: int | None = None,
    cut: float | None = None,
    p: float | None = None,
    total: int = 360,
) -> dict[str, Any]:
    order = np.random.default_rng(1000 + correct + (seed or 0)).permutation(total)
    interval = binomtest(correct, total).proportion_ci(method="wilson")
    return {
        "name": name,
        "importance": None if name == "dense" else name.replace("causal", "direct"),
        "seed": seed,
        "accuracy_after_cut": cut,
        "accuracy_after_batchnorm": None if cut is None else (2 * cut + 0.9) / 3,
        "accuracy_after_compensation": None if cut is None else (cut + 0.9) / 2,
        "accuracy": correct / total,
        "correct": correct,
        "total": total,
        "ci95": [interval.low, interval.high],
        "macs": round(DENSE_MACS * kept),
        "params": round(DENSE_PARAMS * kept * 0.97) if kept < 1 else DENSE_PARAMS,
        "onnx_bytes": round(DENSE_BYTES * (0.1 + 0.9 * kept)) if median is not None else None,
        "latency_ms": None
        if median is None
        else {
            "median": median,
            "p90": median * 1.12,
            "p99": median * 1.5,
            "iqr": median * 0.07,
            "threads": 1,
            "batch": 1,
        },
        "speedup": None if median is None else 0.362 / median,
        "predictions_sha256": f"{correct:064x}",
        "hits": hits_to_text(order < correct),
        "mcnemar_p": p,
    }


def _layers(depth: int) -> list[dict[str, Any]]:
    width = [16, 32, 64]
    layers = [
        {
            "name": "conv1",
            "filters_before": 16,
            "filters_after": 16,
            "frozen": "feeds the option-A shortcut of layer1.0, which pads channels without parameters",
        }
    ]
    for index in range(depth - 1):
        stage = 3 * index // max(depth - 1, 1)
        frozen = "joins the residual stream, whose zero-padding cannot be cut" if index % 2 else None
        layers.append(
            {
                "name": f"layer{stage + 1}.{index // 2}.conv{index % 2 + 1}",
                "filters_before": width[stage],
                "frozen": frozen,
                "filters_after": width[stage] if frozen else width[stage] // 2 - index % 5,
            }
        )
    return layers


def _content(depth: int) -> dict[str, Any]:
    generator = np.random.default_rng(depth)
    layers = _layers(depth)
    seeds = [(339, 0.31, 0.052), (344, 0.42, 0.38), (336, 0.22, 0.021), (341, 0.36, 0.11), (343, 0.40, 0.27)]
    shares = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    causal = [0.9806, 0.9778, 0.9667, 0.95, 0.9139, 0.8444, 0.6889, 0.4667]
    return {
        "schema_version": 1,
        "seed": 0,
        "created": "2025-01-02T03:04:05+00:00",
        "title": "digits_cnn",
        "command": "causal-prune run --keep-macs 0.5 --arms causal,random,magnitude --out export/digits",
        "mode": "remove",
        "importance": "direct",
        "parents": "graph",
        "compensation": "batchnorm",
        "epochs": 3,
        "target": {"kind": "keep_macs", "requested": 0.5, "achieved": 0.498},
        "split": {"train": 1077, "validation": 180, "calibration": 180, "test": 360},
        "data": "scikit-learn digits, 8x8 grey images, stratified split with seed 0",
        "classes": 10,
        "parity": {"max_abs": 3.1e-06, "tolerance": 1e-4, "passed": True},
        "dense": _arm("dense", 353, p=0.6250),
        "arms": [
            _arm("causal", 350, kept=0.498, median=0.2117, seed=0, cut=0.61),
            *(
                _arm("random", correct, kept=0.498, median=0.2125 + 0.001 * seed, seed=seed, cut=cut, p=p)
                for seed, (correct, cut, p) in enumerate(seeds)
            ),
            _arm("magnitude", 347, kept=0.498, median=0.2109, cut=0.52, p=0.58),
        ],
        "comparison": {
            "arm": "causal",
            "versus": "random",
            "mean_difference": 0.02611,
            "ci95": [0.01478, 0.03744],
            "mcnemar_p": 0.11,
            "wins_of": [5, 5],
            "ci95_over": "images and seeds",
        },
        "layers": layers,
        "agreement": {
            "method": "direct",
            "versus": "ablation",
            "median": 0.71,
            "spearman_by_group": {
                layer["name"]: None if place == 1 else 0.71 for place, layer in enumerate(layers[:4])
            },
        },
        "curve": {
            "shares": shares,
            "causal": causal,
            "split": "validation",
            "random": [
                [max(0.1, value - 0.45 * share - 0.05 * share * seed) for seed in range(5)]
                for share, value in zip(shares, causal, strict=True)
            ],
            "note": "Filters silenced at their readers; batch norm re-estimated, no fine-tuning.",
        },
        "importances": {
            layer["name"]: [
                float(f"{v:.6g}")
                for v in generator.lognormal(-4 + place / depth, 1.3, layer["filters_before"])
            ]
            for place, layer in enumerate(layers)
        },
        "importance_unit": "share of the state's variance",
        "notes": [
            "Option-A shortcuts: the residual stream is frozen because it is padded with zeros.",
            "The random arms share the plan's widths | data | schedule.",
        ],
        "environment": {
            "python": "3.11.7",
            "torch": "2.9.0",
            "onnxruntime": "1.20.1",
            "numpy": "2.1.0",
            "cpu": "Example CPU @ 2.40GHz",
            "threads": 1,
            "platform": "Linux-6.1-x86_64",
            "gpu": None,
        },
        "ladder": made_ladders.ladder(),
    }


def _zeroed(content: dict[str, Any]) -> dict[str, Any]:
    _causal, *others = content["arms"]
    zeroed = _arm("causal", 350, median=0.3611, seed=0, cut=0.61)
    removed = _arm("causal-removed", 349, kept=0.498, median=0.2117, seed=0, cut=0.60, p=1.0)
    plain = [
        dict(arm, macs=DENSE_MACS, params=DENSE_PARAMS, onnx_bytes=None, latency_ms=None, speedup=None)
        for arm in others
    ]
    return content | {
        "mode": "zero",
        "importance": "documented",
        "parents": "chain",
        "agreement": None,
        "ladder": made_ladders.ladder("cut", "batchnorm"),
        "arms": [zeroed, removed, *plain],
    }


@pytest.fixture
def fake() -> Callable[..., Report]:
    """Make a report: `fake(depth, mode=..., **replaced keys)`."""

    def make(depth: int = 5, *, mode: str = "remove", **changes: Any) -> Report:
        content = _content(depth)
        if mode == "zero":
            content = _zeroed(content)
        return Report.model_validate(content | changes)

    return make


@pytest.fixture
def errors() -> Yardstick:
    """Of a task whose quality is an error in degrees."""
    return Yardstick(
        name="mean absolute error", better="lower", kind="number", unit="degrees", points="degrees"
    )
