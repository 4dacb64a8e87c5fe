"""As the repair runs: without gradients."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def no_gradients() -> Iterator[None]:
    """For the whole test."""
    with torch.no_grad():
        yield
