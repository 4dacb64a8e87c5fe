"""A network with its plan."""

import pytest

from tests.unit.surgery.cases import Planned, case


@pytest.fixture
def residual() -> Planned:
    """Blocks on a stream, joined by additions."""
    return case("residual")
