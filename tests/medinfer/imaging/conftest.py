"""Reading with the plainest spec, and the error of what is refused."""

import functools

import pytest

from medinfer.errors import ImageError
from medinfer.imaging import read_image
from medinfer.spec import InputSpec


@pytest.fixture(scope="session")
def read():
    """Pixels of a file by its bytes or path: `read(data, alpha={"over": [0, 0, 0]})`."""

    def read(source, **fields):
        return read_image(source, InputSpec(height=8, width=8, mean=(0.0,) * 3, std=(1.0,) * 3, **fields))

    return read


@pytest.fixture(scope="session")
def code_of(read):
    """Code of the error that reading gives: `code_of(data)`."""

    def code_of(source, **fields):
        with pytest.raises(ImageError) as caught:
            read(source, **fields)
        return caught.value.code

    return code_of


@pytest.fixture
def read_levels(read_dicom):
    """Shows samples of 8 bits as they are stored: (v - 127.5) / 255 + 0.5."""
    return functools.partial(read_dicom, window=[128, 256])
