"""Another task than classification: by how many degrees a digit is turned, one number per image.

A data factory that names its task is all that it takes; the report then speaks of errors in degrees, lower is better:

    causal-prune run --data examples/digits_angle.py:data --keep-macs 0.5 --epochs 3 --out export/digits_angle
    causal-prune gate export/digits_angle --baseline export/digits_angle/report.json --max-drop 1.5
"""

import numpy as np
import torch
from scipy.ndimage import rotate
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

from causal_prune.data import Task, regression_task

MOST = 45.0  # degrees, either way
TEST = 397


def data(seed: int = 0) -> dict[str, TensorDataset | Task]:
    """Turn scikit-learn's digits, each by an angle of its own.

    Args:
        seed: Of the angles.

    Returns:
        1400 training and 397 test pairs of an image (1, 8, 8) and an angle in degrees, and the task.
    """
    images = load_digits().images.astype(np.float32) / 16.0
    angles = np.random.default_rng(seed).uniform(-MOST, MOST, len(images)).astype(np.float32)
    turned = [
        rotate(image, angle, reshape=False, order=1) for image, angle in zip(images, angles, strict=True)
    ]
    pairs = torch.from_numpy(np.stack(turned)[:, None]), torch.from_numpy(angles)
    return {
        "train": TensorDataset(*(part[:-TEST] for part in pairs)),
        "test": TensorDataset(*(part[-TEST:] for part in pairs)),
        "task": regression_task("degrees", digits=2),
    }
