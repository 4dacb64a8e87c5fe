"""ONNX export: names, parity, and what is left behind."""

import logging
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from causal_prune.errors import InputError, ParityError
from causal_prune.onnx_files import export as onnx_export
from causal_prune.onnx_files.export import check_form, export_onnx
from causal_prune.onnx_files.session import open_session, random_feed, signature


def fixed(model: nn.Module) -> nn.Module:
    """Weights and batch-norm statistics that are neither zero nor one, the same in every run."""
    generator = torch.Generator().manual_seed(7)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data = torch.rand(tensor.shape, generator=generator) * 0.6 + 0.1
    return model


class Plain(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 6, 3, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 4),
        )


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.Conv2d(5, 5, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(x + self.norm(self.inner(x))).mean((2, 3)))


class TwoInputs(nn.Module):
    """An image and a class index that looks up a table of 5 rows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.table = nn.Conv2d(3, 4, 3), nn.Embedding(5, 4)

    def forward(self, image: Tensor, index: Tensor) -> Tensor:
        return self.conv(image).mean((2, 3)) * self.table(index)


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> dict:
        h = self.conv(x)
        pooled = h.mean((2, 3))
        return {"logits": pooled, "extra": (None, 3, h, [pooled.argmax(1), "text"]), "done": True}


IMAGE = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def run(file: Path, feed: dict[str, Tensor]) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {k: v.numpy() for k, v in feed.items()}), strict=True))


def model_of(
    nodes: list,
    weights: list,
    shape: tuple,
    output_shape: tuple | None = None,
) -> onnx.ModelProto:
    """An ONNX network of one input and one output, made by hand."""
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
        for name, dims in (("input", shape), ("output", output_shape or shape))
    ]
    graph = helper.make_graph(nodes, "by_hand", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def times(scale: float, *, shape: tuple = ("batch", 3)) -> onnx.ModelProto:
    """y = x * scale."""
    weight = numpy_helper.from_array(np.array(scale, np.float32), "scale")
    return model_of([helper.make_node("Mul", ["input", "scale"], ["output"])], [weight], shape)


def altered(factor: float) -> Callable[..., None]:
    """The module's own writer, followed by damage to one weight of the file."""
    write = onnx_export._write

    def corrupt(proto: onnx.ModelProto, file: Path, metadata: dict[str, str]) -> None:
        write(proto, file, metadata)
        model = onnx.load(file)
        target = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
        target.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(target) * np.float32(factor), target.name)
        )
        onnx.save_model(model, file)

    return corrupt


@pytest.mark.parametrize("kind", [Plain, Residual])
def test_file_computes_what_torch_computes_for_every_batch(kind, tmp_path):
    model, file = fixed(kind()), tmp_path / "net.onnx"

    parity = export_onnx(model, file, IMAGE)

    assert parity.passed and parity.max_abs <= parity.tolerance == 1e-4
    assert list(parity.outputs) == ["output"] and parity.outputs["output"] == parity.max_abs
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    for batch in (1, 2, 5):
        images = torch.rand(batch, 3, 8, 8)
        with torch.no_grad():
            expected = model.eval()(images).numpy()
        np.testing.assert_allclose(run(file, {"input": images})["output"], expected, rtol=1e-5, atol=1e-5)


def test_network_random_state_and_global_settings_are_left_alone(tmp_path, capfd, caplog):
    model = fixed(Plain()).train()
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state, filters, disabled = torch.get_rng_state(), list(warnings.filters), logging.root.manager.disable

    export_onnx(model, tmp_path / "net.onnx", IMAGE)

    assert [module.training for module in model.modules()] == [
        True,
        True,
        False,
        True,
        True,
        True,
        True,
        True,
    ]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert (warnings.filters, logging.root.manager.disable) == (filters, disabled)
    assert torch.is_grad_enabled()
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.INFO]


def test_files_hold_the_metadata_no_path_of_this_machine_and_are_equal_byte_for_byte(tmp_path):
    model, metadata = fixed(Residual()), {"producer": "causal_prune 0.1.0", "plan_sha256": "ab12"}

    export_onnx(model, tmp_path / "a.onnx", IMAGE, metadata=metadata)
    export_onnx(model, tmp_path / "b.onnx", IMAGE, metadata=metadata)

    content, proto = (tmp_path / "a.onnx").read_bytes(), onnx.load(tmp_path / "a.onnx")
    assert {p.key: p.value for p in proto.metadata_props} == metadata
    assert str(Path(torch.__file__).parent.parent).encode() not in content
    assert b"stack_trace" not in content and Path(__file__).name.encode() not in content
    assert not any(tensor.data_location == TensorProto.EXTERNAL for tensor in proto.graph.initializer)
    assert content == (tmp_path / "b.onnx").read_bytes()


def test_tuple_inputs_are_numbered_and_integers_stay_valid_indices(tmp_path):
    model, file = fixed(TwoInputs()), tmp_path / "net.onnx"
    example = (torch.rand(2, 3, 8, 8), torch.tensor([4, 2]))

    parity = export_onnx(model, file, example)

    feed = {"input_0": torch.rand(3, 3, 8, 8), "input_1": torch.tensor([0, 3, 4])}
    assert parity.passed
    with torch.no_grad():
        np.testing.assert_allclose(run(file, feed)["output"], model(*feed.values()).numpy(), rtol=1e-5)


def test_mapping_inputs_keep_their_keys_in_any_order(tmp_path):
    model, file = fixed(TwoInputs()), tmp_path / "net.onnx"
    example = {"index": torch.tensor([4, 2]), "image": torch.rand(2, 3, 8, 8)}

    export_onnx(model, file, example)

    with torch.no_grad():
        np.testing.assert_allclose(run(file, example)["output"], model(**example).numpy(), rtol=1e-5)


def test_nested_outputs_are_named_by_place_and_what_is_no_tensor_is_left_out(tmp_path):
    model, file = fixed(Nested()), tmp_path / "net.onnx"

    parity = export_onnx(model, file, IMAGE)

    found = run(file, {"input": IMAGE})
    assert list(found) == list(parity.outputs) == ["logits", "extra_2", "extra_3_0"]
    with torch.no_grad():
        expected = model(IMAGE)
    np.testing.assert_allclose(found["extra_2"], expected["extra"][2].numpy(), rtol=1e-5)
    np.testing.assert_array_equal(found["extra_3_0"], expected["extra"][3][0].numpy())


def test_outputs_that_share_a_name_or_a_tensor_stay_apart(tmp_path):
    class Echo(nn.Module):
        def forward(self, x: Tensor) -> dict:
            doubled = x * 2
            return {"input": x, "a_0": doubled, "a": [doubled]}

    export_onnx(Echo(), tmp_path / "net.onnx", torch.rand(1, 3))

    images = torch.rand(2, 3)
    found = run(tmp_path / "net.onnx", {"input": images})
    assert list(found) == ["input_out", "a_0", "a_0_out"]
    np.testing.assert_allclose(found["input_out"], images.numpy())
    np.testing.assert_allclose(found["a_0_out"], 2 * images.numpy())


def test_a_fixed_batch_stays_fixed(tmp_path):
    file = tmp_path / "net.onnx"

    parity = export_onnx(Doubled(), file, torch.rand(2, 3, 8, 8), dynamic_batch=False)

    assert parity.passed
    assert [d.dim_value for d in onnx.load(file).graph.input[0].type.tensor_type.shape.dim] == [2, 3, 8, 8]


class Doubled(nn.Module):
    """Copies the batch image by image: the exported graph would hold one copy per image of the example."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[place : place + 1] * 2 for place in range(x.shape[0])])


class Folded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 6, 4) * 2  # any even batch


class Branched(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 1 else x


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            Doubled(),
            "^the model computes with the size of the batch of 'input' as a constant; dynamic_batch=False",
        ),
        (
            Folded(),
            r"^the model cannot run shape \(3, 3, 4\): [^\n]*invalid for input.*; dynamic_batch=False",
        ),
        (Branched(), r"^the model cannot be exported to ONNX: [^\n]*data-dependent[^\n]*$"),
    ],
)
def test_networks_that_cannot_be_exported_are_refused_without_a_trace(model, message, tmp_path, capfd):
    with pytest.raises(InputError, match=message):
        export_onnx(model, tmp_path / "net.onnx", torch.rand(2, 3, 4))

    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_file_that_differs_is_refused_by_name_and_number_and_the_old_one_stays(tmp_path, monkeypatch):
    file, model = tmp_path / "net.onnx", fixed(Residual()).train()
    file.write_bytes(b"the old file")
    monkeypatch.setattr(onnx_export, "_write", altered(1.5))

    with pytest.raises(
        ParityError, match=r"output 'output' differs by [0-9.e-]+ between torch and ONNX Runtime"
    ):
        export_onnx(model, file, IMAGE)

    assert file.read_bytes() == b"the old file"
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    assert model.training


class Times(nn.Module):
    """y = x * scale."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


@pytest.fixture
def converted_to(monkeypatch: pytest.MonkeyPatch) -> Callable[[onnx.ModelProto], None]:
    """Replaces the exporter, so that a test chooses what stands in the file."""
    return lambda proto: monkeypatch.setattr(onnx_export, "_converted", lambda *_: proto)


def test_the_error_is_absolute_within_one_and_relative_beyond(tmp_path, converted_to):
    ones = torch.ones(1, 3)
    converted_to(times(0.01001))
    small = export_onnx(Times(0.01), tmp_path / "net.onnx", ones)
    converted_to(times(1001.0))
    large = export_onnx(Times(1000.0), tmp_path / "net.onnx", ones, tolerance=0.0011)

    assert 9e-6 < small.max_abs < 5e-5  # 1e-5, times the largest of nine normal values
    assert large.max_abs == pytest.approx(0.001, rel=1e-3)
    with pytest.raises(ParityError, match=r"differs by 0\.001 .*more than the tolerance of 0\.0009"):
        export_onnx(Times(1000.0), tmp_path / "net.onnx", ones, tolerance=0.0009)


def test_a_difference_that_only_another_batch_shows_is_found(tmp_path, converted_to):
    nodes = [
        helper.make_node("Shape", ["input"], ["size"], start=0, end=1),
        helper.make_node("Cast", ["size"], ["factor"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["input", "factor"], ["output"]),
    ]
    converted_to(model_of(nodes, [], ("batch", 3)))  # right for one image, wrong for three

    with pytest.raises(ParityError, match=r"output 'output' differs by .* on shape \(3, 3\)"):
        export_onnx(nn.Identity(), tmp_path / "net.onnx", torch.rand(1, 3))


@pytest.mark.parametrize(
    ("in_torch", "in_file", "message"),
    [
        (math.nan, 2.0, "output 'output' of torch is not finite on shape"),
        (math.inf, 2.0, "output 'output' of torch is not finite on shape"),
        (2.0, math.nan, "output 'output' of ONNX Runtime is not finite on shape"),
    ],
)
def test_outputs_that_are_not_finite_are_refused(in_torch, in_file, message, tmp_path, converted_to):
    converted_to(times(in_file))

    with pytest.raises(ParityError, match=message):
        export_onnx(Times(in_torch), tmp_path / "net.onnx", torch.rand(1, 3) + 0.1)

    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_invalid_or_of_another_shape_is_refused(tmp_path, converted_to):
    converted_to(model_of([helper.make_node("NoSuchOperator", ["input"], ["output"])], [], (1, 3)))
    with pytest.raises(ParityError, match="the exporter wrote an invalid ONNX file: .*NoSuchOperator"):
        export_onnx(Times(2.0), tmp_path / "net.onnx", torch.rand(1, 3))

    converted_to(times(2.0, shape=("batch", 4)))
    with pytest.raises(
        ParityError, match=r"ONNX Runtime cannot run the exported network on shape \(1, 3\): "
    ):
        export_onnx(Times(2.0), tmp_path / "net.onnx", torch.rand(1, 3))

    flattened = helper.make_node("Flatten", ["input"], ["output"], axis=0)
    converted_to(model_of([flattened], [], ("batch", 3), output_shape=(1, "values")))
    with pytest.raises(
        ParityError, match=r"'output' has shape \(2, 3\) in torch and \(1, 6\) in ONNX Runtime"
    ):
        export_onnx(nn.Identity(), tmp_path / "net.onnx", torch.rand(2, 3))

    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_the_old_file_alone(tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt("by the user")

    (tmp_path / "net.onnx").write_bytes(b"the old file")
    monkeypatch.setattr(onnx_export, "_converted", interrupted)

    with pytest.raises(KeyboardInterrupt, match="by the user"):
        export_onnx(fixed(Plain()), tmp_path / "net.onnx", IMAGE)

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"net.onnx": b"the old file"}


@pytest.mark.parametrize(
    ("example", "options", "message"),
    [
        ((), {}, "example_input must be a tensor, or a tuple or mapping of tensors"),
        ({"x": [1.0]}, {}, "example_input must be a tensor"),
        ((torch.rand(2, 3), torch.rand(1, 3)), {}, "have no common batch as first dimension"),
        (torch.rand(0, 3, 8, 8), {}, "example_input holds no image"),
        (torch.rand(1, 4, 8, 8), {}, "the model cannot run example_input: .*channels"),
        (torch.rand(1, 3, 8, 8).bfloat16(), {}, "example_input is bfloat16"),
        (IMAGE, {"tolerance": 0.0}, "tolerance=0.0 must be a number greater than 0"),
        (IMAGE, {"tolerance": math.nan}, "tolerance=nan must be"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(example, options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        export_onnx(fixed(Plain()), tmp_path / "net.onnx", example, **options)

    assert list(tmp_path.iterdir()) == []


def test_paths_that_cannot_be_written_are_named(tmp_path):
    with pytest.raises(InputError, match="is a folder: name the ONNX file to write"):
        export_onnx(Plain(), tmp_path, IMAGE)
    with pytest.raises(InputError, match="folder .*absent does not exist, make it first"):
        export_onnx(Plain(), tmp_path / "absent" / "net.onnx", IMAGE)


def test_a_network_without_tensor_outputs_is_refused(tmp_path):
    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> None:
            return None

    with pytest.raises(InputError, match="the model returns None in which no tensor is found"):
        export_onnx(Nothing(), tmp_path / "net.onnx", IMAGE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "convnext_tiny"])
def test_torchvision_networks_keep_parity(name, tmp_path):
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.get_model(name, num_classes=10)

    parity = export_onnx(model, tmp_path / "net.onnx", torch.rand(1, 3, 64, 64))

    assert parity.passed


class Crossed(nn.Module):
    """A small U-Net: sizes must be even."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.out = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ConvTranspose2d(4, 4, 2, 2),
            nn.Conv2d(8, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.down(x))
        return self.out(torch.cat([a, self.up(nn.functional.max_pool2d(a, 2))], 1))


@pytest.mark.parametrize(
    ("net", "shape", "others"),
    [
        (Plain(), (2, 3, 8, 8), [(1, 3, 9, 21), (4, 3, 30, 6)]),
        (Crossed(), (2, 3, 8, 8), [(1, 3, 10, 22), (3, 3, 6, 4)]),
        (nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU()), (1, 2, 9), [(2, 2, 30)]),
        (nn.Sequential(nn.Conv3d(1, 3, 2), nn.ReLU()), (1, 1, 4, 5, 6), [(2, 1, 7, 5, 9)]),
    ],
)
def test_a_file_of_any_size_computes_alike_at_sizes_that_nobody_tried(net, shape, others, tmp_path) -> None:
    path = tmp_path / "net.onnx"
    assert export_onnx(fixed(net), path, torch.rand(shape), dynamic_size=True).passed
    for other in others:
        x = torch.rand(other)
        with torch.no_grad():
            np.testing.assert_allclose(run(path, {"input": x})["output"], net.eval()(x), rtol=1e-4, atol=1e-5)
    known = signature(open_session(path))[0]
    assert known[0].shape[2:] == (None,) * (len(shape) - 2) and known[0].example == shape
    assert random_feed(known, batch=5, seed=0)["input"].shape == (5, *shape[1:])


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(192, 2)),
            r"takes no size but 8 x 8 .*dynamic_size=False exports it",
        ),
        (nn.Linear(8, 2), "takes no size but 8 x 8 .*dynamic_size=False"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(3)), "dynamic_size=False exports it"),
    ],
)
def test_a_network_of_one_size_is_refused_where_any_is_asked_for(net, message, tmp_path, capfd) -> None:
    with pytest.raises((InputError, ParityError), match=message):
        export_onnx(fixed(net), tmp_path / "net.onnx", torch.rand(2, 3, 8, 8), dynamic_size=True)
    assert not [*tmp_path.iterdir()]
    assert capfd.readouterr() == ("", "")


def test_the_form_is_checked_before_long_work() -> None:
    flat, x = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), torch.rand(2, 3, 8, 8)
    check_form(flat, x, dynamic_size=False, opset=None)
    check_form(Plain(), x, dynamic_size=True, opset=17)
    with pytest.raises(InputError, match="dynamic_size: the network takes no size but 8 x 8"):
        check_form(flat, x, dynamic_size=True, opset=None)
    with pytest.raises(InputError, match="opset: 3 is not a whole number from 17"):
        check_form(flat, x, dynamic_size=False, opset=3)


def test_inputs_and_outputs_may_be_named(tmp_path) -> None:
    path, net = tmp_path / "net.onnx", fixed(TwoInputs())
    example = (torch.rand(2, 3, 8, 8), torch.tensor([1, 4]))
    export_onnx(net, path, example, input_names=["picture", "kind"], output_names=["logits"])
    inputs, outputs = signature(open_session(path))
    assert [each.name for each in (*inputs, *outputs)] == ["picture", "kind", "logits"]
    mapping = {"image": example[0], "index": example[1]}
    export_onnx(net, path, mapping, input_names=["picture", "kind"], output_names=["logits"])
    with torch.no_grad():
        expected = net(*example)
    feed = {"picture": example[0], "kind": example[1]}
    np.testing.assert_allclose(run(path, feed)["logits"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"input_names": ["a", "a"]},
            "input_names: 'a', 'a' given; give 2 different, one for each of input_0",
        ),
        ({"input_names": ["a"]}, "input_names: 'a' given; give 2 different"),
        (
            {"output_names": ["a", "b"]},
            "output_names: 'a', 'b' given; give 1 different, one for each of output",
        ),
        ({"output_names": []}, "output_names: none given; give 1 different"),
    ],
)
def test_names_that_do_not_fit_are_refused(options, message, tmp_path) -> None:
    with pytest.raises(InputError, match=message):
        export_onnx(
            fixed(TwoInputs()), tmp_path / "n.onnx", (torch.rand(2, 3, 8, 8), torch.tensor([1, 4])), **options
        )
