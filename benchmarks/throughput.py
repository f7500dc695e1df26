"""Images a second over a folder, from files to answers, beside the machine's limit and other programs.

    python -m benchmarks.throughput [--only malaria_cnn] [--rounds 5] [--images 600] [--write FILE.json]

Every contestant is a process of its own (`contestants/`) on the same files; they take turns, and medians are told.
limit = cores / (decode + resize + run), the CPU time of each on one thread. Two rates: after start counts from the
moment at which a program is ready, the whole process from its first instruction. Peers live in `build/peers`, which
`make test-peers` installs; without it they are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.corpus import corpus
from benchmarks.speed_models import FOLDER, INPUTS, speed_model
from medinfer.stream import available_cores

HERE = Path(__file__).parent / "contestants"
PEERS = Path("build/peers/bin/python")


@dataclass(frozen=True)
class Contestant:
    """A program: its script, what its graph takes, where it runs, and on which networks it is tried."""

    name: str
    script: str
    graph: str = "pixels"
    python: Path = Path(sys.executable)
    words: tuple[str, ...] = ()
    networks: tuple[str, ...] = tuple(INPUTS)


CONTESTANTS = (
    Contestant("limit", "limit.py"),
    Contestant("medinfer", "ours.py"),
    Contestant("naive loop", "naive.py", "float"),
    Contestant("OpenVINO f32", "openvino_async.py", python=PEERS),
    Contestant("Ultralytics", "ultralytics_predict.py", "float", PEERS, (), ("mobilenet_v2",)),
    Contestant("Ultralytics, batch 16", "ultralytics_predict.py", "float", PEERS, ("16",), ("mobilenet_v2",)),
    Contestant("torch DataLoader", "torch_loader.py", networks=("mobilenet_v2",)),
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="One network.")
    parser.add_argument("--contestants", help="Names, with commas; by default all. The limit always runs.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--write", type=Path, help="A JSON file for every sample.")
    options = parser.parse_args()
    samples: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for arch in [options.only] if options.only else INPUTS:
        wanted = [one for one in CONTESTANTS if arch in one.networks and one.python.exists()]
        if options.contestants:
            wanted = [one for one in wanted if one.name in ("limit", *options.contestants.split(","))]
        samples[arch] = measure(arch, wanted, options.images, options.rounds)
        print(table(arch, samples[arch], options.images), flush=True)
    if options.write:
        options.write.write_text(json.dumps(samples, indent=1), encoding="utf-8")


def measure(arch: str, contestants: list[Contestant], images: int, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Let contestants take turns; the first round warms the page cache and is dropped."""
    folder = corpus(FOLDER, "cells" if INPUTS[arch].channels == 1 else "scans")
    samples: dict[str, list[dict[str, Any]]] = {one.name: [] for one in contestants}
    for _ in range(rounds + 1):
        for one in contestants:
            model = speed_model(arch, graph=one.graph)
            command = [one.python, HERE / one.script, model.resolve(), folder.resolve(), str(images), *one.words]
            samples[one.name].append(run([str(word) for word in command]))
    return {name: found[1:] for name, found in samples.items()}


def run(command: list[str]) -> dict[str, Any]:
    """Run one process; returns what it reports, and how many cores other processes kept busy meanwhile."""
    before, start = _busy(), time.time()
    environment = {**os.environ, "BENCHMARK_STARTED": repr(start)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.time() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: ended with {process.returncode}")
    own = usage.ru_utime + usage.ru_stime
    told = json.loads(output.splitlines()[-1])
    return {**told, "wall": wall, "others": (_busy() - before - own) / wall}


def table(arch: str, samples: dict[str, list[dict[str, Any]]], images: int) -> str:
    """Return the medians of one network, each beside the limit."""
    parts = [sum(sample["parts"].values()) for sample in samples["limit"]]
    limit = available_cores() * 1000 / statistics.median(parts)
    each = {
        name: statistics.median(sample["parts"][name] for sample in samples["limit"])
        for name in ("decode", "resize", "run")
    }
    lines = [f"{arch}: limit {limit:.1f} images/s (" + ", ".join(f"{k} {v:.2f} ms" for k, v in each.items()) + ")"]
    return "\n".join(lines + [line(name, found, parts, images) for name, found in samples.items() if name != "limit"])


def line(name: str, samples: list[dict[str, Any]], parts: list[float], images: int) -> str:
    """Return one contestant's medians; `parts` are the milliseconds that an image costs at least, round by round."""
    rates = [images / (sample["end"] - sample["ready"]) for sample in samples]
    # Neighbours in time, so that a machine that slows down slows both.
    ratios = [rate * part / 1000 / available_cores() for rate, part in zip(rates, parts, strict=True)]
    whole = statistics.median(images / one["wall"] for one in samples)
    cpu = statistics.median(1000 * one["cpu"] / images for one in samples)
    peak = statistics.median(one["peak_mb"] for one in samples)
    return (
        f"  {name:22} {statistics.median(rates):7.1f} after start, {statistics.median(ratios):.2f} of the limit "
        f"({min(ratios):.2f} to {max(ratios):.2f}); whole process {whole:.1f}; {cpu:.2f} CPU ms each; {peak:.0f} MB"
    )


def _busy() -> float:
    """Return the CPU seconds that all processes together have used since the machine started (Linux)."""
    words = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq, *_ = map(int, words)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
