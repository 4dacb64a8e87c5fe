"""Joint moments of norms against those of the rows written side by side."""

import numpy as np
import pytest
import torch
from torch import Tensor

from causal_prune.observation.filter_norms import FeatureMoments, NormFamilies
from causal_prune.observation.gathering import moments_of
from causal_prune.tracing.filter_graph import FilterGraph, Layer

PLENTY = 10**9


def graph(layers: dict[str, tuple[int, str]], chain: dict[str, tuple[str, ...]] | None = None) -> FilterGraph:
    """Convolutions by name, each with its filters and the first letters of its parents; "f" is a linear layer."""
    made = {
        name: Layer("linear" if name == "f" else "conv", filters, 1, "dense", 1, 0, 0, tuple(parents))
        for name, (filters, parents) in layers.items()
    }
    return FilterGraph(made, (), chain or {}, {})


def squares(images: int, filters: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(images, filters, generator=generator, dtype=torch.float64) * 9


def check(found: FeatureMoments, rows: Tensor) -> None:
    """Whether these are the moments of rows, in two passes."""
    values = rows.numpy()
    centred = values - values.mean(axis=0)
    assert found.moments.count == len(values)
    np.testing.assert_allclose(found.moments.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.moments.scatter, centred.T @ centred, rtol=1e-10, atol=1e-12)


def test_a_layer_stands_behind_its_true_and_its_documented_parents() -> None:
    families = NormFamilies(
        graph({"a": (2, ""), "b": (3, "a"), "c": (4, "a"), "f": (5, "c")}, {"b": ("a",), "c": ("b",)}), PLENTY
    )
    seen = {name: squares(11, filters, filters) for name, filters in (("a", 2), ("b", 3), ("c", 4))}
    for batch in (slice(0, 4), slice(4, 5), slice(5, 11)):
        for name, values in seen.items():
            families.see(name, values[batch])
        families.end_batch()
    families.gather()
    found, norms = families.result(), {name: values.sqrt() for name, values in seen.items()}
    assert {child: moments.layers for child, moments in found.items()} == {
        "a": ("a",),
        "b": ("a", "b"),
        "c": ("a", "b", "c"),
    }
    for moments in found.values():
        check(moments, torch.cat([norms[name] for name in moments.layers], dim=1))
    assert families.notes == ()


def test_a_layer_is_not_its_own_parent_and_linear_layers_are_none() -> None:
    families = NormFamilies(graph({"a": (2, "a"), "f": (3, "a"), "b": (2, "fa")}), PLENTY)
    for name in "ab":
        families.see(name, squares(3, 2, 1))
    families.end_batch()
    assert {child: each.layers for child, each in families.result().items()} == {"a": ("a",), "b": ("a", "b")}


def test_the_calls_of_one_batch_are_added_up() -> None:
    families = NormFamilies(graph({"a": (2, "")}), PLENTY)
    first, again, other = squares(5, 2, 1), squares(5, 2, 2), squares(3, 2, 3)
    given = first.clone()
    families.see("a", first)
    families.see("a", again)
    families.end_batch()
    families.see("a", other)
    families.end_batch()
    check(families.result()["a"], torch.cat((first + again, other)).sqrt())
    assert torch.equal(first, given)


def test_a_layer_that_does_not_run_has_norms_of_zero_where_its_relatives_run() -> None:
    families = NormFamilies(graph({"a": (2, ""), "b": (3, "a"), "z": (1, "")}), PLENTY)
    a, b, z = squares(6, 2, 1), squares(2, 3, 2), squares(9, 1, 3)
    families.see("a", a[:4])
    families.end_batch()
    families.see("a", a[4:])
    families.see("b", b)
    families.end_batch()
    families.see("z", z)
    families.end_batch()
    families.end_batch()
    found = families.result()
    check(found["b"], torch.cat((a.sqrt(), torch.cat((torch.zeros(4, 3), b.sqrt()))), dim=1))
    check(found["z"], z.sqrt())


@pytest.mark.parametrize(
    ("layers", "widths"),
    [
        ({"a": (10, ""), "b": (2, "a"), "c": (2, "a")}, [14]),  # 14^2 is less than twice 12^2
        ({"a": (3, ""), "b": (4, "a"), "c": (5, ""), "d": (6, "c")}, [7, 11]),
        ({"a": (1, ""), "b": (9, "a"), "c": (9, "a")}, [10, 10]),  # 19^2 is more than twice 10^2
        ({"a": (4, ""), "b": (3, "a"), "c": (2, "ab")}, [9]),  # one holds the relatives of all
    ],
)
def test_children_share_a_matrix_where_that_is_smaller(
    layers: dict[str, tuple[int, str]], widths: list[int]
) -> None:
    families = NormFamilies(graph(layers), PLENTY)
    assert families.bytes == sum(8 * width**2 for width in widths)
    for name, (filters, _) in layers.items():
        families.see(name, squares(4, filters, filters))
    families.end_batch()
    found = families.result()
    assert len({id(moments.family) for moments in found.values()}) == len(widths)


def test_the_largest_matrices_are_left_out_where_memory_is_short_and_it_is_said() -> None:
    layers = {"a": (3, ""), "b": (4, "a"), "c": (50, ""), "d": (60, "c")}
    families = NormFamilies(graph(layers), 2000)
    assert families.bytes == 8 * 7**2
    (note,) = families.notes
    assert note == (
        "the documented score is not available for c, d: "
        "the joint moments of their parents do not fit into 0 MB of memory"
    )
    for name, (filters, _) in layers.items():
        families.see(name, squares(4, filters, filters))
    families.end_batch()
    assert families.result().keys() == {"a", "b"}
    nothing = NormFamilies(graph(layers), 0)
    nothing.see("a", squares(4, 3, 1))
    nothing.end_batch()
    assert nothing.bytes == 0 and nothing.result() == {}


def test_filters_are_taken_out_of_the_family_in_the_order_asked_for() -> None:
    rows = squares(20, 5, 4)
    found = FeatureMoments(("x", "y"), moments_of(rows), torch.tensor([4, 0, 1]))
    check(found, rows[:, [4, 0, 1]])
