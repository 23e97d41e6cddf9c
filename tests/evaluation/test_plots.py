import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from detector.evaluation import plots
from tests.conftest import draw


def test_a_contact_sheet_takes_images_of_any_shape(tmp_path):
    for name, size in (("wide.png", (300, 20)), ("high.png", (10, 90)), ("small.png", (4, 4))):
        draw(name, size).save(tmp_path / name)
    plots.draw_sheet(tmp_path / "sheet.png", tmp_path, "three", [(name, name) for name in ("wide.png", "high.png", "small.png")])
    assert Image.open(tmp_path / "sheet.png").size == (9 * 130, 130 * 2)


def test_a_contact_sheet_takes_any_names_and_skips_unreadable_files(tmp_path):
    draw("a.png", (40, 40)).save(tmp_path / "a.png")
    (tmp_path / "gone.png").write_text("damaged since it was scored")
    names = ["$\\frac$.jpg", "a$x_$b$.jpg", "<img src=x>", "\u65e5\u672c\u8a9e.jpg", "100%.jpg"]  # the first: a broken formula
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.draw_sheet(tmp_path / "sheet.png", tmp_path, "six", [("gone.png", ""), *(("a.png", name) for name in names)])
    assert (tmp_path / "sheet.png").exists()


def test_the_interval_of_a_bin_without_a_fake_is_not_empty():
    is_fake, p_fake = np.arange(60) >= 30, np.repeat([0.0, 1.0], 30)
    axes = Figure().subplots()
    plots._reliability(axes, is_fake, p_fake, None, {"ece": 0.0, "intervals": {"ece": [0.0, 0.0]}})
    bars = axes.containers[0][2][0].get_segments()
    limit = 1 - 0.025 ** (1 / 30)  # Clopper-Pearson
    assert np.array(bars)[:, :, 1] == pytest.approx(np.array([[0, limit], [1 - limit, 1]]))
