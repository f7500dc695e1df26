"""A folder of DICOM files, trained on: the tensors are those of inference."""

import io
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

import medinfer
from medinfer.errors import UsageError
from medinfer.spec import Dicom
from medtrain.dataset import load_dataset, load_examples
from medtrain.layout import SPLITS
from medtrain.recipe import Data

CT = Path(pydicom.__file__).parent / "data/test_files/CT_small.dcm"


@pytest.fixture
def scans(tmp_path):
    """Twenty scans that differ, in two classes, uncompressed and by run lengths."""
    random = np.random.default_rng(0)
    for number in range(20):
        dataset = pydicom.dcmread(CT)
        pixels = dataset.pixel_array + random.integers(-300, 300, (128, 128)).astype(np.int16)
        dataset.PixelData = pixels.tobytes()
        if number % 3 == 0:
            dataset.compress("1.2.840.10008.1.2.5", encoding_plugin="pydicom")
        file = io.BytesIO()
        dataset.save_as(file)
        # As archives give them, some without a suffix.
        name = str(number) if number % 4 == 1 else f"{number}.dcm"
        path = tmp_path / ("benign" if number % 2 else "malignant") / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(file.getvalue())
    return tmp_path


@pytest.mark.parametrize("window", ["file", (40.0, 400.0)])
def test_training_on_dicom_sees_the_tensors_that_inference_makes(scans, input_spec, window):
    spec = input_spec(color="gray", height=32, width=32, interpolation="area", dicom=Dicom(window=window))
    dataset = load_dataset(scans, Data(), spec, 0)
    seen = set()
    for split in SPLITS:
        examples = load_examples(dataset, split, spec)
        for name, tensor in zip(examples.names, examples.images, strict=True):
            image = medinfer.read_image(scans / name, spec)
            assert image.std() > 1
            assert np.array_equal(tensor, medinfer.preprocess(image, spec))
            seen.add(name)
    assert len(seen) == 20


def test_a_data_set_whose_decoder_is_missing_is_refused(scans, input_spec, monkeypatch):
    """Otherwise a class could lose all its images."""
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UsageError) as caught:
        load_dataset(scans, Data(), input_spec(color="gray"), 0)
    assert (caught.value.exit_code, caught.value.hint) == (2, 'Install it: pip install "medonnx[dicom]"')
