"""How much covariances vary from image to image, and what is taken off for it."""

import numpy as np
import pytest
import torch
from torch import Tensor

from causal_prune.observation import sampling_noise
from causal_prune.observation.sampling_noise import SamplingNoise

CPU = torch.device("cpu")


def images(count: int, rows: int, size: int, seed: int = 0, offset: float = 3.0) -> Tensor:
    """Rows of images: what they share within an image makes them no independent samples."""
    draw = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=draw, dtype=torch.float64) + 2 * torch.eye(
        size, dtype=torch.float64
    )
    shared = torch.randn(count, 1, size, generator=draw, dtype=torch.float64)
    own = torch.randn(count, rows, size, generator=draw, dtype=torch.float64)
    return (0.8 * shared + 0.6 * own) @ mixing + offset * torch.arange(size)


def literal(x: Tensor, channels: int) -> float:
    """The formula, image by image and entry by entry."""
    values = x.numpy()
    centred = values - values.reshape(-1, values.shape[2]).mean(axis=0)
    each = [image.T @ image / len(image) for image in centred]
    covariance = np.mean(each, axis=0)
    noise = found = 0.0
    for i in range(values.shape[2]):
        for j in range(values.shape[2]):
            if i % channels == j % channels:
                continue
            scale = covariance[i, i] * covariance[j, j]
            spread = sum((product[i, j] - covariance[i, j]) ** 2 for product in each)
            noise += spread / (len(each) * (len(each) - 1)) / scale
            found += covariance[i, j] ** 2 / scale
    return noise / found


def shrinkage(x: Tensor, channels: int, chunks: int = 1) -> float:
    noise = SamplingNoise(1, x.shape[2], channels, CPU)
    for part in x.chunk(chunks):
        noise.add(part.reshape(1, -1, x.shape[2]), x.shape[1])
    flat = x.reshape(-1, x.shape[2])
    noise.gather(flat.mean(dim=0)[None])
    return noise.shrinkage(torch.cov(flat.T, correction=0)[None])


@pytest.mark.parametrize("chunks", [1, 3, 20])
@pytest.mark.parametrize(("size", "channels"), [(4, 4), (6, 2), (6, 3)])
def test_it_is_the_literal_formula_however_the_images_come(size: int, channels: int, chunks: int) -> None:
    x = images(20, 5, size)
    assert shrinkage(x, channels, chunks) == pytest.approx(literal(x, channels), rel=1e-9)


def test_it_falls_with_the_images_and_not_with_their_rows() -> None:
    few, many, longer = (shrinkage(images(n, rows, 8), 8) for n, rows in ((50, 4), (5000, 4), (50, 400)))
    assert many == pytest.approx(few / 100, rel=0.4) and many < 0.001
    assert longer > few / 2, "more places of the same images tell little more"


def test_scales_and_offsets_play_no_part() -> None:
    x = images(30, 4, 5)
    scale = torch.tensor([1.0, 1e-3, 1e3, 7.0, 0.1], dtype=torch.float64)
    assert shrinkage(x * scale, 5) == pytest.approx(shrinkage(x, 5), rel=1e-9)
    assert shrinkage(x + 1e4, 5, chunks=4) == pytest.approx(shrinkage(x, 5), rel=1e-6)


def test_what_shrinks_brings_the_covariance_nearer_to_the_true_one() -> None:
    truth = torch.cov(images(20000, 1, 30).reshape(-1, 30).T, correction=0)
    x = images(25, 1, 30)
    found = torch.cov(x.reshape(-1, 30).T, correction=0)
    rho = shrinkage(x, 30)
    scale = truth.diagonal().sqrt()
    shrunk = found * (1 - rho) + torch.diag(found.diagonal()) * rho
    before, after = (((each - truth) / scale / scale[:, None]).norm() for each in (found, shrunk))
    assert 0 < rho < 1 and after < before


def test_one_image_tells_nothing_one_channel_needs_nothing_and_no_image_is_no_error() -> None:
    x = images(1, 9, 4)
    assert shrinkage(x, 4) == 1.0
    assert shrinkage(images(9, 4, 4), 1) == 0.0
    noise = SamplingNoise(1, 4, 4, CPU)
    noise.gather(torch.zeros(1, 4))
    assert noise.shrinkage(torch.eye(4)[None]) == 0.0


def test_inputs_that_never_vary_are_left_out() -> None:
    x = images(20, 3, 4)
    with_constant = torch.cat((x, torch.full((20, 3, 1), 5.0, dtype=torch.float64)), dim=2)
    assert shrinkage(with_constant, 5) == pytest.approx(shrinkage(x, 4))
    assert shrinkage(torch.ones(20, 3, 4, dtype=torch.float64), 4) == 0.0


def test_of_many_inputs_some_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(40, 2, 60)
    whole = shrinkage(x, 60)
    monkeypatch.setattr(sampling_noise, "COLUMNS", 30)
    noise = SamplingNoise(1, 60, 60, CPU)
    assert len(noise.columns) == 30 and noise.total.shape == (1, 30, 30)
    noise.add(x.reshape(1, -1, 60), 2)
    flat = x.reshape(-1, 60)
    noise.gather(flat.mean(dim=0)[None])
    assert noise.shrinkage(torch.cov(flat.T, correction=0)[None]) == pytest.approx(whole, rel=0.2)
