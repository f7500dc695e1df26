"""Run by a Python that has numpy and some onnxruntime: FILE ARRAY.npy -> version and probabilities as JSON."""

import json
import sys

import numpy
import onnxruntime

path, array = sys.argv[1:]
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
(found,) = session.run(["probabilities"], {session.get_inputs()[0].name: numpy.load(array)})
print(json.dumps({"version": onnxruntime.__version__, "probabilities": found.tolist()}))
