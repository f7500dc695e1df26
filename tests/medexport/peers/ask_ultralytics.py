"""Run by a Python that has Ultralytics: FILE IMAGE... -> names and probabilities as JSON."""

import json
import sys

from ultralytics import YOLO

path, *images = sys.argv[1:]
model = YOLO(path)  # finds its task, names and size in the file
found = [result.probs.data.tolist() for result in model.predict(images, verbose=False)]
print(json.dumps({"task": model.task, "names": list(model.names.values()), "probabilities": found}))
