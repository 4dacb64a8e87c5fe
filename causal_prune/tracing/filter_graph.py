"""What a filter graph is made of."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from causal_prune.network.layer_kinds import Grouping, Kind
from causal_prune.report import tables_as_text
from causal_prune.surgery import (
    AdapterCut,
    ConstantFold,
    Cuts,
    Dependencies,
    ExampleForm,
    LayerCut,
    ParameterCut,
    RootCut,
    Stage,
)
from causal_prune.tracing.channel_statistics import Place

Role = Literal["producer", "passenger", "consumer"]
Axis = Literal["out", "in"]
Form = Literal["pick", "restore"]


@dataclass(frozen=True)
class Member:
    """A layer's part in a group.

    Attributes:
        layer: Name of the layer, or of the parameter where it belongs to no known layer.
        role: "producer" makes the channels, "passenger" carries them, "consumer" reads and mixes them.
        axis: Whether the group's channels are the layer's filters ("out") or its inputs ("in").
        dim: For a bare parameter the dimension that holds the channels; else None.
        extent: Size of the axis.
        positions: Indices along the axis that belong to the group.
        units: The unit of each position, of the same length; a unit may hold several positions.
        reads: Whether a bare parameter is multiplied with the channels and summed over them.
    """

    layer: str
    role: Role
    axis: Axis
    dim: int | None
    extent: int
    positions: tuple[int, ...]
    units: tuple[int, ...]
    reads: bool = False

    def positions_of(self, kept: Iterable[int]) -> list[int]:
        """Positions that belong to some units.

        Args:
            kept: Units of the group.

        Returns:
            Ascending indices along the axis.
        """
        wanted = set(kept)
        return sorted(p for p, u in zip(self.positions, self.units, strict=True) if u in wanted)


@dataclass(frozen=True)
class Group:
    """Channels that must be cut together.

    Attributes:
        name: The first producer.
        size: Number of units.
        members: Every layer that has a part in it.
        frozen: Why none of it may be cut; None where it is prunable.
        approximate: Whether a normalisation over channels makes a cut differ from silencing.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    frozen: str | None
    approximate: bool = False

    def of_role(self, role: Role) -> tuple[Member, ...]:
        """Members with one role.

        Args:
            role: The role.

        Returns:
            The members in order of execution.
        """
        return tuple(member for member in self.members if member.role == role)

    def kinds(self) -> list[list[int]]:
        """Units by where they have channels: those of one kind cost the same in every layer.

        Returns:
            Lists of ascending units; together they are all units of the group.
        """
        places: list[list[tuple[str, str]]] = [[] for _ in range(self.size)]
        for member in self.members:
            for unit in member.units:
                places[unit].append((member.layer, member.axis))
        found: dict[tuple[tuple[str, str], ...], list[int]] = {}
        for unit, where in enumerate(places):
            found.setdefault(tuple(sorted(where)), []).append(unit)
        return list(found.values())

    def essential(self, order: Sequence[int]) -> tuple[int, ...]:
        """Units without which a layer that has channels of a few units alone would lose them all.

        Args:
            order: All units, those to keep first.

        Returns:
            The first of each such layer's units, each once.
        """
        rank = {unit: place for place, unit in enumerate(order)}
        needs = {frozenset(member.units) for member in self.members}
        found: dict[int, None] = {}
        for units in sorted((u for u in needs if len(u) < self.size), key=lambda u: (len(u), min(u))):
            if not units & found.keys():
                found[min(units, key=rank.__getitem__)] = None
        return tuple(found)

    def ranked(self, order: Sequence[int]) -> list[int]:
        """An order of which every beginning leaves all layers a channel.

        Args:
            order: All units, those to keep first.

        Returns:
            The same units, the essential ones in front.
        """
        essential = self.essential(order)
        return (
            [*essential, *(unit for unit in order if unit not in set(essential))] if essential else [*order]
        )

    def first(self, width: int, order: Sequence[int]) -> tuple[int, ...]:
        """The first units of an order, such that no layer is left without a channel of the group.

        Args:
            width: How many units.
            order: All units, those to keep first.

        Returns:
            Ascending units: the first of the ranked order; more than `width` where the essential ones are more.
        """
        return tuple(sorted(self.ranked(order)[: max(width, len(self.essential(order)))]))


@dataclass(frozen=True)
class Layer:
    """What the plan and the scores need to know of a layer.

    Attributes:
        kind: "conv", "linear", "norm" or "prelu".
        filters: Output channels, or the channels that a normalisation carries.
        inputs: Input channels; 0 for layers that mix nothing.
        grouping: "dense", or how a grouped layer is cut: whole "blocks" or equal "positions" of every block.
        groups: Number of groups of a grouped convolution; 1 otherwise.
        macs: Multiply-accumulates for one image of the example, however many rows of it the layer reads.
        params: Number of parameters, those shared with an earlier layer left out.
        parents: Convolutions and linear layers whose outputs reach it without passing another one.
    """

    kind: Kind
    filters: int
    inputs: int
    grouping: Grouping
    groups: int
    macs: int
    params: int
    parents: tuple[str, ...]


@dataclass(frozen=True)
class Cost:
    """What a module that is no known layer, or a bare parameter, costs.

    Attributes:
        macs: Multiply-accumulates for one image of the example.
        params: Number of parameters.
    """

    macs: int
    params: int


@dataclass(frozen=True)
class Adapter:
    """A place where channels are picked, or put back as zeros, around functions that count channels by position.

    Attributes:
        module: The module whose argument or result is adapted.
        side: "in" for an argument, "out" for a result.
        leaf: Position of the tensor among the leaves of the arguments or results.
        dim: Dimension of the channels.
        form: "pick" keeps the channels that stay, "restore" puts zeros where channels are gone.
        owners: For every channel the group and unit that it belongs to; None for channels that always stay.
    """

    module: str
    side: Literal["in", "out"]
    leaf: int
    dim: int
    form: Form
    owners: tuple[tuple[str, int] | None, ...]

    def cut(self, staying: Mapping[str, Container[int]]) -> AdapterCut | None:
        """What is left to pick or to put back when some units go.

        Args:
            staying: Units that stay, by group; of groups that are not named all stay.

        Returns:
            The cut; None where nothing goes.
        """
        keep = tuple(
            p
            for p, owner in enumerate(self.owners)
            if owner is None or owner[0] not in staying or owner[1] in staying[owner[0]]
        )
        size = len(self.owners)
        if len(keep) == size:
            return None
        return AdapterCut(self.module, self.side, self.leaf, self.dim, self.form, keep, size)


@dataclass(frozen=True)
class Silence:
    """Units that are constant for every input (see `silent_units`).

    Attributes:
        units: They, by group.
        kept: Units that stay by group, where those go that can without changing what the network computes.
        folds: How readers take over the constants of those that go.
    """

    units: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    kept: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    folds: Mapping[str, ConstantFold] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many units are silent."""
        return sum(map(len, self.units.values()))


@dataclass(frozen=True)
class FilterGraph:
    """The result of `trace`.

    Attributes:
        layers: Convolutions, linear and normalisation layers by name, in order of execution.
        groups: Prunable groups first, then frozen ones.
        chain: Parent of each convolution as the documented method pretends: the one registered before it.
        frozen: Reason by name, for every layer of which at least one filter is never cut.
        adapters: Where channels are picked or put back around functions that count them by position.
        trains_more: Whether some layers run only in training.
        silence: What is constant already.
        others: By module or bare parameter what is computed and kept outside these layers: recurrent layers, products
            of attention, weights of the user's own. Only bare parameters that belong to a group become smaller.
        uncounted: Operations that multiply in a way that is not known, with their modules.
        earlier: The cuts that had led to the network.
        statistics: Where functions take statistics over channels that may be cut (see `channel_statistics`).
        dependencies: Who found the groups: our labels, or torch-pruning's dependency graph. Groups of the latter are
            named by their root.
        example: The form of the example, for torch-pruning's graph; None with labels.
    """

    layers: Mapping[str, Layer]
    groups: tuple[Group, ...]
    chain: Mapping[str, tuple[str, ...]]
    frozen: Mapping[str, str]
    adapters: tuple[Adapter, ...] = ()
    trains_more: bool = False
    silence: Silence = field(default_factory=Silence)
    others: Mapping[str, Cost] = field(default_factory=dict)
    uncounted: tuple[str, ...] = ()
    earlier: tuple[Stage, ...] = ()
    statistics: frozenset[Place] = frozenset()
    dependencies: Dependencies = "labels"
    example: ExampleForm | None = None

    def __str__(self) -> str:
        """The tables of `causal-prune inspect`, as text."""
        from causal_prune.tracing.graph_tables import inspection_tables  # it draws graphs

        return tables_as_text(inspection_tables(self))

    @property
    def prunable(self) -> tuple[Group, ...]:
        """The groups that may be cut."""
        return tuple(group for group in self.groups if group.frozen is None)

    @property
    def producers(self) -> tuple[str, ...]:
        """Names of the layers that make the channels of prunable groups, each once."""
        makers = (member.layer for group in self.prunable for member in group.of_role("producer"))
        return tuple(dict.fromkeys(makers))

    def parents(self, kind: Literal["graph", "chain"]) -> dict[str, tuple[str, ...]]:
        """Parents of every convolution and linear layer.

        Args:
            kind: "graph" for the true parents, "chain" for the documented ones.

        Returns:
            Names of the parents by name.
        """
        if kind == "chain":
            return dict(self.chain)
        return {name: layer.parents for name, layer in self.layers.items() if layer.inputs}

    def cuts(
        self, kept: Mapping[str, Sequence[int]], folds: Mapping[str, ConstantFold] | None = None
    ) -> Cuts:
        """What keeping some units asks of every layer.

        Args:
            kept: Units that stay, by prunable group.
            folds: Constants of those that go, by the layers that read them.

        Returns:
            The cuts; a layer that keeps everything is not among them.
        """
        staying = {name: set(units) for name, units in kept.items()}
        dropped: dict[tuple[str, str], set[int]] = {}
        parameters: dict[str, ParameterCut] = {}
        for group in self.prunable:
            gone = set(range(group.size)) - staying[group.name]
            for member in group.members if gone else ():
                positions = set(member.positions_of(gone))
                dropped.setdefault((member.layer, member.axis), set()).update(positions)
                if member.dim is not None:
                    before = parameters.get(member.layer)
                    all_there = before.keep if before else range(member.extent)
                    keep = tuple(p for p in all_there if p not in positions)
                    parameters[member.layer] = ParameterCut(member.dim, keep, member.extent, member.reads)
        layers = {}
        for name, layer in self.layers.items():
            filters = _left(layer.filters, dropped.get((name, "out")))
            inputs = _left(layer.inputs, dropped.get((name, "in")))
            if filters is not None or inputs is not None:
                layers[name] = LayerCut(filters, inputs, layer.filters, layer.inputs, layer.grouping)
        adapters = tuple(cut for each in self.adapters if (cut := each.cut(staying)) is not None)
        roots = tuple(
            RootCut(group.name, tuple(drop))
            for group in self.prunable
            if self.dependencies == "torch-pruning"
            and (drop := sorted(set(range(group.size)) - staying[group.name]))
        )
        return Cuts(layers, parameters, adapters, folds or {}, roots, self.example)

    def without(self, failing: Mapping[str, str]) -> "FilterGraph":
        """The graph with some groups, and their producers, frozen.

        Args:
            failing: Reasons by group.

        Returns:
            Another graph.
        """
        groups = [
            replace(group, frozen=failing[group.name])
            if group.name in failing and group.frozen is None
            else group
            for group in self.groups
        ]
        groups.sort(key=lambda group: group.frozen is not None)
        producers = {
            member.layer: failing[group.name]
            for group in self.prunable
            if group.name in failing
            for member in group.of_role("producer")
        }
        return replace(self, groups=tuple(groups), frozen={**producers, **self.frozen})

    def to_json(self) -> dict[str, Any]:
        """The graph as plain values: what `causal-prune inspect --json` prints.

        Returns:
            Dictionaries, lists, strings and numbers.
        """
        return {
            "layers": {name: asdict(layer) for name, layer in self.layers.items()},
            "groups": [asdict(group) for group in self.groups],
            "chain": {name: list(parents) for name, parents in self.chain.items()},
            "dependencies": self.dependencies,
            "frozen": dict(self.frozen),
            "others": {name: asdict(cost) for name, cost in self.others.items()},
            "uncounted": list(self.uncounted),
            "silent": {name: list(units) for name, units in self.silence.units.items()},
            "adapters": [
                {key: value for key, value in asdict(a).items() if key != "owners"} for a in self.adapters
            ],
        }


def _left(extent: int, gone: set[int] | None) -> tuple[int, ...] | None:
    return tuple(p for p in range(extent) if p not in gone) if gone else None
