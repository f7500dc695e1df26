"""Ultralytics' `predict` on the same network, one image at a time or with the batch named in its fourth argument."""

import os
import sys
import tempfile

os.environ.update(YOLO_OFFLINE="1", YOLO_CONFIG_DIR=tempfile.gettempdir())

from clock import Clock, arguments
from ultralytics import YOLO

name, paths = arguments()
model = YOLO(name, task="classify")
clock = Clock()
batch = int(sys.argv[4]) if len(sys.argv) > 4 else 1
for result in model.predict(
    os.path.dirname(paths[0]), stream=True, verbose=False, device="cpu", imgsz=224, batch=batch
):
    clock.answered([result.probs.data.tolist()])
    if len(clock.labels) == len(paths):
        break
clock.report()
