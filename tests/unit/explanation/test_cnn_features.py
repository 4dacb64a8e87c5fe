"""Numbers per image and filter, against loops."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.explanation.cnn_features import collect, frobenius_norm
from tests.unit.drawn_weights import drawn

CPU = torch.device("cpu")


class Twice(nn.Module):
    """One convolution that runs twice, one that runs once and one that never does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(2, 3, 2), nn.Conv2d(3, 3, 1)
        self.never = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.again(torch.tanh(self.again(self.first(x))))


def convolutions(net: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]


@pytest.fixture
def case() -> tuple[nn.Module, Tensor]:
    return drawn(Twice(), seed=5).eval(), torch.randn(7, 2, 4, 5, generator=torch.Generator().manual_seed(1))


def gathered(net: nn.Module, batches: list[Tensor], norm=frobenius_norm) -> dict[int, np.ndarray]:
    return collect(convolutions(net), net, batches, norm, device=CPU)


def test_the_frobenius_norm_is_the_literal_root_of_a_sum() -> None:
    maps = torch.randn(2, 3, 4, 5)
    expected = [[sum(v * v for row in m for v in row) ** 0.5 for m in image] for image in maps.tolist()]
    found = frobenius_norm(maps)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_every_convolution_that_ran_has_one_number_per_image_and_filter(case) -> None:
    net, images = case
    found = gathered(net, [images])
    assert list(found) == [0, 1], "the third never ran"
    with torch.no_grad():
        first = net.first(images)
        one = net.again(first)
        two = net.again(torch.tanh(one))
    np.testing.assert_allclose(found[0], frobenius_norm(first), rtol=1e-6)
    both = (frobenius_norm(one) ** 2 + frobenius_norm(two) ** 2).sqrt()
    np.testing.assert_allclose(found[1], both, rtol=1e-6)


def test_batches_do_not_matter_and_empty_ones_count_nothing(case) -> None:
    net, images = case
    whole, parts = gathered(net, [images]), gathered(net, [images[:3], images[:0], images[3:4], images[4:]])
    for index, rows in whole.items():
        np.testing.assert_allclose(parts[index], rows, rtol=1e-5)


def test_what_cannot_be_collected_is_named(case) -> None:
    net, images = case
    for batches in ([], [images[:0]]):
        with pytest.raises(InputError, match="data_loader: there are no images"):
            gathered(net, batches)
    images[5, 0, 1, 1] = torch.inf
    with pytest.raises(InputError, match="data_loader: the output of first is NaN or infinite in batch 2"):
        gathered(net, [images[:4], images[4:]])
    with pytest.raises(
        InputError, match=r"frobenius_norm_func: returned \(4, 3, 4\) for first; it must return"
    ):
        gathered(net, [images[:4]], lambda output: output.sum(2))
