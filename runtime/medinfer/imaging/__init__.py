"""From a path, the bytes of a file or an array to the tensor that a model takes.

`read_image` decodes; `preprocess` resizes. Training, export and inference call these two and no others.
"""

from medinfer.imaging._files import read_file as read_file
from medinfer.imaging._headers import read_header as read_header
from medinfer.imaging._limits import MAX_FILE_BYTES as MAX_FILE_BYTES, MAX_PIXELS as MAX_PIXELS
from medinfer.imaging._preprocess import (
    FEW_LEVELS as FEW_LEVELS,
    has_few_levels as has_few_levels,
    preprocess as preprocess,
    scaled_sides as scaled_sides,
    to_8_bit as to_8_bit,
    without_resize as without_resize,
)
from medinfer.imaging._read import (
    DICOM_START as DICOM_START,
    Decoded as Decoded,
    Image as Image,
    ImageSource as ImageSource,
    decode as decode,
    read_image as read_image,
)
from medinfer.imaging.dicom import looks_like_dicom as looks_like_dicom
