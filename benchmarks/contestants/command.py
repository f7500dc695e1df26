"""The command line of medinfer, from files to a CSV by way of the journal that a kill does not lose."""

import csv
import tempfile
from pathlib import Path

from protocol import main

import medinfer
from medinfer.job import Run


class Command:
    """What `medinfer PATH... -o results.csv` does once its model is open."""

    answers = "probabilities"

    def __init__(self, task):
        self.batch = task.batch or None
        self.model = medinfer.load(task.model, task.provider, threads=task.threads or None, tf32=task.tf32)

    def one(self, path):
        """Answer one image."""
        return next(iter(self.many([path])))

    def many(self, paths):
        """Answer many, all at once: the table is whole when the command ends."""
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "results.csv"
            run = Run("csv", self.batch, None, None, quiet=True)
            run.to_file(output, self.model, medinfer.find_images(*paths), resume=False, overwrite=False)
            with output.open(newline="") as file:
                rows = list(csv.DictReader(file))
        return [[float(row[f"p({name})"]) for name in self.model.classes] for row in rows]


if __name__ == "__main__":
    main(Command)
