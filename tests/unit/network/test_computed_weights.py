"""Computed weights are plain for the time of a cut; weight norm returns, spectral norm does not."""

import copy
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm

from causal_prune.network.computed_weights import plain_weight, take_off
from causal_prune.network.running import copied

Norm = Callable[..., nn.Module]
X = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def _old_styles_allowed() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.nn.utils.weight_norm` is deprecated", FutureWarning)
        yield


def layer(*norms: Norm, **options: int) -> nn.Module:
    """A convolution whose weight is computed; in eval mode, with scales that training has moved."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        made: nn.Module = nn.Conv2d(3, 4, 3)
        for norm in norms:
            made = norm(made, **options)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.mul_(torch.rand_like(parameter) + 0.5)
        return made.eval()


def names(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_parameters()}


PLAIN = {"weight", "bias"}


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("norm", [weight_norm, parametrizations.weight_norm])
def test_weight_norm_is_put_on_again_around_the_weight_that_is_left(norm: Norm, dim: int) -> None:
    module = layer(norm, dim=dim)
    before, parameters = module(X), names(module)
    assert parameters != PLAIN
    with plain_weight(module):
        assert names(module) == PLAIN and isinstance(module.weight, nn.Parameter)
        torch.testing.assert_close(module(X), before)
        for name in PLAIN:
            setattr(module, name, nn.Parameter(module.get_parameter(name).detach()[:2]))
    copy.deepcopy(module)
    assert names(module) == parameters, "of the style and by the names that it had"
    torch.testing.assert_close(module(X), before[:, :2])
    module(X).square().mean().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize(
    "norms",
    [
        (spectral_norm,),
        (parametrizations.spectral_norm,),
        (parametrizations.weight_norm, parametrizations.spectral_norm),
    ],
)
def test_other_computed_weights_stay_plain(norms: tuple[Norm, ...]) -> None:
    module = layer(*norms)
    before = module(X)
    with plain_weight(module):
        pass
    assert names(module) == PLAIN and not module._forward_pre_hooks
    torch.testing.assert_close(module(X), before)
    nn.Conv2d(3, 4, 3).load_state_dict(module.state_dict())
    module.load_state_dict(nn.Conv2d(3, 4, 3).state_dict())


@pytest.mark.parametrize(
    ("norm", "taken_off"),
    [
        (weight_norm, [(True, "weight", 0)]),
        (parametrizations.weight_norm, [(False, "weight", 0)]),
        (spectral_norm, []),
        (parametrizations.spectral_norm, []),
        (lambda module: module, []),
    ],
)
def test_taking_off_says_which_weight_norms_there_were(
    norm: Norm, taken_off: list[tuple[bool, str, int]]
) -> None:
    module = layer(norm)
    before = module(X)
    assert take_off(module) == taken_off
    assert names(module) == PLAIN
    torch.testing.assert_close(module(X), before)


@pytest.mark.parametrize("norm", [spectral_norm, parametrizations.spectral_norm])
def test_the_vectors_of_spectral_norm_do_not_move_in_training(norm: Norm) -> None:
    module = layer(norm)
    before = module(X)
    module.train()
    with plain_weight(module):
        assert module.training
    torch.testing.assert_close(module(X), before)


def test_other_hooks_stay() -> None:
    module, seen = layer(weight_norm), []
    module.register_forward_pre_hook(lambda *_: seen.append(1))
    with plain_weight(module):
        pass
    module(X)
    assert seen == [1]


@pytest.mark.parametrize("norm", [weight_norm, parametrizations.weight_norm, parametrizations.spectral_norm])
def test_the_network_that_a_layer_was_copied_from_is_untouched(norm: Norm) -> None:
    original = layer(norm)
    before: Tensor = original(X)
    state = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    twin = copied(original)
    take_off(twin)
    assert torch.equal(original(X), before)
    assert original.state_dict().keys() == state.keys() != twin.state_dict().keys()
    if norm is not weight_norm:
        assert parametrize.is_parametrized(original) and not parametrize.is_parametrized(twin)
