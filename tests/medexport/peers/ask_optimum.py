"""Run by a Python that has Hugging Face's optimum: FOLDER IMAGE... -> labels and probabilities as JSON."""

import json
import sys

from optimum.onnxruntime import ORTModelForImageClassification
from PIL import Image
from transformers import AutoImageProcessor

folder, *images = sys.argv[1:]
model = ORTModelForImageClassification.from_pretrained(folder, subfolder="onnx", file_name="model.onnx")
processor = AutoImageProcessor.from_pretrained(folder)
batch = processor([Image.open(image).convert("RGB") for image in images], return_tensors="pt")
logits = model(pixel_values=batch["pixel_values"]).logits
labels = [model.config.id2label[i] for i in range(logits.shape[1])]
print(json.dumps({"labels": labels, "probabilities": logits.softmax(dim=1).tolist()}))
