"""Harm and drift of a report, with believable numbers."""

from typing import Any


def harm(**changes: Any) -> dict[str, Any]:
    return {
        "arms": [
            {"name": "causal", "seed": None, "lost": 9, "gained": 6, "p": 0.61},
            {"name": "random", "seed": 0, "lost": 21, "gained": 7, "p": 0.0125},
            {"name": "random", "seed": 1, "lost": 18, "gained": 8, "p": 0.0755},
        ],
        "classes": [
            {"label": 0, "name": "cat", "total": 36, "lost": 0, "gained": 0, "p": 1.0, "p_holm": 1.0},
            {"label": 1, "name": "a|b", "total": 40, "lost": 8, "gained": 1, "p": 0.039, "p_holm": 0.117},
            {"label": 2, "name": "dog", "total": 38, "lost": 1, "gained": 5, "p": 0.219, "p_holm": 0.437},
        ],
        "worst": 1,
        "exemplars": {
            "population": 7,
            "count": 3,
            "images": [{"image": 17, "label": 1, "dense": 1, "arms": 2, "disagreeing": 6}],
            "dense_right": 2 / 3,
            "causal_right": 0.0,
        },
        **changes,
    }


def network(name: str, spearman: float | None, seed: int | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "seed": seed,
        "compared": 120,
        "constant": 3,
        "disagreeing": 5,
        "spearman": spearman,
        "iou": None if spearman is None else max(0.0, spearman) ** 2,
        "pointing": None if spearman is None else max(0.0, spearman),
        "spearman_disagreeing": None,
        **changes,
    }


def drift(method: str = "grad_cam", **changes: Any) -> dict[str, Any]:
    return {
        "method": method,
        "images": 128,
        "networks": [network("causal", 0.9), network("random", 0.8, 0), network("random", 0.7, 1)],
        "unlearned": network("unlearned", -0.02, compared=125, disagreeing=0),
        "repeated": network("repeated", 0.97, disagreeing=0),
        "causal_minus_random": {"mean": 0.14, "ci95": [0.05, 0.23], "wins_of": [2, 2]},
        **changes,
    }
