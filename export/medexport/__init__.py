"""medexport: a trained checkpoint becomes one ONNX file that proves it agrees with the original.

>>> from medexport.build import export
>>> from medexport.source import read_checkpoint
>>> export(read_checkpoint("ckpt.pt"), "ckpt.onnx")
"""
