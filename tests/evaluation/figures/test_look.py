"""One look, the same bytes each time, text that stays text, and no global state."""

import struct

import matplotlib as mpl
import pytest

from fertiray import storage
from fertiray.errors import InputError
from fertiray.evaluation.figures.look import (
    DOUBLE,
    SINGLE,
    blank,
    colours,
    letter,
    look,
    markers,
    p_text,
    save,
)


@look()
def example(width: float = SINGLE):
    figure = blank(width, 50)
    axes = figure.subplots(1, 2)
    axes[0].plot([0, 1], [0, 1], "o-", label="a line")
    axes[0].set(xlabel="epoch", ylabel="loss & more")
    axes[0].legend()
    letter(axes)
    return figure


def test_a_figure_gives_the_same_bytes_each_time(tmp_path):
    first = [storage.read_bytes(place) for place in save(example(), str(tmp_path / "a"), "one")]
    again = [storage.read_bytes(place) for place in save(example(), str(tmp_path / "b"), "one")]
    assert first == again
    figure = example()
    assert [
        storage.read_bytes(place)
        for _ in range(2)
        for place in save(figure, str(tmp_path / "c"), "one")
    ] == first * 2


def test_text_stays_text_and_no_date_is_written(tmp_path):
    place, _ = save(example(), str(tmp_path), "one")
    svg = storage.read_bytes(place).decode()
    assert ">loss &amp; more</text>" in svg
    assert ">a line</text>" in svg
    assert "dc:date" not in svg
    assert "matplotlib.org" not in svg


@pytest.mark.parametrize("width", [SINGLE, DOUBLE])
def test_widths_are_those_of_columns_at_300_dpi(tmp_path, width):
    _, place = save(example(width), str(tmp_path), "one")
    png = storage.read_bytes(place)
    pixels, rows = struct.unpack(">II", png[16:24])  # of the header chunk
    assert pixels == int(width / 25.4 * 300)
    assert rows == int(50 / 25.4 * 300)
    assert struct.pack(">II", 11811, 11811) in png  # 300 dpi in pixels a metre


def test_type_is_7_to_8_points():
    with look():
        sizes = {name: value for name, value in mpl.rcParams.items() if "size" in name}
    for name in ("font.size", "axes.titlesize", "axes.labelsize", "xtick.labelsize"):
        assert 7 <= sizes[name] <= 8
    figure = example()
    for axes in figure.axes:
        for text in (axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels()):
            assert 7 <= text.get_fontsize() <= 8


def test_nothing_global_changes(tmp_path):
    before = dict(mpl.rcParams)
    save(example(), str(tmp_path), "one")
    assert dict(mpl.rcParams) == before


def test_a_users_own_settings_do_not_matter(tmp_path):
    plain = storage.read_bytes(save(example(), str(tmp_path / "a"), "one")[0])
    with mpl.rc_context({"axes.grid": True, "font.size": 20, "svg.fonttype": "path"}):
        own = storage.read_bytes(save(example(), str(tmp_path / "b"), "one")[0])
    assert own == plain


def test_figures_go_to_any_storage():
    places = save(example(), "memory://figures", "one")
    assert places == ["memory://figures/one.svg", "memory://figures/one.png"]
    assert storage.read_bytes(places[1]).startswith(b"\x89PNG")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        save(example(), str(tmp_path / "file"), "one")


def test_colours_and_markers_are_different_and_start_anew_after_the_last():
    assert len(set(colours(8))) == 8 == len(set(markers(8)))
    assert colours(9)[8] == colours(1)[0] == "#0072B2"  # Okabe and Ito's blue
    assert markers(10)[8:] == markers(2)


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0004, "p < 0.001"), (0.001, "p = 0.001"), (0.0499, "p = 0.050"), (0.5, "p = 0.50")],
)
def test_p_values_are_printed_as_journals_do(p, text):
    assert p_text(p) == text
