"""The demo's own promise: a call that was stopped can be given again."""

from fertiray import demo


def test_drawing_that_was_stopped_is_drawn_anew(tmp_path):
    cohort = {"patients": 1, "crops": 4}
    whole = demo._draw(tmp_path / "a", 3, 1, **cohort)
    stopped = tmp_path / "b"
    demo._draw(stopped, 3, 1, **cohort)
    (stopped / "truth.json").unlink()  # what a call stopped while drawing leaves behind
    assert demo._draw(stopped, 3, 1, **cohort) == whole
    again = (stopped / "truth.json").stat().st_mtime_ns
    assert demo._draw(stopped, 3, 1, **cohort) == whole
    assert (stopped / "truth.json").stat().st_mtime_ns == again  # a whole cohort is left alone
