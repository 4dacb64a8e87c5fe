"""What a subclass of a layer computes decides, not its type: it is compared with the layer that it is derived from."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils._python_dispatch import TorchDispatchMode

from causal_prune.network.layer_kinds import MIXING, computes_what_its_type_says
from causal_prune.network.layer_matrices import matrix_of, rows

ALIKE = 1e-5
_PRODUCTS = ("convolution", "_convolution", "addmm", "mm", "bmm", "baddbmm", "linear", "matmul")


def weight_in_use(module: nn.Module) -> Tensor | None:
    """The weight with which a layer of the type's own kind computes what a layer computes.

    A subclass may make its weight in its forward (weight standardisation, gains). It is taken for a layer of its kind
    where a plain layer with that weight returns the same for random input, and where each filter of the weight follows
    from the same filter of the parameter alone.

    Args:
        module: A convolution or linear layer, or a subclass of one.

    Returns:
        The parameter itself for a plain layer, another tensor of its shape where the forward makes one; None where the
        module computes something else, or does not run on a small random input.

    Cost: nothing for the types of torch; a few runs of the layer on two small inputs for subclasses.
    """
    parameter = getattr(module, "weight", None)
    if not isinstance(module, MIXING) or not isinstance(parameter, Tensor):
        return None
    if computes_what_its_type_says(module) and _standard_product(module):
        return parameter
    probe = _bare(module)
    source = _random_input(module)
    if probe is None or source is None:
        return None
    try:
        with torch.no_grad():
            used, out = _used(probe, source)
            if used is None or not _alike(_plain(probe, source, used), out):
                return None
            if source.dim() > 2:  # padding that follows from the size shows at another one
                larger = nn.functional.pad(source, (0, 1) * (source.dim() - 2))
                if not _alike(_plain(probe, larger, used), _used(probe, larger)[1]):
                    return None
            if torch.equal(used, cast(Tensor, probe.weight)):
                return parameter
            return used if _filter_by_filter(probe, source, used) else None
    except Exception:  # noqa: BLE001 - a forward that does not run like this is none of a plain layer
        return None


def makes_its_weight(module: nn.Module) -> bool:
    """Whether a layer's forward makes the weight that it uses.

    Args:
        module: A convolution or linear layer, or a subclass of one.

    Returns:
        False for plain layers and for what is no layer of its kind.
    """
    if computes_what_its_type_says(module) and _standard_product(module):
        return False
    used = weight_in_use(module)
    return used is not None and used is not module.weight


def linear_in_its_weight(module: nn.Module) -> bool:
    """Whether a layer's output is its bias and what `rows` reads times its weight, whatever the weight is.

    Args:
        module: A convolution or linear layer, or a subclass of one, such as a convolution that pads by itself.

    Returns:
        True for the layers of torch; False where the forward makes another weight, does not run on a small random
        input, belongs to the object alone, or the layer has further parameters.

    Cost: nothing for the types of torch; a few runs of the layer on a small input for subclasses.
    """
    if "forward" in vars(module) or set(module._parameters) != {"weight", "bias"}:
        return False
    if type(module).__module__.startswith("torch.nn.modules."):
        return True
    probe = _bare(module) if isinstance(module, MIXING) and not makes_its_weight(module) else None
    source = None if probe is None else _random_input(module)
    if probe is None or source is None:
        return False
    weight, bias = cast(Tensor, probe.weight), cast(Tensor | None, probe.bias)
    other = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)).to(weight)
    try:
        with torch.no_grad():
            for each in (weight.clone(), other):
                weight.copy_(each)
                matrix = matrix_of(probe, each)
                constant = 0 if bias is None else bias.reshape(len(matrix), 1, -1)
                for patches, (found,) in rows(probe, source, [probe(source)], None):
                    if not _alike(found, patches @ matrix.mT + constant):
                        return False
    except Exception:  # noqa: BLE001 - a forward that does not run like this is none of a plain layer
        return False
    return True


def bake(module: nn.Module, used: Tensor) -> None:
    """Turn a subclass that makes its weight into the plain layer that computes the same.

    Args:
        module: A layer of a copied network.
        used: From `weight_in_use`.
    """
    kind = _kind(module)
    parameter = module.weight
    assert isinstance(parameter, nn.Parameter)
    for name, _ in list(module.named_parameters(recurse=False)):
        if name not in ("weight", "bias"):
            delattr(module, name)
    module.__class__ = kind
    module.weight = nn.Parameter(used.detach().clone(), requires_grad=parameter.requires_grad)


def _kind(module: nn.Module) -> type[nn.Module]:
    return next(kind for kind in type(module).__mro__ if kind in MIXING)


def _standard_product(module: nn.Module) -> bool:
    """Whether the product inside a convolution's forward is torch's own."""
    if not isinstance(module, _ConvNd) or isinstance(module, _ConvTransposeNd):
        return True
    return type(module)._conv_forward is cast(Any, _kind(module))._conv_forward


def _bare(module: nn.Module) -> nn.Module | None:
    """A copy without hooks."""
    import copy

    try:
        probe = copy.deepcopy(module).eval().float()
    except Exception:  # noqa: BLE001 - what cannot be copied cannot be tried
        return None
    for each in probe.modules():
        each._forward_hooks.clear()
        each._forward_pre_hooks.clear()
    return probe


def _random_input(module: nn.Module) -> Tensor | None:
    weight = cast(Tensor, module.weight)
    generator = torch.Generator().manual_seed(0)
    if isinstance(module, nn.Linear):
        return torch.randn(3, weight.shape[1], generator=generator).to(weight.device)
    if any(parameter.is_meta for parameter in module.parameters()):
        return None
    sizes = [
        2 * ((k - 1) * d + 1) + s
        for k, d, s in zip(
            cast(Sequence[int], module.kernel_size),
            cast(Sequence[int], module.dilation),
            cast(Sequence[int], module.stride),
            strict=True,
        )
    ]
    return torch.randn(2, cast(int, module.in_channels), *sizes, generator=generator).to(weight.device)


class _Watch(TorchDispatchMode):
    """Keeps what products multiply with."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operands: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if str(func._schema.name).split("::")[-1] in _PRODUCTS:
            self.operands += [value for value in args[1:3] if isinstance(value, Tensor)]
        return func(*args, **(kwargs or {}))


def _used(probe: nn.Module, source: Tensor) -> tuple[Tensor | None, Tensor]:
    """The last operand of a product that has the form of the layer's weight, and what the layer returns."""
    watch = _Watch()
    with watch:
        out = probe(source)
    shape = cast(Tensor, probe.weight).shape
    for operand in reversed(watch.operands):
        if operand.shape == shape and not isinstance(probe, nn.Linear):
            return operand.clone(), out
        if isinstance(probe, nn.Linear) and operand.shape[-2:] == (shape[1], shape[0]) and operand.dim() == 2:
            return operand.t().clone(), out
    return None, out


def _plain(probe: nn.Module, source: Tensor, weight: Tensor) -> Tensor:
    bias = cast(Tensor | None, getattr(probe, "bias", None))
    if isinstance(probe, nn.Linear):
        return nn.functional.linear(source, weight, bias)
    kind = _kind(probe)
    if isinstance(probe, _ConvTransposeNd):
        twin = _bare(probe)
        assert twin is not None
        bake(twin, weight)
        return cast(Tensor, twin(source))
    return cast(Tensor, cast(Any, kind)._conv_forward(probe, source, weight, bias))


def _alike(a: Tensor, b: Any) -> bool:
    if not isinstance(b, Tensor) or a.shape != b.shape:
        return False
    return bool((a - b).abs().max() <= ALIKE * a.abs().max().clamp_min(1e-20))


def _filter_by_filter(probe: nn.Module, source: Tensor, used: Tensor) -> bool:
    """Whether a change of one filter of the parameter changes that filter of the weight alone."""
    weight = cast(Tensor, probe.weight)
    axis = 1 if getattr(probe, "transposed", False) else 0
    for position in {0, weight.shape[axis] - 1}:
        before = weight.detach().clone()
        chosen = weight.select(axis, position)
        chosen.add_(torch.linspace(0.5, 1.5, chosen.numel(), device=chosen.device).reshape(chosen.shape))
        changed, _ = _used(probe, source)
        weight.copy_(before)
        if changed is None:
            return False
        moved = (changed != used).movedim(axis, 0).flatten(1).any(1).nonzero().flatten().tolist()
        if moved not in ([], [position]):
            return False
    return True
