"""What may be said about the repair, and how it may be spelt."""

from typing import get_args

import pytest

from causal_prune.compensation.options import REPAIRS, Repair, RepairMethod
from causal_prune.errors import InputError
from causal_prune.options import flag_of


def test_least_squares_with_half_of_what_is_free_is_the_standard() -> None:
    assert Repair() == Repair(compensation="least_squares", max_memory=None)


def test_every_method_has_its_words() -> None:
    assert tuple(REPAIRS) == get_args(RepairMethod)
    assert all(REPAIRS.values()) and len(set(REPAIRS.values())) == len(REPAIRS)


@pytest.mark.parametrize(
    ("spelt", "meant"),
    [
        ("least_squares", "least_squares"),
        ("least-squares", "least_squares"),
        ("batchnorm", "batchnorm"),
        ("none", "none"),
        (True, "least_squares"),
        (False, "none"),
    ],
)
def test_a_method_may_be_spelt_with_dashes_or_switched_on_and_off(spelt: object, meant: str) -> None:
    assert Repair(compensation=spelt).compensation == meant  # type: ignore[arg-type]


def test_the_flag_alone_is_the_standard_and_its_opposite_none() -> None:
    flag = flag_of(Repair, "compensation")
    assert (flag.name, flag.alone, flag.off) == ("compensate", "least-squares", "none")
    assert Repair(compensation=flag.alone) == Repair()  # type: ignore[arg-type]
    assert Repair(compensation=flag.off).compensation == "none"  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["ridge", "Least_Squares", "", 1, None])
def test_other_methods_are_refused(wrong: object) -> None:
    told = {"": "an empty text"}.get(str(wrong), str(wrong))
    with pytest.raises(InputError, match=f"^compensation: {told} is not least-squares, batchnorm or none$"):
        Repair(compensation=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "number"), [(4096, 4096), ("4GB", 4 * 10**9), ("512MiB", 512 * 2**20), (None, None)]
)
def test_memory_is_a_number_of_bytes(given: object, number: int | None) -> None:
    assert Repair(max_memory=given).max_memory == number  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [0, -1, "a lot", True, "4XB"])
def test_what_is_no_number_of_bytes_is_refused(wrong: object) -> None:
    message = f"^max_memory: {wrong} is not a number of bytes above 0, such as 4GB or 512MiB$"
    with pytest.raises(InputError, match=message):
        Repair(max_memory=wrong)  # type: ignore[arg-type]


def test_options_come_back_from_json() -> None:
    options = Repair(compensation="batchnorm", max_memory=10**9)
    assert Repair.from_json(options.to_json()) == options
