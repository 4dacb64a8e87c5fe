"""What `model` may name: torchvision's and timm's networks, and the user's own."""

import importlib
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from causal_prune.errors import InputError, nearest, one_line
from causal_prune.sources.factories import call_factory

FORMS = "torchvision:NAME, timm:NAME, path/file.py:factory or package.module:factory"


def load_model(
    spec: str, model_arg: Mapping[str, object] | None = None, *, within: Path | None = None
) -> nn.Module:
    """Build the network that `model` names, with fresh weights; nothing is downloaded.

    Args:
        spec: `torchvision:NAME` (an image classifier), `timm:NAME`, `path/file.py:factory` or
            `package.module:factory`.
        model_arg: Keyword arguments of the factory.
        within: The folder from which a relative path counts; None for the working folder.

    Returns:
        The network.

    Raises:
        InputError: If it does not exist, cannot be built, or is no `torch.nn.Module`.

    Example:
        >>> load_model("torchvision:resnet18", {"num_classes": 10}).fc.out_features
        10
    """
    arguments = dict(model_arg or {})
    kind, _, name = spec.partition(":")
    if kind in ("torchvision", "timm"):
        for argument in ("weights", "pretrained"):
            if argument in arguments:
                raise InputError(f"model_arg: {argument}: nothing is downloaded; use `weights` FILE")
        model = _torchvision(name, arguments) if kind == "torchvision" else _timm(name, arguments)
    elif ":" in spec:
        model = call_factory(spec, arguments, option="model", within=within)
    else:
        raise InputError(f"model: '{spec}' is not one of {FORMS}")
    if not isinstance(model, nn.Module):
        raise InputError(f"model: {spec} returned a {type(model).__name__}, not a torch.nn.Module")
    return model


def _torchvision(name: str, arguments: Mapping[str, object]) -> object:
    from torchvision import models

    # Only classifiers: others have no single output of logits, and some fetch a backbone's weights.
    known = models.list_models(module=models)
    if name not in known:
        raise InputError(f"model: torchvision has no classifier '{name}'{nearest(name, known)}")
    try:
        return models.get_model(name, weights=None, **arguments)
    except Exception as cause:  # the arguments are the user's
        raise InputError(f"model: torchvision:{name} raised {one_line(cause)}; see `model_arg`") from cause


def _timm(name: str, arguments: Mapping[str, object]) -> object:
    try:
        timm = importlib.import_module("timm")
    except ImportError as cause:
        raise InputError(f"model: timm:{name} needs the package timm; run: pip install timm") from cause
    known: list[str] = timm.list_models()
    # A tag after a dot names pretrained weights, not an architecture.
    if name.split(".")[0] not in known:
        raise InputError(f"model: timm has no model '{name}'{nearest(name, known)}")
    try:
        model: object = timm.create_model(name, pretrained=False, **arguments)
    except Exception as cause:  # the arguments are the user's
        raise InputError(f"model: timm:{name} raised {one_line(cause)}; see `model_arg`") from cause
    return model
