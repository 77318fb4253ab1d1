"""The confusion matrix says every count and share, in ink that can be read."""

import numpy as np
from matplotlib.colors import to_rgb

from fertiray.evaluation.figures.confusion import confusion_figure


def texts(axes) -> np.ndarray:
    k = len(axes.get_xticks())
    return np.array([text.get_text() for text in axes.texts]).reshape(k, k)


def test_counts_and_row_percentages():
    axes = confusion_figure([[8, 2], [1, 3]], ["good", "poor"]).axes[0]
    assert texts(axes).tolist() == [["8\n80%", "2\n20%"], ["1\n25%", "3\n75%"]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["good", "poor"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["good\nn = 10", "poor\nn = 4"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("called", "truth")
    assert axes.images[0].get_array().tolist() == [[0.8, 0.2], [0.25, 0.75]]


def test_a_class_that_does_not_occur_has_no_percentages_and_one_never_called_has_zeros():
    axes = confusion_figure([[4, 0, 1], [0, 0, 0], [5, 0, 0]], ["a", "b", "c"]).axes[0]
    assert texts(axes)[1].tolist() == ["0", "0", "0"]
    assert texts(axes)[:, 1].tolist() == ["0\n0%", "0", "0\n0%"]


def luminance(colour) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def test_every_share_can_be_read():
    counts = np.stack([np.arange(0, 101, 4), 100 - np.arange(0, 101, 4)], 1)
    for pair in counts:
        axes = confusion_figure([pair, [0, 1]], ["a", "b"]).axes[0]
        image = axes.images[0]
        for text, share in zip(axes.texts, image.get_array().ravel(), strict=True):
            light, dark = sorted(
                (luminance(image.cmap(float(share))), luminance(text.get_color())), reverse=True
            )
            assert (light + 0.05) / (dark + 0.05) >= 4.5
