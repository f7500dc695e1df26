"""Fuzzing: damaged images and models, each of which must give an answer or one of our own errors.

    python -m tests.faults.fuzz [--seed 0] [--start 0] [--count 20000] [--keep FOLDER]

A case is told by its seed and number: `--start N --count 1 --keep FOLDER` makes its file again. The run ends with 1
where a case raised anything else, killed its process, took over 5 s or grew by over 1 GB. Only of models is a death no
failure of the run: onnxruntime parses them in C++, and it is told how often.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from tests.faults.fuzz.cases import case
from tests.faults.fuzz.worker import Outcome, outcomes

from medinfer.progress import Progress


def main() -> int:
    """Run, and print what came of it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="The first case.")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--keep", type=Path, help="Write the files of cases that fail here; with --count 1, the file.")
    options = parser.parse_args()
    start, found = time.monotonic(), []
    with Progress("Fuzzing", enabled=True) as progress:
        for outcome in outcomes(options.seed, range(options.start, options.start + options.count)):
            found.append(outcome)
            progress.step()
            if options.keep and (outcome.failed or options.count == 1):
                keep(options.keep, options.seed, outcome.index)
    print(table(found))
    for outcome in found:
        if outcome.failed:
            print(f"case {outcome.index}, {outcome.kind} ({outcome.sample}): {outcome.said}")
    print(f"{len(found)} cases of seed {options.seed} from {options.start} in {time.monotonic() - start:.0f} s")
    return int(any(is_failure(outcome) for outcome in found))


def keep(folder: Path, seed: int, index: int) -> None:
    """Write the file of a case."""
    one = case(seed, index)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{seed}-{index}.{one.kind}").write_bytes(one.data)


def is_failure(outcome: Outcome) -> bool:
    """Tell what ends a run with 1: all that fails, but a model on which onnxruntime dies."""
    return outcome.failed and not (outcome.kind == "onnx" and outcome.said.startswith("killed by"))


def table(found: Iterable[Outcome]) -> str:
    """Return a Markdown table, a row for each format."""
    kinds: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in found:
        kinds[outcome.kind].append(outcome)
    lines = ["| format | cases | answers | errors | failures | deaths | slowest, s | most memory, MB |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for kind, ones in sorted(kinds.items()):
        said = Counter(one.said for one in ones if not one.failed)
        answers = said.pop("answer", 0)
        errors = ", ".join(f"{code} {count}" for code, count in said.most_common())
        failures, deaths = sum(map(is_failure, ones)), sum("killed" in one.said for one in ones if one.failed)
        slowest, most = max(one.seconds for one in ones), max(one.grown for one in ones) / 1e6
        row = (kind, len(ones), answers, errors, failures, deaths, f"{slowest:.2f}", f"{most:.0f}")
        lines.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
