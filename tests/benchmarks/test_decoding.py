"""The trials of the decoders, in small; their whole counts in `make test-all`."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not shutil.which("dcmj2pnm"), reason="DCMTK is not installed (Debian: dcmtk)")


def trial(name, *words):
    command = [sys.executable, "-m", f"benchmarks.decoding.{name}", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-500:]
    return done.stdout


@pytest.mark.parametrize("count", [150, pytest.param(3000, marks=pytest.mark.slow)])
def test_intact_files_of_every_layout_are_read_or_refused_for_a_named_reason(count):
    assert "0 unexplained" in trial("sweep", "--count", str(count), "--seed", "7")


@pytest.mark.parametrize("count", [200, pytest.param(20_000, marks=pytest.mark.slow)])
def test_no_mutation_gives_pixels_that_a_strict_decoder_does_not_give(count):
    assert f"{count} mutations" in trial("mutations", "--count", str(count), "--seed", "7")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["PNG", "LZW"])
def test_damage_is_noticed_where_a_format_can_show_it(name):
    trial("damage", "--count", "100", "--only", name)


@pytest.mark.slow
def test_small_files_take_neither_minutes_nor_gigabytes():
    trial("slow")


@pytest.mark.slow
def test_a_lossless_transcoding_shows_the_same_image():
    assert "| all | |" in trial("transcoding")
