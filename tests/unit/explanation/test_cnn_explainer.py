"""The manners of CausalCNNExplainer; its numbers are tested against the original in tests/oracle."""

import copy

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from torch import Tensor, nn

import causal_prune
from causal_prune.errors import InputError
from causal_prune.explanation.cnn_explainer import CausalCNNExplainer


class Odd(nn.Module):
    """Children named by digits, a ModuleDict, one convolution called twice and one never."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU())
        self.extra = nn.ModuleDict({"shared": nn.Conv2d(6, 6, 3, padding=1), "unused": nn.Conv2d(6, 2, 1)})
        self.norm, self.last = nn.BatchNorm2d(6), nn.Conv2d(6, 5, 1)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        x = self.extra["shared"](torch.relu(self.extra["shared"](x)))
        return self.head(self.last(self.norm(x)).mean((2, 3)))


@pytest.fixture
def odd() -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Odd(), torch.randn(40, 3, 8, 8) * torch.linspace(0.5, 2, 40).reshape(-1, 1, 1, 1)


@pytest.fixture
def taught(odd) -> CausalCNNExplainer:
    net, images = odd
    explainer = CausalCNNExplainer(net)
    with pytest.warns(UserWarning, match="extra.unused never ran; it is left out of the chain"):
        explainer.collect_data(images.split(16))
    explainer.learn_structural_equations()
    return explainer


def test_it_is_a_public_name() -> None:
    assert causal_prune.CausalCNNExplainer is CausalCNNExplainer


def test_shared_and_unused_convolutions(taught, odd) -> None:
    net, images = odd
    assert [name for name, _ in taught.conv_layers] == ["body.0", "extra.shared", "extra.unused", "last"]
    assert set(taught.dag) == {0, 1, 3}
    assert (
        taught.dag[3]["parents"] == [1]
        and taught.dag[1]["children"] == [3]
        and taught.dag[0]["parents"] == []
    )
    assert taught.dag[1]["layer"] is net.extra["shared"] and taught.dag[1]["filters"] == 6
    with torch.no_grad():
        first = net.extra["shared"](net.body(images))
        second = net.extra["shared"](torch.relu(first))
    norms = (first.double().square().sum((2, 3)) + second.double().square().sum((2, 3))).sqrt()
    np.testing.assert_allclose(taught.filter_outputs[1], norms, rtol=1e-5)
    np.testing.assert_array_equal(taught.parent_outputs[3], taught.filter_outputs[1])
    pruned = taught.prune_filters_by_importance(50)
    gone = {name: int(m.weight.flatten(1).eq(0).all(1).sum()) for name, m in taught.conv_layers}
    assert gone == {"body.0": 0, "extra.shared": 0, "extra.unused": 0, "last": 0}, "the caller's is untouched"
    gone = {
        name: int(pruned.get_submodule(name).weight.flatten(1).eq(0).all(1).sum())
        for name, _ in taught.conv_layers
    }
    assert gone == {"body.0": 3, "extra.shared": 3, "extra.unused": 0, "last": 2}


def test_the_model_keeps_its_modes_statistics_and_hooks(odd) -> None:
    net, images = odd
    net.train()
    net.norm.eval()
    state = copy.deepcopy(net.state_dict())
    explainer = CausalCNNExplainer(net)
    with pytest.warns(UserWarning, match="never ran"):
        explainer.collect_data([(images, torch.zeros(40))])
    explainer.learn_structural_equations()
    explainer.heatmaps(images[0])
    assert net.training and not net.norm.training
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


def test_hooks_go_even_after_an_error(odd) -> None:
    net, images = odd
    images[3] = torch.nan
    with pytest.raises(InputError, match="the output of body.0 is NaN or infinite in batch 2"):
        CausalCNNExplainer(net).collect_data([torch.ones(2, 3, 8, 8), images])
    assert not any(module._forward_hooks for module in net.modules()) and net.training


def test_a_function_of_ones_own_measures_the_maps(odd) -> None:
    net, images = odd
    explainer = CausalCNNExplainer(net)
    with pytest.warns(UserWarning, match="never ran"):
        explainer.collect_data([images], lambda output: output.abs().amax((2, 3)))
    with torch.no_grad():
        expected = net.body[0](images).abs().amax((2, 3))
    np.testing.assert_allclose(explainer.filter_outputs[0], expected, rtol=1e-6)
    with pytest.raises(
        InputError, match="frobenius_norm_func: returned .40, 6, 8. for body.0; it must return .40"
    ):
        explainer.collect_data([images], lambda output: output.sum(3))


def test_what_is_missing_is_said(odd) -> None:
    net, images = odd
    explainer = CausalCNNExplainer(net)
    with pytest.raises(InputError, match="there are no data; call collect_data first"):
        explainer.learn_structural_equations()
    with pytest.raises(InputError, match="call collect_data, then learn_structural_equations, first"):
        explainer.prune_filters_by_importance(10)
    with pytest.raises(InputError, match="data_loader: there are no images"):
        explainer.collect_data([])
    with pytest.raises(InputError, match="there is no Conv2d in it"):
        CausalCNNExplainer(nn.Linear(2, 2))
    with pytest.warns(UserWarning, match="never ran"):
        explainer.collect_data([images[:1]])
    with pytest.raises(InputError, match="one image determines no equation"):
        explainer.learn_structural_equations()
    with pytest.warns(UserWarning, match="never ran"):
        explainer.collect_data([images[:4]])
    with pytest.warns(
        UserWarning, match="4 images cannot determine the equations of .*, which has 6 parents"
    ):
        explainer.learn_structural_equations()


@pytest.mark.parametrize("percent", [-25, 100, 150, float("nan")])
def test_percents_outside_are_refused(taught, percent: float) -> None:
    for prune in (taught.prune_filters_by_importance, taught.prune_random_filters):
        with pytest.raises(InputError, match=f"percent: {percent} is not in .0, 100."):
            prune(percent)


def test_zero_percent_is_a_copy_and_a_little_is_one_filter(taught, odd) -> None:
    same = taught.prune_filters_by_importance(0)
    assert same is not odd[0]
    assert all(torch.equal(v, same.state_dict()[k]) for k, v in odd[0].state_dict().items())
    little = taught.prune_random_filters(0.1)
    assert int(little.last.weight.flatten(1).eq(0).all(1).sum()) == 1


def test_plots_are_returned_and_nothing_stays_open(taught, odd) -> None:
    net, images = odd
    with torch.no_grad():
        net.body[0].weight[2] = 0  # a dead filter has no range
    figures = [
        taught.visualize_heatmap_on_input(images[0]),
        taught.visualize_heatmap_on_input(images[:3], mean=None, std=None),
        taught.visualize_first_layer_filters(5),
        taught.plot_importance_distribution(),
        taught.visualize_filter_tsne(3),
    ]
    assert all(isinstance(figure, Figure) and figure.axes for figure in figures)
    assert [len(figure.axes) for figure in figures[:2]] == [3, 9]
    assert pyplot.get_fignums() == []
    assert [tick.get_text() for tick in figures[3].axes[0].get_xticklabels()] == [
        "body.0",
        "extra.shared",
        "last",
    ]
    for figure in figures:
        figure.canvas.draw()


def test_grey_images_are_drawn_and_other_shapes_refused() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        net, images = Odd(channels=1), torch.randn(30, 1, 8, 8)
    explainer = CausalCNNExplainer(net)
    with pytest.warns(UserWarning, match="never ran"):
        explainer.collect_data([{"x": images}])
    explainer.learn_structural_equations()
    drawn = explainer.heatmaps(images[:2])
    assert [each.image.shape for each in drawn] == [(8, 8, 3)] * 2
    assert drawn[0].image.min() == 0 and drawn[0].image.max() == 1
    with pytest.raises(InputError, match="images: the shape is .5, 8, 8.; give"):
        explainer.heatmaps(torch.zeros(5, 8, 8))
    flat = explainer.heatmaps(torch.zeros(1, 8, 8))[0]
    assert np.isfinite(flat.heat).all()
    with pytest.raises(InputError, match="layer_idx: 2 is not one of 0, 1, 3"):
        explainer.visualize_filter_tsne(2)
    with pytest.raises(InputError, match="n_filters: 0 is not at least 1"):
        explainer.visualize_first_layer_filters(0)
