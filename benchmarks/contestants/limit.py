"""The parts alone, on one thread: read and decode, resize, run. Their CPU time is what no program can do without."""

import time

import cv2
import numpy as np
import onnxruntime
from clock import Clock, arguments

model, paths = arguments()
cv2.setNumThreads(1)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
_, height, width, channels = session.get_inputs()[0].shape
flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB
tensor = np.empty((1, height, width, channels), np.uint8)
seconds = {"decode": 0.0, "resize": 0.0, "run": 0.0}
clock = Clock()
for path in paths:
    start = time.thread_time()
    image = cv2.imread(path, flag)
    decoded = time.thread_time()
    cv2.resize(image, (width, height), dst=tensor[0] if channels == 3 else tensor[0, ..., 0])
    resized = time.thread_time()
    probabilities, _ = session.run(None, {"image": tensor})
    seconds["run"] += time.thread_time() - resized
    seconds["resize"] += resized - decoded
    seconds["decode"] += decoded - start
    clock.answered(probabilities.tolist())
clock.report(parts={name: 1000 * value / len(paths) for name, value in seconds.items()})
