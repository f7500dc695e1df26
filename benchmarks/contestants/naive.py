"""The loop that everybody writes first: read, resize, normalise, run, one by one, with every default."""

import csv
import tempfile

import cv2
import numpy as np
import onnxruntime
from clock import Clock, arguments

model, paths = arguments()
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
taken = session.get_inputs()[0]
_, channels, height, width = taken.shape
flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
clock = Clock()
with tempfile.TemporaryFile("w", newline="") as file:
    write = csv.writer(file).writerow
    for path in paths:
        image = cv2.imread(path, flag)
        if channels == 3:
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        image = cv2.resize(image, (width, height)).reshape(height, width, channels)
        tensor = (image.astype(np.float32) / 255).transpose(2, 0, 1)[None]
        (scores,) = session.run(["probabilities"], {taken.name: tensor})
        write([path, *scores[0]])
        clock.answered(scores.tolist())
clock.report()
