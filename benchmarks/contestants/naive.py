"""The loop that everybody writes first: read, resize, normalise, run, one by one, with every default."""

import cv2
import numpy as np
import onnxruntime
from protocol import main

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Loop:
    """OpenCV, numpy and onnxruntime."""

    def __init__(self, task):
        if task.provider == "cuda":
            onnxruntime.preload_dlls()
        self.session = onnxruntime.InferenceSession(task.model, providers=[PROVIDERS[task.provider]])
        self.taken = self.session.get_inputs()[0]
        _, self.channels, self.height, self.width = self.taken.shape
        self.gray = self.channels == 1
        self.filter = getattr(cv2, f"INTER_{task.interpolation.upper()}")

    def one(self, path):
        """Answer one image."""
        # IMREAD_GRAYSCALE would be shorter, and of a colour PNG gives other grays.
        image = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2GRAY if self.gray else cv2.COLOR_BGR2RGB)
        image = cv2.resize(image, (self.width, self.height), interpolation=self.filter)
        image = image.reshape(self.height, self.width, self.channels)
        tensor = (image.astype(np.float32) / 255).transpose(2, 0, 1)[None]
        return self.session.run(["logits"], {self.taken.name: tensor})[0][0].tolist()

    def many(self, paths):
        """Answer one by one."""
        return map(self.one, paths)


if __name__ == "__main__":
    main(Loop)
