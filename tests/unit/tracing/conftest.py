"""A tracer that has seen nothing yet."""

import pytest

from causal_prune.tracing.channel_tracer import ChannelTracer


@pytest.fixture
def tracer() -> ChannelTracer:
    """It knows no parameters, and does nothing about operations."""
    return ChannelTracer({}, lambda _: lambda _: None)
