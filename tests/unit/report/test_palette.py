"""Arms can be told apart without colours, and colours from the paper."""

from matplotlib.colors import to_rgb

from causal_prune.report.palette import LOOKS, OTHER_LOOK


def test_arms_that_stand_together_differ_in_colour_or_mark() -> None:
    looks = [*LOOKS.values(), OTHER_LOOK]
    assert len(set(looks)) == len(looks)


def test_every_colour_stands_out_from_white() -> None:
    for color, _ in (*LOOKS.values(), OTHER_LOOK):
        red, green, blue = (
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)
        )
        luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        assert 1.05 / (luminance + 0.05) > 3, color
