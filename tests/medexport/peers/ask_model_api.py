"""Run by a Python that has OpenVINO's model_api: FILE IMAGE... -> labels and probabilities as JSON."""

import json
import sys

import cv2
from model_api.models import ClassificationModel

path, *images = sys.argv[1:]
model = ClassificationModel.create_model(path, preload=True)
found = []
for image in images:
    result = model(cv2.cvtColor(cv2.imread(image), cv2.COLOR_BGR2RGB))
    found.append(result.raw_scores.tolist())
print(json.dumps({"labels": list(model.params.labels), "probabilities": found}))
