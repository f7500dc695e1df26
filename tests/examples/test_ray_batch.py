"""The Ray Data job gives the rows of a local run; `make test-peers` installs Ray under build/ and runs this."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
RAY = Path(os.environ.get("MEDONNX_PEERS", "build")).resolve() / "ray/bin/python"

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("uri", [False, True], ids=["folder", "uri"])
def test_rows_equal_a_local_run(tmp_path, tiny_model, uri):
    if not RAY.exists():
        pytest.skip(f"{RAY} is not there: make test-peers installs it")
    from pyarrow import parquet

    (tmp_path / "images").mkdir()
    for i in range(300):
        cv2.imwrite(str(tmp_path / f"images/{i}.png"), np.random.default_rng(i).integers(0, 256, (20, 30, 3), np.uint8))
    (tmp_path / "images/bad.png").write_bytes(b"junk")
    images = str(tmp_path / "images")
    command = [str(Path(sys.executable).with_name("medinfer")), images, "-m", str(tiny_model), "--provider", "cpu"]
    assert subprocess.run([*command, "-o", str(tmp_path / "local.parquet"), "-q"], check=False).returncode == 3
    subprocess.run(
        [RAY, ROOT / "examples/ray_batch.py", tiny_model, f"local://{images}" if uri else images, tmp_path / "out"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "runtime"), "RAY_USAGE_STATS_ENABLED": "0"},
        check=True,
    )
    wanted = parquet.read_table(tmp_path / "local.parquet").sort_by("path").to_pylist()
    found = parquet.read_table(tmp_path / "out").sort_by("path").to_pylist()
    assert found == wanted
    assert len(found) == 301
