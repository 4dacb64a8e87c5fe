from collections.abc import Iterator
from itertools import count
from time import sleep

import pytest

from causal_prune.progress import Step, duration, listed, passed_over, shown, status, step, track


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


def test_steps_are_timed_and_summed_whether_they_are_shown_or_not(capsys: pytest.CaptureFixture[str]) -> None:
    with listed([Step("a", expected=2.0), Step("b", "evidence", expected=3.0), Step("c")]) as steps:
        for name in ("a", "b", "a"):
            with step(name):
                sleep(0.01)
    assert capsys.readouterr() == ("", "")
    assert steps.spent("result") >= 0.02 and 0.01 <= steps.spent("evidence") < steps.spent()
    assert steps.expected("result") == 2.0 and steps.expected() == 5.0
    assert steps.named("c").seconds is None


def test_a_step_inside_a_step_is_part_of_it_and_one_that_was_not_foreseen_is_added() -> None:
    with listed([Step("outer", "evidence")]) as steps:
        with step("outer"), step("inner"):
            pass
        with step("more"):
            pass
    assert [(each.name, each.part) for each in steps.steps] == [("outer", "evidence"), ("more", "evidence")]


def test_without_a_list_a_step_is_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(live=False), step("alone"):
        passed_over("other", "why")
    assert capsys.readouterr() == ("", "")


def test_a_log_has_one_plain_line_for_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(live=False), listed([Step("load"), Step("cut", expected=61.0), Step("maps", "evidence")]):
        with step("load"):
            list(track([1, 2], "a bar that no log has"))
        with listed([Step("cut", expected=90.0)]), step("cut"):
            pass
        passed_over("maps", "no time")
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == "" and "\x1b" not in out and "\r" not in out
    assert lines[0] == "3 steps, about 1 min 01 s: load, cut, maps"
    assert lines[1] == "load: 0.0 s" and lines[2] == "about 1 min 30 s from here"
    assert lines[3:] == ["cut: 0.0 s", "maps: no time"]


@pytest.mark.usefixtures("terminal")
def test_a_terminal_has_one_list_with_the_bars_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(), listed([Step("load"), Step("cut", expected=9.0), Step("maps", "evidence")]):
        with step("load"):
            assert list(track([1, 2], "reading", unit="file")) == [1, 2]
            with status("spin"):
                pass
        with step("cut"):
            pass
        passed_over("maps", "no time")
    out, err = capsys.readouterr()
    last = err.rsplit("load", 1)[1]
    assert out == "" and "✓" in err and "– " in err and "no time" in last and "reading" not in last


def test_a_step_that_fails_has_its_time_and_lets_the_error_through() -> None:
    with pytest.raises(ValueError, match="stop"), listed([Step("cut")]) as steps, step("cut"):
        raise ValueError("stop")
    assert steps.named("cut").seconds is not None and not steps.named("cut").running
    with step("later"):  # the list has ended with the error
        assert len(steps.steps) == 1


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (60, "1 min 00 s"), (7260, "2 h 01 min")],
)
def test_time_is_told_as_one_would_say_it(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_what_fails_at_once_prints_no_step_and_what_fails_later_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing() -> str:
        def work() -> None:
            with shown(live=False), listed([Step("load")]):
                with step("load"):
                    pass
                raise ValueError("stop")

        with pytest.raises(ValueError, match="stop"):
            work()
        return capsys.readouterr().out

    assert failing() == ""
    monkeypatch.setattr("causal_prune.progress.HELD_SECONDS", 0.0)
    assert failing() == "1 step: load\nload: 0.0 s\n"


def test_no_step_of_a_log_is_told_twice(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(live=False), listed([Step("arms"), Step("maps")]):
        with step("arms"):
            passed_over("arms", "2 left out")
        passed_over("maps", "no time")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["arms: 0.0 s (2 left out)", "maps: no time"]
