"""Silence dropped channels where they are read, let dropped filters emit noise: by hooks, no weight is touched."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from causal_prune.surgery.cuts import Cuts

MIXING = (nn.modules.conv._ConvNd, nn.Linear)


def _dropped(kept: tuple[int, ...] | None, extent: int) -> list[int]:
    return sorted(set(range(extent)) - set(kept)) if kept is not None else []


@contextmanager
def _hooked(handles: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _channel(module: nn.Module, tensor: Tensor) -> int:
    spatial = len(module.kernel_size) if isinstance(module, nn.modules.conv._ConvNd) else 0
    return tensor.dim() - 1 - spatial


def reading_zeros(model: nn.Module, cuts: Cuts, *, norms: bool = True) -> Any:
    """Context in which every layer of the cuts reads zeros at the dropped channels.

    Args:
        model: The dense network.
        cuts: The cuts of a plan.
        norms: Whether normalisations over channels are computed over the kept ones.
    """
    handles = []
    for name, cut in cuts.layers.items():
        module = model.get_submodule(name)
        gone = _dropped(cut.keep_inputs, cut.inputs)
        if isinstance(module, MIXING) and gone:

            def blind(m: nn.Module, args: Any, kwargs: Any, gone: list[int] = gone) -> Any:
                source = (args[0] if args else kwargs["input"]).clone()
                source.index_fill_(_channel(m, source), torch.tensor(gone), 0)
                return ((source, *args[1:]), kwargs) if args else (args, {**kwargs, "input": source})

            handles.append(module.register_forward_pre_hook(blind, with_kwargs=True))
        elif norms and isinstance(module, nn.LayerNorm | nn.GroupNorm) and cut.keep_filters is not None:

            def masked(m: Any, args: Any, out: Tensor, kept: tuple[int, ...] = cut.keep_filters) -> Tensor:
                over = _group_norm if isinstance(m, nn.GroupNorm) else _layer_norm
                return over(m, args[0], out, torch.tensor(kept))

            handles.append(module.register_forward_hook(masked))
    return _blind_parameters(model, cuts, handles)


@contextmanager
def _blind_parameters(model: nn.Module, cuts: Cuts, handles: list[Any]) -> Iterator[None]:
    """Entries of bare parameters that dropped channels are multiplied with are zero inside the block."""
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    saved = {name: own[name].detach().clone() for name, cut in cuts.parameters.items() if cut.reads}
    with torch.no_grad():
        for name in saved:
            cut = cuts.parameters[name]
            gone = torch.tensor(_dropped(cut.keep, cut.size), dtype=torch.int64)
            own[name].data.index_fill_(cut.dim, gone, 0)
    try:
        with _hooked(handles):
            yield
    finally:
        for name, values in saved.items():
            own[name].data.copy_(values)


def _layer_norm(module: nn.LayerNorm, source: Tensor, out: Tensor, kept: Tensor) -> Tensor:
    width = module.normalized_shape[-1]
    for dim in (source.dim() - 1, 1):
        if source.shape[dim] == width and len(module.normalized_shape) == 1:
            moved = source.movedim(dim, -1)
            full = functional.layer_norm(moved, (width,), module.weight, module.bias, module.eps)
            if torch.allclose(full.movedim(-1, dim), out, rtol=1e-4, atol=1e-5):
                affine = [None if p is None else p[kept] for p in (module.weight, module.bias)]
                part = functional.layer_norm(moved[..., kept], (len(kept),), *affine, module.eps)
                return torch.zeros_like(moved).index_copy(-1, kept, part).movedim(-1, dim)
    return out


def _group_norm(module: nn.GroupNorm, source: Tensor, out: Tensor, kept: Tensor) -> Tensor:
    result = torch.zeros_like(out)
    for block in torch.arange(module.num_channels).chunk(module.num_groups):
        here = kept[torch.isin(kept, block)]
        if len(here):
            affine = [None if p is None else p[here] for p in (module.weight, module.bias)]
            result[:, here] = functional.group_norm(source[:, here], 1, *affine, module.eps)
    return result


@contextmanager
def emitting_noise(model: nn.Module, cuts: Cuts) -> Iterator[None]:
    """Dropped filters emit noise, whatever they read; dropped entries of bare parameters are noise."""
    handles = []
    for name, cut in cuts.layers.items():
        module, gone = model.get_submodule(name), _dropped(cut.keep_filters, cut.filters)
        if isinstance(module, MIXING) and gone:

            def noisy(m: nn.Module, args: Any, out: Tensor, gone: list[int] = gone) -> Tensor:
                generator = torch.Generator().manual_seed(len(gone))
                noise = 10 * torch.randn(out.shape, generator=generator).to(out.dtype)
                where = torch.zeros(out.shape[_channel(m, out)], dtype=torch.bool)
                where[gone] = True
                return torch.where(where.reshape(-1, *[1] * (out.dim() - 1 - _channel(m, out))), noise, out)

            handles.append(module.register_forward_hook(noisy))
    saved = {name: tensor.detach().clone() for name, tensor in _bare(model, cuts)}
    try:
        for name, tensor in _bare(model, cuts):
            cut = cuts.parameters[name]
            index = torch.tensor(_dropped(cut.keep, cut.size), dtype=torch.int64)
            part = tensor.detach().index_select(cut.dim, index)
            noise = torch.randn(part.shape, generator=torch.Generator().manual_seed(7)).to(part.dtype)
            tensor.detach().index_copy_(cut.dim, index, torch.where(part == 0, part, noise))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for name, tensor in _bare(model, cuts):
            tensor.detach().copy_(saved[name])


def _bare(model: nn.Module, cuts: Cuts) -> Iterator[tuple[str, Tensor]]:
    known: Mapping[str, Tensor] = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    yield from ((name, known[name]) for name in cuts.parameters if known[name].is_floating_point())
