"""When one machine is not enough: classify a folder or an object store's listing with Ray Data, and write Parquet.

    pip install "medonnx[cpu,parquet]" "ray[data]"
    python ray_batch.py MODEL.onnx images/ out/              # a folder that every machine sees by this path
    python ray_batch.py MODEL.onnx s3://bucket/images out/   # whatever Ray can list

On a cluster each worker needs the same packages and the model under the same path. The rows are those of
`medinfer images/ -o out.parquet`, in several files and in no particular order. Research use only; not a medical device.
"""

from __future__ import annotations

import argparse

import numpy as np
import pyarrow
import ray

import medinfer
from medinfer.archives import Member
from medinfer.parquet import to_table
from medinfer.results import as_record

BATCH = 64


class Classifier:
    """One worker: a model, opened once, on one core."""

    def __init__(self, model: str, provider: str) -> None:
        self.model = medinfer.load(model, provider, threads=1)

    def __call__(self, batch: dict[str, np.ndarray]) -> pyarrow.Table:
        """Turn a batch of paths, with the files' bytes where Ray has read them, into a table of results."""
        paths = batch["path"].tolist()
        images = (
            [Member(data, path) for data, path in zip(batch["bytes"], paths, strict=True)]
            if "bytes" in batch
            else paths
        )
        records = [as_record(seen) for seen in self.model.predict_many(images)]
        return to_table(records, self.model.classes)


def main() -> None:
    """Run the job."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("images", help="A folder, or a URI that Ray reads, such as s3://bucket/images")
    parser.add_argument("out", help="A folder or URI for the Parquet files")
    parser.add_argument("--workers", type=int, help="By default one a core of the cluster.")
    parser.add_argument("--provider", default="cpu")
    options = parser.parse_args()
    ray.init(ignore_reinit_error=True)
    workers = options.workers or int(ray.cluster_resources()["CPU"])
    if "://" in options.images:
        rows = ray.data.read_binary_files(options.images, include_paths=True)
    else:
        # Only the names travel: each worker reads the files itself.
        rows = ray.data.from_items([{"path": path} for path in medinfer.find_images(options.images)])
    answers = rows.map_batches(
        Classifier,
        fn_constructor_args=(options.model, options.provider),
        batch_size=BATCH,
        concurrency=workers,
        num_cpus=0.5,  # of a core that each keeps busy: with all of them booked, nothing could read or write
    )
    answers.write_parquet(options.out)


if __name__ == "__main__":
    main()
