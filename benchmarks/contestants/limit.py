"""The parts alone on one thread: read and decode, resize, run. Their CPU time is what no program can do without."""

import statistics
import time

import cv2
import numpy as np
import onnxruntime
from protocol import main


class Parts:
    """OpenCV and onnxruntime with nothing around them."""

    def __init__(self, task):
        cv2.setNumThreads(1)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(task.model, options, providers=["CPUExecutionProvider"])
        _, self.height, self.width, self.channels = self.session.get_inputs()[0].shape
        self.flag = cv2.IMREAD_GRAYSCALE if self.channels == 1 else cv2.IMREAD_COLOR_RGB
        self.tensor = np.empty((1, self.height, self.width, self.channels), np.uint8)
        self.filter = getattr(cv2, f"INTER_{task.interpolation.upper()}")
        self.parts = {"decode": [], "resize": [], "run": []}

    def one(self, path):
        """Answer one image, taking the CPU time of each part."""
        start = time.thread_time()
        image = cv2.imread(path, self.flag)
        decoded = time.thread_time()
        tensor = self.tensor[0].reshape(self.height, self.width, -1)
        cv2.resize(image, (self.width, self.height), dst=tensor, interpolation=self.filter)
        resized = time.thread_time()
        (logits,) = self.session.run(["logits"], {"image": self.tensor})
        ends = (decoded - start, resized - decoded, time.thread_time() - resized)
        for name, seconds in zip(self.parts, ends, strict=True):
            self.parts[name].append(1000 * seconds)
        return logits[0].tolist()

    def many(self, paths):
        """Answer one by one."""
        return map(self.one, paths)

    def more(self):
        """Return the mean milliseconds of each part."""
        return {"parts": {name: statistics.mean(values) for name, values in self.parts.items()}}


if __name__ == "__main__":
    main(Parts)
