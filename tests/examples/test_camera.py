"""The camera loop reads OpenCV's channel order right, classifies a film frame by frame, and never lags a camera."""

import importlib.util
import queue
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

import medinfer

CAMERA = Path(__file__).parents[2] / "examples/camera.py"
COLORS = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}  # in OpenCV's order


def watch(*words):
    return subprocess.run(
        [sys.executable, CAMERA, *map(str, words), "--provider", "cpu"], capture_output=True, text=True
    )


@pytest.fixture
def film(tmp_path):
    """An .avi of six plain frames; returns its path and their colours."""
    path, names = tmp_path / "film.avi", ["red", "blue", "green", "green", "red", "blue"]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for name in names:
        writer.write(np.full((48, 64, 3), COLORS[name], np.uint8))
    writer.release()
    return path, names


def test_every_frame_of_a_film_gets_the_librarys_answer_with_red_and_blue_as_they_are(tiny_model, film):
    path, names = film
    done = watch(tiny_model, path)
    assert done.returncode == 0, done.stderr
    model, capture = medinfer.load(tiny_model, "cpu"), cv2.VideoCapture(str(path))
    wanted = []
    for number, name in enumerate(names, 1):
        seen = model.predict(capture.read()[1][..., ::-1])
        assert seen.label == name
        wanted.append(f"{number}\t{name}\t{seen.probability:.4f}")
    assert done.stdout.splitlines() == wanted


@pytest.mark.parametrize("source", ["absent.avi", "99", "text.avi"])
def test_a_source_without_a_frame_is_refused_by_its_name(tiny_model, tmp_path, source):
    if source == "text.avi":
        source = tmp_path / source
        source.write_text("no film")
    done = watch(tiny_model, source)
    assert done.returncode == 2
    assert f"{source}: no frame can be read" in done.stderr


@pytest.fixture(scope="module")
def camera():
    spec = importlib.util.spec_from_file_location("camera", CAMERA)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Camera:
    """A camera that gives as many frames as it is told to."""

    def __init__(self):
        self.allowed = threading.Semaphore(0)
        self.waiting = threading.Semaphore(0)
        self.given, self.last = 0, 10**9

    def read(self):
        self.waiting.release()  # all frames before this one have been taken
        self.allowed.acquire()
        self.given += 1
        return self.given <= self.last, self.given

    def give(self, count):
        """Give so many frames, and wait until each was taken."""
        for _ in range(count):
            self.waiting.acquire()
            self.allowed.release()
        self.waiting.acquire()
        self.waiting.release()

    def end(self):
        self.last = self.given
        self.allowed.release()


def test_a_slow_model_gets_the_newest_frame_and_the_ones_between_are_dropped(camera):
    source = Camera()
    frames = iter(camera.Newest(source))
    seen = []
    for count in (1, 5, 1, 30):  # so many come while the model is at work
        source.give(count)
        seen.append(next(frames))
    assert seen == [(1, 1), (6, 6), (7, 7), (37, 37)]
    source.end()
    assert list(frames) == []


def test_a_model_that_is_faster_than_the_camera_waits_for_the_next_frame(camera):
    source, seen = Camera(), queue.Queue()
    reader = threading.Thread(target=lambda: [seen.put(frame) for frame in camera.Newest(source)], daemon=True)
    reader.start()
    for number in (1, 2, 3):
        source.give(1)
        assert seen.get(timeout=60) == (number, number)
    source.end()
    reader.join(60)
    assert not reader.is_alive()
    assert seen.empty()


def test_a_frame_that_cannot_be_used_is_told_and_the_next_one_is_classified(camera, tiny_model, capsys):
    model = medinfer.load(tiny_model, "cpu", max_pixels=100)
    good = np.full((5, 5, 3), COLORS["blue"], np.uint8)
    assert camera.watch(model, iter([(1, np.zeros((50, 50, 3), np.uint8)), (2, good)])) == 2
    first, second = capsys.readouterr().out.splitlines()
    assert first == "1\terror\ttoo_large"
    assert second.startswith("2\tblue\t")
