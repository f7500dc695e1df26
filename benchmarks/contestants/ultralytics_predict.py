"""Ultralytics' `predict` on the same network, with its own way to prepare an image."""

import os
import tempfile

os.environ.update(YOLO_OFFLINE="1", YOLO_CONFIG_DIR=tempfile.gettempdir())

from protocol import main
from ultralytics import YOLO


class Ultralytics:
    """Its model, opened as a user opens it."""

    answers = "probabilities"

    def __init__(self, task):
        self.model = YOLO(task.model)
        # Of a file that takes any batch it does not believe the size.
        size = [task.height, task.width]
        self.settings = {"verbose": False, "device": task.provider, "batch": task.batch or 1, "imgsz": size}

    def one(self, path):
        """Answer one image."""
        return _row(self.model.predict(path, **self.settings)[0])

    def many(self, paths):
        """Answer many."""
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("\n".join(paths))
            file.flush()
            yield from map(_row, self.model.predict(file.name, stream=True, **self.settings))


def _row(result):
    return result.probs.data.tolist()


if __name__ == "__main__":
    main(Ultralytics)
