"""Derivatives of the outputs, image by image, whatever the batches."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causal_prune.observation.output_effects import ONE_IN, OutputEffects


class Net(nn.Module):
    """Reads a layer twice, overwrites its output, and returns more than one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor | int]:
        x = F.relu(self.stem(x), inplace=True)
        x = self.shared(F.relu(self.shared(x)))
        return {"logits": self.head(x.mean((2, 3))), "maps": x, "size": len(x)}


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net().eval()


def seen(net: nn.Module, images: Tensor, size: int) -> OutputEffects:
    effects = OutputEffects(net, {"stem": 4, "shared": 4, "head": 3})
    for batch in images.split(size):
        effects.see(batch)
    return effects


def test_the_mean_is_that_of_squared_jacobians() -> None:
    images = torch.randn(1600, 2, 5, 5, generator=torch.Generator().manual_seed(1))
    net = network()
    found = seen(net, images, 200)
    assert found.images == pytest.approx(len(images) / ONE_IN, rel=0.2)
    state = net.stem(images).detach()

    def behind(raw: Tensor) -> Tensor:
        x = net.shared(F.relu(net.shared(F.relu(raw))))
        return torch.cat((net.head(x.mean((2, 3))), x.flatten(1)), dim=1).flatten()

    expected = torch.zeros(4, dtype=torch.float64)
    for one in state:
        jacobian = torch.func.jacrev(behind)(one.unsqueeze(0)).squeeze(1)
        expected += jacobian.double().square().sum(dim=(0, 2, 3)).detach() / len(images)
    torch.testing.assert_close(found.result()["stem"], expected, rtol=0.1, atol=0)
    torch.testing.assert_close(found.result()["head"], torch.ones(3, dtype=torch.float64))


def test_order_and_batches_play_no_part_and_nothing_of_the_network_changes() -> None:
    images = torch.randn(60, 2, 5, 5, generator=torch.Generator().manual_seed(2))
    net = network()
    before = [tensor.clone() for tensor in net.state_dict().values()]
    one = seen(net, images, 60).result()
    other = seen(net, images.flip(0), 7).result()
    for name, values in one.items():
        torch.testing.assert_close(other[name], values, rtol=1e-6, atol=0)
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, net.state_dict().values(), strict=True))
    assert not any(module._forward_hooks for module in net.modules())


def test_nothing_is_said_without_images_or_derivatives() -> None:
    assert seen(network(), torch.zeros(0, 2, 5, 5), 1).result() == {}

    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)["logits"].argmax(1)

    net = Rounded().eval()
    effects = OutputEffects(net, {"inner.stem": 4})
    effects.see(torch.randn(40, 2, 5, 5, generator=torch.Generator().manual_seed(3)))
    assert effects.result() == {} and "derivative" in effects.problem
