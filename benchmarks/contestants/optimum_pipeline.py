"""Hugging Face's pipeline on optimum's onnxruntime model, from the folder that `medexport --hf` writes."""

from optimum.onnxruntime import ORTModelForImageClassification
from protocol import main
from transformers import AutoImageProcessor, pipeline


class Optimum:
    """A pipeline as its users build it."""

    answers = "probabilities"

    def __init__(self, task):
        model = ORTModelForImageClassification.from_pretrained(task.model, subfolder="onnx", file_name="model.onnx")
        processor = AutoImageProcessor.from_pretrained(task.model)
        self.labels = [model.config.id2label[i] for i in range(len(model.config.id2label))]
        self.pipeline = pipeline("image-classification", model=model, image_processor=processor, top_k=len(self.labels))
        self.batch = task.batch or 1

    def one(self, path):
        """Answer one image."""
        return self.row(self.pipeline(path))

    def many(self, paths):
        """Answer many."""
        return map(self.row, self.pipeline(paths, batch_size=self.batch))

    def row(self, found):
        """Return the answers in the order of the classes."""
        scores = {entry["label"]: entry["score"] for entry in found}
        return [scores[label] for label in self.labels]


if __name__ == "__main__":
    main(Optimum)
