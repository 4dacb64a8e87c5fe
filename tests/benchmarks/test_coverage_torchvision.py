"""Every torchvision network of the list is cut correctly, trains, exports and is rebuilt."""

import pytest

from tests.benchmarks.coverage import judged
from tests.zoo.torchvision_nets import NETS, Net

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

LARGEST_FROZEN_SHARE = 0.1


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
def test_network(net: Net) -> None:
    outcome = judged(net, onnx=True)
    assert outcome.kind == "right", outcome.detail
    assert outcome.trained
    assert outcome.frozen_share <= LARGEST_FROZEN_SHARE
    assert float(outcome.onnx) <= 1e-5
    assert outcome.seconds < 60
