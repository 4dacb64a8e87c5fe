import copy
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.importance.scoring import score
from causal_prune.observation.filter_moments import observe
from causal_prune.planning.unit_choice import plan
from causal_prune.surgery.pruning_plan import PruningPlan
from causal_prune.surgery.rebuilding import bundle_weights, load
from causal_prune.surgery.removal import remove
from causal_prune.surgery.silencing import zero, zero_masks
from causal_prune.tracing.network_trace import trace


class Residual(nn.Module):
    """Two blocks on one stream, with a strided projection between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.a, self.a_norm = nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.b, self.b_norm = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.c, self.c_norm = nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12)
        self.shortcut = nn.Conv2d(8, 12, 1, stride=2)
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.b_norm(self.b(F.relu(self.a_norm(self.a(x))))))
        x = F.relu(self.shortcut(x) + self.c_norm(self.c(x)))
        return self.fc(x.mean((2, 3)))


class Concat(nn.Module):
    """Two branches side by side under one batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(14)
        self.mix, self.head = nn.Conv2d(14, 6, 3), nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((F.relu(self.left(x)), self.right(x)), dim=1)
        return self.head(F.relu(self.mix(F.relu(self.norm(x)))))


class SqueezeExcite(nn.Module):
    """A channel gate, whose own channels are cut as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.reduce, self.expand = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm(self.conv(x)))
        gate = torch.sigmoid(self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))))
        return self.head(x * gate)


class Scaled(nn.Module):
    """A bare parameter and a bare buffer along the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.gamma = nn.Parameter(torch.linspace(0.5, 2.0, 8).reshape(8, 1, 1))
        self.register_buffer("shift", torch.linspace(-1.0, 1.0, 8).reshape(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x) * self.gamma + self.shift))


class Tied(nn.Module):
    """Two names for one layer, and two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.b.weight = self.a.weight
        self.alias = self.stem
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(self.a(F.relu(self.alias(x)))))))


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2, dilation=2),
        nn.BatchNorm2d(12), nn.PReLU(12), nn.Conv2d(12, 3, 1),
    )  # fmt: skip


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 16, 1), nn.Conv2d(16, 32, 3, groups=16), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 3, 1),
    )  # fmt: skip


def grouped(groups: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, groups=groups),
        nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 3, 1),
    )  # fmt: skip


def transposed(groups: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.ConvTranspose2d(8, 12, 3, stride=2, padding=1, groups=groups), nn.BatchNorm2d(12), nn.ReLU(),
        nn.ConvTranspose2d(12, 3, 2),
    )  # fmt: skip


def flattened() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.MaxPool2d(3), nn.Flatten(), nn.Linear(8 * 4, 10), nn.ReLU(),
        nn.Linear(10, 3),
    )  # fmt: skip


def one_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 4, 3), nn.Flatten(), nn.Linear(32, 2)
    )


def three_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 6, 2), nn.BatchNorm3d(6), nn.ReLU(), nn.Conv3d(6, 4, 2), nn.ReLU(), nn.Conv3d(4, 2, 1)
    )


def torchvision_net(name: str) -> nn.Module:
    net: nn.Module = getattr(torchvision.models, name)(weights=None, num_classes=5)
    return net


Case = tuple[Callable[[], nn.Module], tuple[int, ...]]
CASES: dict[str, Case] = {
    "plain": (plain, (3, 11, 11)),
    "residual": (Residual, (3, 8, 8)),
    "concat": (Concat, (3, 7, 7)),
    "squeeze-excite": (SqueezeExcite, (3, 6, 6)),
    "bare parameters": (Scaled, (3, 7, 7)),
    "tied": (Tied, (3, 6, 6)),
    "depthwise": (depthwise, (3, 7, 7)),
    "grouped by position": (lambda: grouped(2), (3, 7, 7)),
    "grouped by block": (lambda: grouped(4), (3, 7, 7)),
    "transposed": (lambda: transposed(1), (3, 6, 6)),
    "transposed by position": (lambda: transposed(2), (3, 6, 6)),
    "transposed by block": (lambda: transposed(4), (3, 6, 6)),
    "linear after flatten": (flattened, (3, 8, 8)),
    "conv1d": (one_dimensional, (3, 12)),
    "conv3d": (three_dimensional, (2, 5, 5, 5)),
    "resnet18": (lambda: torchvision_net("resnet18"), (3, 32, 32)),
    "mobilenet_v3_small": (lambda: torchvision_net("mobilenet_v3_small"), (3, 32, 32)),
}


def made(name: str, seed: int = 5) -> tuple[nn.Module, Tensor]:
    """A network of CASES in eval mode with statistics far from 0 and 1, and four images for it."""
    factory, shape = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = factory()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                nn.init.uniform_(module.weight, 0.5, 2.0)
                nn.init.normal_(module.bias)
                nn.init.normal_(module.running_mean, 0.5)
                nn.init.uniform_(module.running_var, 0.5, 3.0)
        return net.eval(), torch.randn(4, *shape)


def planned(net: nn.Module, x: Tensor, share: float = 0.5) -> PruningPlan:
    graph = trace(net, x[:1])
    moments = observe(net, graph, [x])
    return plan(graph, score(graph, moments, method="random", seed=3), remove_filters=share)


def silenced(net: nn.Module, plan: PruningPlan, x: Tensor) -> Tensor:
    """The oracle: the dense network, with what every layer reads of a dropped channel set to 0 on the way in."""
    with ExitStack() as stack, torch.no_grad():
        for name, cut in plan.layers.items():
            if cut.keep_inputs is not None:
                module = net.get_submodule(name)
                dropped = sorted(set(range(cut.inputs)) - set(cut.keep_inputs))
                channel = -1 if isinstance(module, nn.Linear) else 1

                def hook(
                    _: nn.Module, args: tuple[Tensor], dropped: list[int] = dropped, channel: int = channel
                ) -> Tensor:
                    return args[0].index_fill(channel, torch.tensor(dropped), 0.0)

                stack.callback(module.register_forward_pre_hook(hook).remove)
        return net(x)


def gap(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the largest value."""
    return float((a - b).abs().max() / b.abs().max())


def state_of(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize("name", CASES)
def test_removal_computes_what_silencing_at_the_consumers_computes(name: str) -> None:
    net, x = made(name)
    chosen = planned(net, x)
    small = remove(net, chosen)
    with torch.no_grad():
        expected, dense = silenced(net, chosen, x), net(x)
        assert gap(small(x), expected) < 1e-5
        assert gap(zero(net, chosen, where="consumers")(x), expected) < 1e-5
    assert gap(dense, expected) > 1e-2, "the cut is large enough to be seen"
    count = sum(p.numel() for p in net.parameters())
    assert sum(p.numel() for p in small.parameters()) < 0.75 * count


@pytest.mark.parametrize("name", CASES)
def test_the_removed_network_has_the_planned_widths_and_can_be_trained(name: str) -> None:
    net, x = made(name)
    chosen = planned(net, x)
    small = remove(net, chosen).train()
    for layer, cut in chosen.layers.items():
        module = small.get_submodule(layer)
        if isinstance(module, nn.Linear):
            found = (module.out_features, module.in_features)
        elif hasattr(module, "out_channels"):
            found = (module.out_channels, module.in_channels)
        else:
            continue
        kept = (cut.keep_filters, cut.keep_inputs)
        assert found == tuple(
            before if keep is None else len(keep)
            for keep, before in zip(kept, (cut.filters, cut.inputs), strict=True)
        )
    small(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())


@pytest.mark.parametrize(
    "what",
    [lambda x: x.cumsum(1), lambda x: x.softmax(1), lambda x: x - x.mean(1, keepdim=True),
     lambda x: x + torch.arange(8.0).reshape(1, 8, 1, 1), lambda x: x.flip(1), lambda x: x.roll(1, 1),
     lambda x: x.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2), lambda x: x.chunk(2, 1)[0].repeat(1, 2, 1, 1),
     lambda x: F.pad(x[:, :5], (0, 0, 0, 0, 1, 2)), lambda x: x[:, [3, 1, 2, 0, 4, 5, 6, 7]],
     lambda x: F.glu(x, 1).repeat_interleave(2, 1),
     lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2), lambda x: F.softmax(x.flatten(2), -1).view_as(x),
     lambda x: torch.stack((x[:, 0::2], x[:, 1::2]), 2).flatten(1, 2), lambda x: x + x.flip(1)],
    ids=["cumsum", "softmax", "mean", "constant", "flip", "roll", "shuffle", "chunk", "pad", "index", "glu",
         "pixel shuffle", "spatial softmax", "interleave", "add flipped"],
)  # fmt: skip
def test_a_network_is_cut_correctly_or_left_alone_with_a_reason(what: Callable[[Tensor], Tensor]) -> None:
    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.relu(self.second(what(self.first(x)))))

    with torch.random.fork_rng():
        torch.manual_seed(2)
        net, x = Between().eval(), torch.randn(3, 3, 4, 4)
    chosen = planned(net, x)
    with torch.no_grad():
        assert gap(remove(net, chosen)(x), silenced(net, chosen, x)) < 1e-5
    assert "second" in chosen.layers
    cut = chosen.layers.get("first")
    assert cut is not None or trace(net, x[:1]).frozen["first"]


def test_zeroing_as_documented_sets_filters_and_biases_to_zero_and_nothing_else() -> None:
    net, x = made("residual")
    chosen = planned(net, x)
    zeroed = zero(net, chosen)
    before, after = net.state_dict(), zeroed.state_dict()
    touched = set()
    for name, cut in chosen.layers.items():
        module = net.get_submodule(name)
        if cut.keep_filters is None or not isinstance(module, nn.Conv2d):
            continue
        dropped = sorted(set(range(cut.filters)) - set(cut.keep_filters))
        for label in ("weight", "bias"):
            key = f"{name}.{label}"
            if key in before:
                touched.add(key)
                kept = list(cut.keep_filters)
                assert dropped and not after[key][dropped].any()
                assert torch.equal(after[key][kept], before[key][kept])
    assert {"stem.weight", "a.weight", "a.bias", "shortcut.bias"} <= touched
    assert all(torch.equal(after[key], before[key]) for key in before if key not in touched)
    with torch.no_grad():
        assert gap(zeroed(x), silenced(net, chosen, x)) > 1e-3, (
            "a zeroed filter still speaks through its batch norm"
        )


@pytest.mark.parametrize("where", ["filters", "consumers"])
@pytest.mark.parametrize(
    "name", ["residual", "grouped by position", "transposed by position", "linear after flatten"]
)
def test_masks_are_what_zero_multiplies_with(name: str, where: str) -> None:
    net, x = made(name)
    chosen = planned(net, x)
    masks = zero_masks(net, chosen, where=where)
    zeroed = zero(net, chosen, where=where).state_dict()
    assert masks and all(set(mask.unique().tolist()) == {0.0, 1.0} for mask in masks.values())
    for key, value in net.state_dict().items():
        assert torch.equal(zeroed[key], value * masks[key] if key in masks else value)
    assert all(masks[key].shape == net.get_parameter(key).shape for key in masks)


@pytest.mark.parametrize("mode", ["remove", "zero"])
@pytest.mark.parametrize("name", ["residual", "bare parameters", "tied", "depthwise", "grouped by position"])
def test_a_bundle_rebuilds_the_network_bit_for_bit(name: str, mode: str, tmp_path: Path) -> None:
    net, x = made(name)
    chosen = planned(net, x)
    small = remove(net, chosen) if mode == "remove" else zero(net, chosen)
    chosen.save(tmp_path / "plan.json")
    bundle_weights(small, tmp_path / "model.safetensors")
    other = made(name, seed=77)[0].train()
    loaded = load(tmp_path, lambda: other)
    assert not loaded.training
    assert loaded.state_dict().keys() == small.state_dict().keys()
    assert all(torch.equal(value, small.state_dict()[key]) for key, value in loaded.state_dict().items())
    with torch.no_grad():
        assert torch.equal(loaded(x), small(x))
        assert torch.equal(load(str(tmp_path), lambda: made(name, seed=8)[0])(x), small(x))


def bundle(folder: Path) -> None:
    net, x = made("residual")
    chosen = planned(net, x)
    chosen.save(folder / "plan.json")
    bundle_weights(remove(net, chosen), folder / "model.safetensors")


def test_a_folder_without_weights_is_no_bundle(tmp_path: Path) -> None:
    bundle(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="there is no model.safetensors; give the folder of a bundle"):
        load(tmp_path, Residual)


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "plan.json: not a pruning plan .*No such file"), ("{", "plan.json: not a pruning plan"),
     ("[]", "plan.json: not a pruning plan"), ('{"format": 1}', "plan.json: not a pruning plan"),
     ('{"format": 99}', "plan format 99 is not ")],
)  # fmt: skip
def test_a_damaged_plan_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    bundle(tmp_path)
    (tmp_path / "plan.json").unlink()
    if text is not None:
        (tmp_path / "plan.json").write_text(text)
    with pytest.raises(InputError, match=message):
        load(tmp_path, Residual)


def test_weights_that_do_not_fit_the_factory_are_refused(tmp_path: Path) -> None:
    bundle(tmp_path)
    bundle_weights(nn.Conv2d(1, 1, 1), tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"model.safetensors: does not fit the factory's network"):
        load(tmp_path, Residual)
    (tmp_path / "model.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(InputError, match="model.safetensors"):
        load(tmp_path, Residual)


def test_a_plan_of_another_network_is_refused() -> None:
    net, x = made("residual")
    chosen = planned(net, x)
    for act in (remove, zero, zero_masks):
        with pytest.raises(
            InputError, match="the plan names the layer 'stem', which the model does not have"
        ):
            act(plain(), chosen)
        wider = Residual()
        wider.a, wider.b = nn.Conv2d(8, 7, 3), nn.Conv2d(7, 8, 3)
        with pytest.raises(
            InputError, match="made for another network: a has 7 filters and 8 inputs, the plan says 6"
        ):
            act(wider, chosen)


def test_a_plan_whose_bare_parameter_has_another_width_is_refused() -> None:
    net, x = made("bare parameters")
    chosen = planned(net, x)
    net.gamma = nn.Parameter(torch.ones(9, 1, 1))
    with pytest.raises(InputError, match="made for another network: gamma has 9 channels, the plan says 8"):
        remove(net, chosen)


def test_flags_ties_and_mode_stay_and_the_dense_network_is_untouched() -> None:
    net, x = made("tied")
    net.a.bias.requires_grad_(False)
    net.stem.weight.requires_grad_(False)
    net.train()
    net.head.eval()
    before, twin = state_of(net), copy.deepcopy(net)
    chosen = planned(net, x)
    small = remove(net, chosen)
    assert small.a.weight is small.b.weight and small.alias is small.stem
    assert small.a.weight.shape == (4, 4, 3, 3)
    assert {n for n, p in small.named_parameters() if not p.requires_grad} == {"a.bias", "stem.weight"}
    assert small.training and small.a.training and not small.head.training
    for other in (small, zero(net, chosen), zero(net, chosen, where="consumers")):
        assert not {id(p) for p in other.parameters()} & {id(p) for p in net.parameters()}
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert [m.training for m in net.modules()] == [m.training for m in twin.modules()]
