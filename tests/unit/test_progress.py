from collections.abc import Iterator
from itertools import count

import pytest

from causal_prune.progress import shown, status, track


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes as a terminal
    monkeypatch.setenv("COLUMNS", "120")


def test_a_library_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track([3, 1, 2], "calibrate")) == [3, 1, 2]
    with status("export"):
        pass
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("items", [[3, 1, 2], iter([3, 1, 2])], ids=["list", "iterator"])
def test_a_bar_goes_to_stderr_and_changes_no_item(
    items: list[int] | Iterator[int], capsys: pytest.CaptureFixture[str]
) -> None:
    with shown():
        assert list(track(items, "calibrate", total=3, unit="image")) == [3, 1, 2]
        with status("export"):
            pass
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "calibrate" in printed.err and "3/3" in printed.err and "image" in printed.err
    assert "export" in printed.err


@pytest.mark.usefixtures("terminal")
def test_the_setting_returns_at_the_end_of_the_block_even_after_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with shown():
        with pytest.raises(ValueError, match="stop"), shown(False):
            raise ValueError("stop")
        list(track([1], "inner"))
    assert "inner" in capsys.readouterr().err
    list(track([1], "outer"))
    assert capsys.readouterr().err == ""


def test_items_are_taken_one_by_one() -> None:
    for visible in (False, True):
        with shown(visible):
            source = count()
            taken = track(source, "read")
            assert [next(taken), next(taken)] == [0, 1]
            taken.close()
            assert next(source) == 2, "nothing was read ahead"


@pytest.mark.usefixtures("terminal")
def test_a_bar_that_counts_images_shows_how_many_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    with shown():
        assert list(track([[1, 2], [3]], "observe", count=len)) == [[1, 2], [3]]
    assert "images/s" in capsys.readouterr().err
