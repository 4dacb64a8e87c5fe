"""Which axes are left open, and that the batches which prove it are of other sizes that a network takes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.onnx_files.dynamic_axes import open_axes, other_batch, other_sizes, resampled

IMAGE = {"input": torch.rand(2, 3, 8, 12)}


def names(axes: tuple[dict, ...] | None) -> list[dict[int, str]]:
    assert axes is not None
    return [{k: each if isinstance(each, str) else each.__name__ for k, each in one.items()} for one in axes]


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((2, 3, 8, 12), {2: "height", 3: "width"}),
        ((2, 3, 40), {2: "length"}),
        ((2, 3, 4, 5, 6), {2: "depth", 3: "height", 4: "width"}),
    ],
)
def test_axes_behind_the_channels_have_the_names_of_their_kind(shape: tuple[int, ...], sizes: dict) -> None:
    example = {"input": torch.rand(shape)}
    assert names(open_axes(example, batch=True, size=True)) == [{0: "batch", **sizes}]
    assert names(open_axes(example, batch=False, size=True)) == [sizes]
    assert names(open_axes(example, batch=True, size=False)) == [{0: "batch"}]
    assert open_axes(example, batch=False, size=False) is None


def test_axes_of_several_inputs_are_told_apart_and_vectors_have_none() -> None:
    example = {"left": torch.rand(2, 3, 8, 8), "index": torch.zeros(2, 5), "right": torch.rand(2, 1, 9)}
    assert names(open_axes(example, batch=True, size=True)) == [
        {0: "batch", 2: "left_height", 3: "left_width"}, {0: "batch"}, {0: "batch", 2: "right_length"},
    ]  # fmt: skip


def test_inputs_without_a_size_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"dynamic_size: no input of \{'x': \(2, 5\)\} is an image, a volume or a"
    ):
        open_axes({"x": torch.rand(2, 5)}, batch=True, size=True)


def test_another_batch_has_another_number_of_images_where_that_is_open() -> None:
    assert other_batch(IMAGE, dynamic=True)["input"].shape == (3, 3, 8, 12)
    assert other_batch({"input": torch.rand(3, 1)}, dynamic=True)["input"].shape == (2, 1)
    assert other_batch(IMAGE, dynamic=False)["input"].shape == (2, 3, 8, 12)


def test_values_are_drawn_from_the_tensors_own() -> None:
    index = torch.tensor([3, 7, 7])
    drawn = resampled(index, 50)
    assert drawn.shape == (50,) and set(drawn.tolist()) == {3, 7} and drawn.dtype == torch.int64
    constant = resampled(torch.full((2, 3), 5.0), None)
    assert len(constant.unique()) == 6, "a constant would prove nothing"


class Halves(nn.Module):
    """Wants multiples of `by`, and joins what it halved with what it did not."""

    def __init__(self, by: int) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        small = F.max_pool2d(x, self.by)
        return x + small.repeat_interleave(self.by, 2).repeat_interleave(self.by, 3)


@pytest.mark.parametrize("by", [1, 2, 4, 16])
def test_other_sizes_are_those_that_a_network_takes(by: int) -> None:
    example = {"input": torch.rand(2, 3, 16, 32)}
    found = other_sizes(example, lambda batch: Halves(by)(batch["input"]))
    sizes = [tuple(batch["input"].shape[2:]) for batch in found]
    assert len({*sizes, (16, 32)}) == 3
    assert all(height % by == width % by == 0 for height, width in sizes)
    assert all(height / 16 != width / 32 for height, width in sizes), "not the same picture enlarged"


def test_networks_that_take_squares_alone_get_squares() -> None:
    def run(batch: dict[str, Tensor]) -> None:
        if batch["input"].shape[2] != batch["input"].shape[3]:
            raise ValueError("not square")

    sizes = [tuple(each["input"].shape[2:]) for each in other_sizes({"input": torch.rand(1, 3, 8, 8)}, run)]
    assert sizes == [(16, 16), (24, 24)]


def test_inputs_of_several_scales_change_together() -> None:
    example = {"large": torch.rand(1, 3, 16, 16), "small": torch.rand(1, 3, 4, 4)}

    def run(batch: dict[str, Tensor]) -> Tensor:
        return batch["large"] + F.interpolate(batch["small"], scale_factor=4)

    found = other_sizes(example, run)
    assert [tuple(each["small"].shape[2:]) for each in found] == [(8, 12), (12, 8)]


def test_a_network_of_one_size_is_refused_with_what_it_said() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 12, 2))
    text = r"dynamic_size: the network takes no size but 8 x 12 \(.*mat1 and mat2.*\); dynamic_size=False"
    with pytest.raises(InputError, match=text):
        other_sizes(IMAGE, lambda batch: flat(batch["input"]))
