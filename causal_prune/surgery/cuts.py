"""What a cut keeps of every layer, and the record of it that a cut network carries."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from causal_prune.errors import InputError
from causal_prune.network.layer_kinds import widths_of


@dataclass(frozen=True)
class LayerCut:
    """What is kept of one layer; None along an axis that is not cut.

    Attributes:
        keep_filters: Ascending indices of the filters (or carried channels) that stay.
        keep_inputs: Ascending indices of the input channels that stay.
        filters: Number of filters before.
        inputs: Number of input channels before; 0 for layers that mix nothing.
        grouping: How a grouped layer is cut (see `filter_graph.Layer`).
    """

    keep_filters: tuple[int, ...] | None
    keep_inputs: tuple[int, ...] | None
    filters: int
    inputs: int
    grouping: Literal["dense", "blocks", "positions"] = "dense"


@dataclass(frozen=True)
class ParameterCut:
    """What is kept of a parameter or buffer that belongs to no known layer.

    Attributes:
        dim: The dimension that holds the channels.
        keep: Ascending indices that stay.
        size: Extent of the dimension before.
        reads: Whether it is multiplied with the channels and summed over them.
    """

    dim: int
    keep: tuple[int, ...]
    size: int
    reads: bool = False


@dataclass(frozen=True)
class AdapterCut:
    """Channels that are picked or put back at a border of a module (see `filter_graph.Adapter`).

    Attributes:
        module: Name of the module.
        side: "in" for an argument, "out" for a result.
        leaf: Position of the tensor among the leaves of the arguments or results.
        dim: Dimension of the channels.
        form: "pick" or "restore".
        keep: Ascending indices that stay.
        size: Extent of the dimension before.
    """

    module: str
    side: Literal["in", "out"]
    leaf: int
    dim: int
    form: Literal["pick", "restore"]
    keep: tuple[int, ...]
    size: int


@dataclass(frozen=True)
class ConstantFold:
    """Inputs of a layer that hold one constant each and go: what takes them over.

    Attributes:
        positions: Ascending indices of the inputs.
        values: The constant of each.
        into: For each the input that takes it over, another constant that stays; -1 for the layer's bias.
        carried: For each the constant of that input; 1 for the bias.
    """

    positions: tuple[int, ...]
    values: tuple[float, ...]
    into: tuple[int, ...]
    carried: tuple[float, ...]


@dataclass(frozen=True)
class RootCut:
    """Filters of one layer that go with all that torch-pruning couples to them.

    Attributes:
        layer: The layer, the root of a group.
        drop: Ascending indices of the filters that go.
    """

    layer: str
    drop: tuple[int, ...]


@dataclass(frozen=True)
class ExampleForm:
    """What an example looks like, so that torch-pruning's graph can be made again.

    Attributes:
        kind: One tensor, positional arguments or keyword arguments.
        names: Of the arguments; empty texts where they have none.
        shapes: Of the tensors.
        dtypes: Names of torch's types.
    """

    kind: Literal["tensor", "tuple", "mapping"]
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class Cuts:
    """All that a cut does to a network.

    Attributes:
        layers: Cuts by layer name; layers that are not cut are absent.
        parameters: Cuts of bare parameters and buffers by name.
        adapters: Channels picked or put back around functions that count them by position.
        folds: Constants that layers take over from inputs that go.
        roots: Where torch-pruning's graph was asked for: what is pruned through it, group by group; `layers` says what
            comes of that.
        example: What that graph is made with; None without roots.
    """

    layers: Mapping[str, LayerCut]
    parameters: Mapping[str, ParameterCut]
    adapters: tuple[AdapterCut, ...] = ()
    folds: Mapping[str, ConstantFold] = field(default_factory=dict)
    roots: tuple[RootCut, ...] = ()
    example: ExampleForm | None = None


def check_width(modules: Mapping[str, nn.Module], name: str, cut: LayerCut) -> None:
    """Refuse a layer that is not as wide as a cut expects.

    Args:
        modules: The network's modules by name.
        name: The layer.
        cut: Its cut.

    Raises:
        InputError: If it is missing or has another width.
    """
    module = modules.get(name)
    if module is None:
        raise InputError(f"the plan names the layer {name!r}, which the model does not have")
    found = widths_of(module)
    if found != (cut.filters, cut.inputs):
        raise InputError(
            f"the plan was made for another network: {name} has {found[0]} filters and {found[1]} "
            f"inputs, the plan says {cut.filters} and {cut.inputs}"
        )
