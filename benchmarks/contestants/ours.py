"""medinfer, from files to a CSV as its command line writes it: by way of the journal that a kill does not lose."""

import csv
import tempfile
from pathlib import Path

from clock import Clock, arguments

import medinfer
from medinfer.job import Run

name, paths = arguments()
model = medinfer.load(name, "cpu")
with tempfile.TemporaryDirectory() as folder:
    output = Path(folder) / "results.csv"
    clock = Clock()
    Run("csv", None, None, None, True).to_file(
        output, model, medinfer.find_images(*paths), resume=False, overwrite=False
    )
    clock.stop()
    with output.open(newline="") as file:
        clock.answered([[float(row[f"p({name})"]) for name in model.classes] for row in csv.DictReader(file)])
clock.report()
