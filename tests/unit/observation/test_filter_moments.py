import copy
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.observation import filter_moments
from causal_prune.observation import layer_reads as reading
from causal_prune.observation.filter_moments import observe
from causal_prune.tracing.network_trace import trace


def generator(seed: int = 4) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seeded(make: Callable[[], nn.Module], seed: int = 4) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().eval()


def exact(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scatter in float64, in two passes."""
    rows = rows.astype(np.float64)
    centred = rows - rows.mean(axis=0)
    return rows.mean(axis=0), centred.T @ centred


def test_a_convolution_reads_the_patches_of_all_its_inputs_jointly() -> None:
    net = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.Conv2d(4, 2, 1)))
    x = torch.randn(9, 2, 6, 6, generator=generator()) + 1
    moments = observe(net, trace(net, x[:1]), [x[:2], x[2:]])
    with torch.no_grad():
        rows = F.unfold(net[:2](x).double(), 2).movedim(1, 2).flatten(0, 1).numpy()
    found = moments.reads["2"]
    assert found.rows == len(rows) == 9 * 9 and found.shape is None
    np.testing.assert_allclose(found.covariance[0], exact(rows)[1] / len(rows), rtol=1e-5, atol=1e-8)
    assert set(moments.reads) == set(moments.states) == {"2", "3"}
    (note,) = moments.notes
    assert note.startswith("covariances between channels were shrunk")


def test_a_linear_layer_after_flatten_reads_whole_maps() -> None:
    net = seeded(
        lambda: nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 2))
    )
    x = torch.randn(7, 1, 3, 3, generator=generator())
    moments = observe(net, trace(net, x[:1]), [x])
    with torch.no_grad():
        maps = F.relu(net[0](x)).flatten(1).numpy()
    np.testing.assert_allclose(moments.reads["3"].covariance[0], exact(maps)[1] / 7, rtol=1e-5, atol=1e-10)
    assert moments.images == 7 and moments.reads["3"].rows == 7


def test_features_are_frobenius_norms_of_the_raw_output_with_those_of_the_parents() -> None:
    net = seeded(
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.Flatten(),
                              nn.Linear(16, 2))
    )  # fmt: skip
    x = torch.randn(11, 2, 5, 5, generator=generator())
    moments = observe(net, trace(net, x[:1]), [x[:4], x[4:]])
    with torch.no_grad():
        first = net[0](x)
        second = net[3](net[2](net[1](first)))
        norms = [out.double().flatten(2).norm(dim=2).numpy() for out in (first, second)]
    assert moments.features["0"].layers == ("0",) and moments.features["3"].layers == ("0", "3")
    mean, scatter = exact(np.concatenate(norms, axis=1))
    np.testing.assert_allclose(moments.features["3"].moments.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(moments.features["3"].moments.scatter, scatter, rtol=1e-6)


def test_batches_may_hold_labels_mappings_or_tuples_of_inputs() -> None:
    net = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 2, 1)))
    x = torch.randn(6, 2, 4, 4, generator=generator())
    graph = trace(net, x[:1])
    plain, labelled = (
        observe(net, graph, [x]),
        observe(net, graph, [(x[:2], torch.zeros(2)), x[:0], [x[2:], None]]),
    )
    named = observe(net, graph, iter([{"input": x}]))
    assert plain.images == labelled.images == named.images == 6
    for other in (labelled, named):
        torch.testing.assert_close(other.reads["1"].covariance, plain.reads["1"].covariance)


def test_the_network_is_left_as_it_was() -> None:
    net = seeded(
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Conv2d(3, 2, 1))
    )
    x = torch.randn(6, 2, 4, 4, generator=generator())
    graph = trace(net, x[:1])
    net.train()
    net[1].eval()
    before, modes = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    random_state = torch.get_rng_state()
    observe(net, graph, [x])
    net[0].weight.data[1, 1, 1, 1] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        observe(net, graph, [x])
    net[0].weight.data.copy_(before["0.weight"])
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize(
    ("layer", "value"), [("0", torch.nan), ("1", torch.inf), ("3", torch.nan), ("4", torch.inf)]
)
def test_an_activation_that_is_not_finite_is_named_with_its_batch(layer: str, value: float) -> None:
    net = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 1), nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 4), nn.Linear(4, 2)
        )
    )
    x = torch.rand(4, 1, 2, 2, generator=generator())
    graph = trace(net, x[:1])
    marked = []

    def look(module: nn.Module, inputs: tuple[Tensor]) -> None:
        marked[:] = [bool((inputs[0] == 7).any())]

    def poison(module: nn.Module, _: object, out: Tensor) -> Tensor:
        return out + value if marked[0] else out

    net.register_forward_pre_hook(look)
    net.get_submodule(layer).register_forward_hook(poison)
    second = x.clone()
    second[0, 0, 0, 0] = 7
    with pytest.raises(InputError, match=f"calibration: the output of {layer} is NaN or infinite in batch 2"):
        observe(net, graph, [x, second, x])


@pytest.mark.parametrize("calibration", [[], iter(()), [torch.zeros(0, 1, 2, 2)]])
def test_no_images_are_refused(calibration: list[Tensor] | Iterator[Tensor]) -> None:
    net = seeded(lambda: nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 1)))
    with pytest.raises(InputError, match="calibration: there are no images"):
        observe(net, trace(net, torch.zeros(1, 1, 2, 2)), calibration)


def test_what_the_network_does_not_take_is_named() -> None:
    net = seeded(lambda: nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 1)))
    graph, x = trace(net, torch.zeros(1, 1, 2, 2)), torch.zeros(4, 1, 2, 2)
    refused = (
        r"observe: the network does not accept batch 2 of calibration, \[\(4, 3, 2, 2\)\]: Given groups=1"
    )
    with pytest.raises(InputError, match=refused):
        observe(net, graph, [x, x.expand(-1, 3, -1, -1)])
    with pytest.raises(
        InputError, match="observe: the network has no layer 0: give the network that graph was"
    ):
        observe(net[0], graph, [x])
    assert not any(m._forward_hooks for m in net.modules())


def test_an_error_of_its_own_is_not_blamed_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    net = seeded(lambda: nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 1)))

    def fail(*_: object) -> None:
        raise RuntimeError("ours")

    graph = trace(net, torch.zeros(1, 1, 2, 2))
    monkeypatch.setattr("causal_prune.observation.filter_moments.rows_read", fail)
    with pytest.raises(RuntimeError, match="ours"):
        observe(net, graph, [torch.zeros(4, 1, 2, 2)])


def wide() -> tuple[nn.Module, Tensor]:
    net = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 7),
            nn.ReLU(), nn.Linear(7, 2),
        )
    )  # fmt: skip
    return net, torch.randn(30, 1, 8, 8, generator=generator())


def test_layers_are_read_as_channels_where_their_patches_do_not_fit(recwarn: pytest.WarningsRecorder) -> None:
    net, x = wide()
    graph = trace(net, x[:1])
    exactly = observe(net, graph, [x])
    assert not recwarn.list
    with pytest.warns(
        UserWarning, match="5 is read as channels: its patches of 80 numbers are not within"
    ) as caught:
        moments = observe(net, graph, [x[:7], x[7:]], max_memory=60_000)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert moments.notes[:-1] == (str(caught[0].message),) and "were shrunk" in moments.notes[-1]
    assert moments.reads["2"].shape is None, "the longest patches go first"
    found, joint = moments.reads["5"], exactly.reads["5"]
    assert found.covariance.shape == (1, 5, 5) and found.shape.shape == (16, 16)
    blocks = joint.covariance[0].reshape(5, 16, 5, 16)
    torch.testing.assert_close(found.covariance[0], blocks.diagonal(dim1=1, dim2=3).mean(2))
    own = torch.stack([blocks[c, :, c] / blocks[c, :, c].trace() * 16 for c in range(5)]).mean(0)
    torch.testing.assert_close(found.shape, own)


def test_what_fits_nowhere_is_said_and_patches_too_long_to_invert_are_never_read_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, x = wide()
    graph = trace(net, x[:1])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        moments = observe(net, graph, [x], max_memory=1)
    texts = [str(warning.message) for warning in caught]
    assert texts == list(moments.notes[:-1]) and "were shrunk" in moments.notes[-1]
    assert any("the moments take 0 MB, more than the 0 MB that max_memory leaves" in text for text in texts)
    assert any("the documented score is not available for 0, 2" in text for text in texts)
    assert moments.reads["2"].shape is not None and moments.features == {}
    monkeypatch.setattr(reading, "LONGEST_PATCH", 60)
    with pytest.warns(UserWarning, match="5 is read as channels: .* longer than 60"):
        observe(net, graph, [x])


@pytest.mark.parametrize("max_memory", [0, -5])
def test_a_limit_that_holds_nothing_is_refused(max_memory: int) -> None:
    net, x = wide()
    with pytest.raises(InputError, match=f"max_memory: {max_memory} bytes hold nothing"):
        observe(net, trace(net, x[:1]), [x], max_memory=max_memory)


def test_the_bar_counts_images(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = wide()
    sizes: list[int] = []

    def track(items, label, *, count):
        for item in items:
            sizes.append(count(item))
            yield item

    monkeypatch.setattr(filter_moments, "track", track)
    observe(net, trace(net, x[:1]), [x[:4], (x[4:9], None), {"input": x[9:]}])
    assert sizes == [4, 5, 21]


def test_views_of_an_image_are_no_further_samples() -> None:
    net = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)
        )
    )
    images = torch.randn(12, 2, 8, 8, generator=generator())
    graph = trace(net, images[:1])
    once = observe(net, graph, [images])
    twice = observe(net, graph, list(images.repeat_interleave(2, dim=0).split(8)), views=2)
    taken_for_images = observe(net, graph, [images.repeat_interleave(2, dim=0)])
    for name, read in once.reads.items():
        assert twice.reads[name].shrinkage == pytest.approx(read.shrinkage)
        assert taken_for_images.reads[name].shrinkage < 0.6 * read.shrinkage
        torch.testing.assert_close(twice.reads[name].covariance, read.covariance)
