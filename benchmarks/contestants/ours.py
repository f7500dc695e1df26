"""medinfer, as an application embeds it."""

import time
from pathlib import Path

from protocol import main

import medinfer
from medinfer.imaging import read_image


class Ours:
    """A model that is loaded once."""

    def __init__(self, task):
        self.batch = task.batch or None
        name, _, rounded = task.setting.partition(", ")
        self.model = medinfer.load(
            task.model,
            name or task.provider,
            threads=task.threads or None,
            latency=task.scenario == "single",
            tf32=task.tf32,
            bf16=rounded == "bf16",
        )

    def one(self, path):
        """Answer one image."""
        return list(self.model.predict(path).logits.values())

    def many(self, paths):
        """Answer many."""
        for prediction in self.model.predict_many(paths, batch_size=self.batch):
            yield list(prediction.logits.values())

    def more(self):
        """Return what the answers may be rounded to."""
        return {"precision": self.model.precision}

    def stages(self, path):
        """Return the milliseconds of each stage of one image."""
        spec = self.model.spec.input
        times = [time.perf_counter()]
        content = Path(path).read_bytes()
        times.append(time.perf_counter())
        pixels = read_image(content, spec)
        times.append(time.perf_counter())
        tensor = medinfer.preprocess(pixels, spec)[None]
        times.append(time.perf_counter())
        outputs = self.model._run(tensor)
        times.append(time.perf_counter())
        prediction = medinfer.Prediction(path, self.model.classes, *(output[0] for output in outputs))
        assert prediction.label
        times.append(time.perf_counter())
        names = ("read", "decode", "preprocess", "run", "post")
        return {name: 1000 * (times[i + 1] - times[i]) for i, name in enumerate(names)}


if __name__ == "__main__":
    main(Ours)
