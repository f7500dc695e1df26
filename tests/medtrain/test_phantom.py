"""The drawn data set: always the same, hard enough to need a network, and never over somebody's files."""

import json

import cv2
import numpy as np
import pytest

from medinfer.errors import UsageError
from medtrain.phantom import CLASSES, draw_cell, write_phantom


def test_a_cell_is_the_same_on_every_call_and_another_for_every_index():
    assert np.array_equal(draw_cell(7, 3, "parasitized"), draw_cell(7, 3, "parasitized"))
    assert not np.array_equal(draw_cell(7, 3, "parasitized"), draw_cell(7, 3, "uninfected"))
    shapes = {draw_cell(7, index, "uninfected").shape for index in range(12)}
    assert len(shapes) > 6  # sizes vary


def test_the_folder_holds_balanced_classes_and_is_not_drawn_twice(tmp_path):
    folder = tmp_path / "phantom"
    assert write_phantom(folder, train=12, test=4) == 16
    assert {len(list((folder / "train" / name).glob("*.png"))) for name in CLASSES} == {6}
    assert write_phantom(folder, train=12, test=4) == 0
    (folder / "train" / CLASSES[0] / "0000.png").unlink()
    assert write_phantom(folder, train=12, test=4) == 1


def test_an_interrupted_drawing_is_completed(tmp_path):
    folder = tmp_path / "phantom"
    write_phantom(folder, train=4, test=2)
    marker = json.loads((folder / "phantom.json").read_text())
    (folder / "phantom.json").write_text(json.dumps({**marker, "complete": False}))
    next((folder / "test" / CLASSES[1]).glob("*.png")).unlink()
    assert write_phantom(folder, train=4, test=2) == 1


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "mine.png").write_bytes(b"x")
    with pytest.raises(UsageError):
        write_phantom(tmp_path, train=4, test=2)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]


@pytest.mark.slow
def test_a_linear_model_on_pixels_stays_below_90_percent():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    def draw(start, count):
        cells = [
            cv2.resize(draw_cell(7, start + i, CLASSES[i % 2]), (64, 64), interpolation=cv2.INTER_AREA).ravel()
            for i in range(count)
        ]
        return np.array(cells, np.float32), np.arange(count) % 2

    (x, y), (x_test, y_test) = draw(0, 1600), draw(1_000_000, 400)
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(C=1e-3, max_iter=200).fit(scaler.transform(x), y)
    assert model.score(scaler.transform(x_test), y_test) < 0.9
