"""Joint moments of the Frobenius norms of filters: what the documented score needs."""

from collections.abc import Container, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from causal_prune.network.row_groups import per_image
from causal_prune.observation.gathering import Gathering, Moments, gather_all
from causal_prune.tracing import FilterGraph


@dataclass(frozen=True)
class FeatureMoments:
    """Joint moments of the Frobenius norms of a convolution's filters and of other convolutions' filters.

    Attributes:
        layers: The convolutions whose filters stand side by side, in this order; the child is the last.
        family: Moments over images of these filters and others: one matrix serves children of common parents.
        columns: Where the filters of `layers` stand in it.
    """

    layers: tuple[str, ...]
    family: Moments
    columns: Tensor

    @property
    def moments(self) -> Moments:
        """Over images; p is the sum of the layers' filters. Taken out of `family` at every call."""
        return self.family.picked(self.columns)


class NormFamilies:
    """Gathers norms for every convolution together with its parents, true and documented.

    Children that share parents share a matrix, where that is smaller than one for each.

    Args:
        graph: From `trace`.
        limit: Bytes that the matrices may take; the largest are left out where they would take more.
    """

    def __init__(self, graph: FilterGraph, limit: int) -> None:
        self._filters = {name: layer.filters for name, layer in graph.layers.items() if layer.kind == "conv"}
        self._squares: dict[str, Tensor] = {}
        self._sets: dict[str, tuple[str, ...]] = {}
        for name in self._filters:
            related = dict.fromkeys((*graph.layers[name].parents, *graph.chain.get(name, ())))
            self._sets[name] = (*(p for p in related if p in self._filters and p != name), name)
        families: list[dict[str, None]] = []
        for child in sorted(self._sets, key=lambda name: -self._width(self._sets[name])):
            members = dict.fromkeys(self._sets[child])
            for family in families:
                if self._width(family | members) ** 2 <= self._width(family) ** 2 + self._width(members) ** 2:
                    family.update(members)
                    break
            else:
                families.append(members)
        families.sort(key=self._width)
        self.notes: tuple[str, ...] = ()
        self._families: list[tuple[str, ...]] = []
        self.bytes = 0
        for family in families:
            size = 8 * self._width(family) ** 2
            if self.bytes + size <= limit:
                self._families.append(tuple(family))
                self.bytes += size
        lost = [child for child in self._sets if self._family(child) is None]
        if lost:
            note = (
                f"the documented score is not available for {', '.join(lost)}: the joint moments of their parents "
                f"do not fit into {limit / 1e6:.0f} MB of memory"
            )
            self.notes = (note,)
        self._gathered = [
            Gathering(1, 1, self._width(family), torch.device("cpu")) for family in self._families
        ]

    def _width(self, layers: Mapping[str, None] | tuple[str, ...]) -> int:
        return sum(self._filters[name] for name in layers)

    def _family(self, child: str) -> int | None:
        wanted = set(self._sets[child])
        return next((k for k, family in enumerate(self._families) if wanted <= set(family)), None)

    def see(self, name: str, squares: Tensor) -> None:
        """Take down one call of a convolution; the calls of one batch are added up.

        Args:
            name: The convolution.
            squares: Sum of squares over space, shape (N, filters), float64.
        """
        self._squares[name] = self._squares[name] + squares if name in self._squares else squares

    def layers_with_other_rows(self, images: int) -> list[str]:
        """Convolutions that returned another number of rows than the batch has images.

        Args:
            images: Of the batch.

        Returns:
            Their names.
        """
        return [name for name, squares in self._squares.items() if len(squares) != images]

    def end_batch(self, images: int | None = None, apart: Container[str] = ()) -> None:
        """Count the images of the batch.

        Args:
            images: How many; None for as many as the layers returned rows.
            apart: Layers of which the rows of one image stand apart (see `row_groups`).
        """
        if images is not None:
            self._squares = {
                name: per_image(squares, images, apart=name in apart)
                for name, squares in self._squares.items()
            }
        for family, gathering in zip(self._families, self._gathered, strict=True):
            known = [self._squares[name] for name in family if name in self._squares]
            if known:
                columns = [
                    self._squares.get(name, known[0].new_zeros(len(known[0]), self._filters[name]))
                    for name in family
                ]
                gathering.add(torch.cat(columns, dim=1).sqrt()[None, :, None])
        self._squares.clear()

    def gather(self) -> None:
        """Let every process have the moments of all."""
        for gathering in self._gathered:
            gather_all(gathering)

    def result(self) -> dict[str, FeatureMoments]:
        """The moments by child.

        Returns:
            Moments; children that found no room are absent.
        """
        found: dict[str, FeatureMoments] = {}
        whole = [gathering.result() for gathering in self._gathered]
        flat = [Moments(each.count, each.mean[0], each.scatter[0]) for each in whole]
        for child, layers in self._sets.items():
            k = self._family(child)
            if k is None:
                continue
            starts, start = {}, 0
            for name in self._families[k]:
                starts[name] = start
                start += self._filters[name]
            columns = torch.cat(
                [torch.arange(starts[name], starts[name] + self._filters[name]) for name in layers]
            )
            found[child] = FeatureMoments(layers, flat[k], columns)
        return found
