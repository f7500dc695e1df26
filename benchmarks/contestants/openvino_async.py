"""OpenVINO at its best in fp32: the throughput hint, asynchronous requests, two threads that decode and resize."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import openvino
from protocol import main


class OpenVino:
    """A compiled network that takes the same file as ours."""

    def __init__(self, task):
        cv2.setNumThreads(1)
        hint = "LATENCY" if task.scenario == "single" else "THROUGHPUT"
        settings = {"PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": "f32"}
        self.network = openvino.Core().compile_model(task.model, "CPU", settings)
        sides = list(self.network.input(0).partial_shape)[1:]
        self.height, self.width, self.channels = (side.get_length() for side in sides)
        self.gray = self.channels == 1
        self.filter = getattr(cv2, f"INTER_{task.interpolation.upper()}")
        self.request = self.network.create_infer_request()

    def one(self, path):
        """Answer one image."""
        self.request.infer({0: self.read(path)})
        return self.request.get_tensor("logits").data[0].tolist()

    def many(self, paths):
        """Answer many, all at once at the end."""
        answers = [None] * len(paths)
        queue = openvino.AsyncInferQueue(self.network)
        queue.set_callback(lambda request, i: answers.__setitem__(i, request.get_tensor("logits").data[0].tolist()))
        with ThreadPoolExecutor(2) as pool:
            for i, tensor in enumerate(pool.map(self.read, paths)):
                queue.start_async({0: tensor}, i)
        queue.wait_all()
        return answers

    def read(self, path):
        """Return one image as the graph takes it."""
        # IMREAD_GRAYSCALE would be shorter, and of a colour PNG gives other grays.
        image = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2GRAY if self.gray else cv2.COLOR_BGR2RGB)
        image = cv2.resize(image, (self.width, self.height), interpolation=self.filter)
        return image.reshape(1, self.height, self.width, self.channels)


if __name__ == "__main__":
    main(OpenVino)
