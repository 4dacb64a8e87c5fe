"""What layers read: covariances of patches written out, and of channels where patches would not fit."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causal_prune.network.layer_matrices import flat_weight
from causal_prune.observation import layer_reads
from causal_prune.observation.layer_reads import (
    ReadGathering,
    ReadMoments,
    how_shrunk,
    planned_reads,
    undetermined,
)
from causal_prune.tracing.network_trace import trace

CPU = torch.device("cpu")
PLENTY = 10**9


def random(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(groups: int, rows: int, elements: int, channels: int) -> Tensor:
    """Rows of correlated numbers whose means are far from 0, shape (groups, rows, elements, channels)."""
    inputs = elements * channels
    mixed = random(groups, rows, inputs) @ random(groups, inputs, inputs, seed=3) + torch.arange(inputs)
    return mixed.reshape(groups, rows, elements, channels)


def gathered(rows: Tensor, *, whole: bool, sizes: list[int]) -> ReadMoments:
    gathering = ReadGathering(rows.shape[0], rows.shape[3], rows.shape[2], whole, CPU)
    assert not gathering.seen
    for part in rows.split(sizes, dim=1):
        gathering.add(part.clone())
    assert gathering.seen
    return gathering.result()


@pytest.mark.parametrize("sizes", [[40], [7, 0, 33]])
@pytest.mark.parametrize(("groups", "elements", "channels"), [(1, 4, 3), (2, 1, 5), (3, 2, 1)])
def test_whole_patches_have_their_covariance_with_the_elements_of_a_channel_side_by_side(
    groups: int, elements: int, channels: int, sizes: list[int]
) -> None:
    rows = drawn(groups, 40, elements, channels)
    found = gathered(rows, whole=True, sizes=sizes)
    assert found.rows == 40 and found.shape is None
    order = [(element, channel) for channel in range(channels) for element in range(elements)]
    for group in range(groups):
        side_by_side = np.array([[row[place] for place in order] for row in rows[group].numpy()])
        expected = np.cov(side_by_side.T, bias=True).reshape(found.covariance[group].shape)
        np.testing.assert_allclose(found.covariance[group], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("groups", "elements", "channels"), [(1, 4, 3), (2, 3, 2)])
def test_channels_alone_have_the_mean_over_elements_and_the_mean_look_of_a_patch(
    groups: int, elements: int, channels: int
) -> None:
    rows = drawn(groups, 50, elements, channels)
    rows[0, :, :, 1] = 5.0  # a channel that is always the same looks like nothing
    found = gathered(rows, whole=False, sizes=[20, 30])
    data, looks = rows.numpy(), []
    for group in range(groups):
        of_elements = [np.cov(data[group, :, e].T, bias=True) for e in range(elements)]
        np.testing.assert_allclose(
            found.covariance[group], np.mean(of_elements, axis=0), rtol=1e-10, atol=1e-10
        )
        for channel in range(channels):
            own = np.cov(data[group, :, :, channel].T, bias=True)
            if np.trace(own) > 0:
                looks.append(own / np.trace(own) * elements)
    assert len(looks) == groups * channels - 1 and found.shape is not None
    np.testing.assert_allclose(found.shape, np.mean(looks, axis=0), rtol=1e-10, atol=1e-10)
    assert float(found.shape.trace()) == pytest.approx(elements)


def test_where_nothing_ever_varies_elements_do_not_go_together() -> None:
    found = gathered(torch.full((1, 9, 3, 2), 4.0, dtype=torch.float64), whole=False, sizes=[9])
    assert found.shape is not None and torch.equal(found.shape, torch.eye(3, dtype=torch.float64))
    assert not found.covariance.any()


@pytest.mark.parametrize(
    ("layer", "groups", "elements", "channels"),
    [
        (nn.Conv2d(6, 4, (2, 3), groups=2), 2, 6, 6),
        (nn.Conv2d(3, 3, 2, groups=3), 3, 4, 3),
        (nn.ConvTranspose2d(4, 6, 2, groups=2), 2, 4, 4),
        (nn.Linear(5, 3), 1, 1, 5),
    ],
    ids=["grouped", "depthwise", "transposed", "linear"],
)
def test_the_columns_of_a_channel_are_those_that_its_weights_stand_in(
    layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, groups: int, elements: int, channels: int
) -> None:
    inside = channels // groups
    with torch.no_grad():  # every weight says which channel it multiplies
        for channel in range(channels):
            if isinstance(layer, nn.ConvTranspose2d):
                layer.weight[channel] = channel
            else:
                filters = len(layer.weight) // groups
                first = channel // inside * filters
                layer.weight[first : first + filters, channel % inside] = channel
    read = ReadMoments(99, torch.zeros(groups, inside * elements, inside * elements), None)
    equations = read.equations(flat_weight(layer))
    for channel in range(channels):
        group, columns = read.columns(channel, elements)
        assert [[group, column] for column in columns] == (equations[:, 0] == channel).nonzero().tolist()


@pytest.mark.parametrize(
    ("groups", "elements", "position", "place"),
    [
        (2, 9, 0, (0, [0])),
        (2, 9, 2, (0, [2])),
        (2, 9, 3, (1, [0])),
        (2, 9, 5, (1, [2])),
        (1, 1, 0, (0, [0])),
        (1, 1, 3, (0, [0])),  # the last of four pixels
        (1, 1, 4, (0, [1])),
        (1, 1, 11, (0, [2])),
    ],
)
def test_channels_alone_are_one_column_each_and_so_are_the_pixels_of_a_flattened_map(
    groups: int, elements: int, position: int, place: tuple[int, list[int]]
) -> None:
    shape = torch.eye(9 if elements == 9 else 4)
    assert ReadMoments(99, torch.zeros(groups, 3, 3), shape).columns(position, elements) == place


def test_the_equations_give_a_filters_variance() -> None:
    """Of whole patches exactly; of channels alone that under covariance (x) shape."""
    layer = nn.Conv2d(2, 3, 2, bias=False).double()
    images = random(5, 2, 6, 6)
    patches = F.unfold(images, 2).transpose(1, 2).flatten(0, 1)  # the elements of a channel side by side
    rows = patches.reshape(1, -1, 2, 4).transpose(2, 3).contiguous()
    whole = gathered(rows, whole=True, sizes=[len(patches)])
    equations = whole.equations(flat_weight(layer))
    variance = (equations @ whole.covariance * equations).sum(dim=2)[0]
    with torch.no_grad():
        out = layer(images)
    torch.testing.assert_close(variance, out.movedim(1, 0).flatten(1).var(dim=1, correction=0))

    channels = gathered(rows, whole=False, sizes=[len(patches)])
    assert channels.shape is not None
    equations = channels.equations(flat_weight(layer))
    assert equations.shape == (1, 3 * 4, 2)
    found = (equations @ channels.covariance * equations).sum(dim=2).reshape(3, 4).sum(dim=1)
    whole_of = np.kron(channels.covariance[0].numpy(), channels.shape.numpy())
    flat = layer.weight.detach().flatten(1).numpy()
    np.testing.assert_allclose(found, [w @ whole_of @ w for w in flat], rtol=1e-10)


def network() -> nn.Sequential:
    """Read are by "2" 24 numbers of a patch, by "4" 5 channels, by "6" 20 features, by "8" 7."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 2), nn.ReLU(), nn.Conv2d(5, 5, 1), nn.Flatten(),
        nn.Linear(20, 7), nn.ReLU(), nn.Linear(7, 2),
    )  # fmt: skip


def planned(limit: int) -> tuple[dict[str, list[tuple[int, ...]]], tuple[str, ...]]:
    """By layer the shapes of what is added up, and the notes."""
    net = network()
    found, notes = planned_reads(dict(net.named_modules()), trace(net, torch.zeros(1, 1, 5, 5)), limit, CPU)
    assert not any(reading.seen for reading in found.values())
    return {
        name: [tuple(each.scatter.shape) for each in reading.gatherings] for name, reading in found.items()
    }, notes


WHOLE = {"2": [(1, 24, 24)], "4": [(1, 5, 5)], "6": [(1, 20, 20)], "8": [(1, 7, 7)]}
OF_2, OF_6 = [(1, 6, 6), (6, 4, 4)], [(1, 5, 5), (5, 4, 4)]
BYTES = 8 * (24**2 + 5**2 + 20**2 + 7**2)
LESS = BYTES - 8 * 24**2 + 8 * (6**2 + 6 * 4**2)
LEAST = LESS - 8 * 20**2 + 8 * (5**2 + 5 * 4**2)


@pytest.mark.parametrize(
    ("limit", "channels"),
    [(BYTES, {}), (BYTES - 1, {"2": OF_2}), (LESS, {"2": OF_2}), (LESS - 1, {"2": OF_2, "6": OF_6})],
)
def test_the_longest_patches_are_read_as_channels_until_all_fit(
    limit: int, channels: dict[str, list[tuple[int, ...]]]
) -> None:
    shapes, notes = planned(limit)
    assert shapes == WHOLE | channels
    length = {"2": 24, "6": 20}
    assert notes == tuple(
        f"{name} is read as channels: its patches of {length[name]} numbers are not within 0 MB of memory"
        for name in channels
    )


def test_what_does_not_fit_even_as_channels_is_read_all_the_same_and_said() -> None:
    assert len(planned(LEAST)[1]) == 2
    shapes, (*_, last) = planned(LEAST - 1)
    assert shapes == WHOLE | {"2": OF_2, "6": OF_6}
    assert last == (
        "the moments take 0 MB, more than the 0 MB that max_memory leaves for them, though all layers that can be "
        "are read as channels"
    )


def test_patches_too_long_to_invert_are_never_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_reads, "LONGEST_PATCH", 22)
    shapes, notes = planned(PLENTY)
    assert shapes == WHOLE | {"2": OF_2}
    assert notes == ("2 is read as channels: its patches of 24 numbers are longer than 22",)


def test_groups_are_read_apart() -> None:
    net = nn.Sequential(nn.Conv2d(1, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 4, 2, groups=2))
    graph = trace(net, torch.zeros(1, 1, 5, 5))
    found, _ = planned_reads(dict(net.named_modules()), graph, PLENTY, CPU)
    assert found.keys() == {"2"} and found["2"].gatherings[0].scatter.shape == (2, 12, 12)


def test_a_layer_that_saw_no_more_patches_than_it_has_inputs_is_named() -> None:
    reads = {
        name: ReadMoments(rows, torch.zeros(1, 6, 6), None) for name, rows in (("a", 7), ("b", 6), ("c", 2))
    }
    assert undetermined(reads) == (
        "6 patches cannot determine how the 6 inputs of b reproduce each other: give more images",
        "2 patches cannot determine how the 6 inputs of c reproduce each other: give more images",
    )


def test_what_is_believed_keeps_the_blocks_of_channels() -> None:
    covariance = torch.rand(2, 6, 6, dtype=torch.float64)
    read = ReadMoments(9, covariance, None, shrinkage=0.25)
    found = read.believed(3)
    for channel in range(2):
        own = slice(3 * channel, 3 * channel + 3)
        assert torch.equal(found[:, own, own], covariance[:, own, own])
    torch.testing.assert_close(found[:, :3, 3:], 0.75 * covariance[:, :3, 3:])
    torch.testing.assert_close(found[:, 3:, :3], 0.75 * covariance[:, 3:, :3])
    alone = ReadMoments(9, covariance, torch.eye(4), shrinkage=0.25).believed(4)
    assert torch.equal(alone.diagonal(dim1=1, dim2=2), covariance.diagonal(dim1=1, dim2=2))
    assert float(alone[0, 0, 1]) == pytest.approx(0.75 * float(covariance[0, 0, 1]))
    assert ReadMoments(9, covariance, None).believed(3) is covariance


def test_how_much_was_shrunk_is_a_sentence() -> None:
    def reads(**shares: float) -> dict[str, ReadMoments]:
        return {name: ReadMoments(9, torch.zeros(1, 2, 2), None, share) for name, share in shares.items()}

    assert how_shrunk({}) == how_shrunk(reads(a=0.0, b=0.0009)) == ()
    by = "by 2.0% at the median layer, by 45.5% at b"
    text = f"covariances between channels were shrunk for what the images leave open: {by}"
    assert how_shrunk(reads(a=0.01, b=0.455, c=0.02)) == (text,)
