"""Training on the CPU, images a second: our loop against Keras, on the same networks, batch and machine, in float32.

    python -m benchmarks.training_speed [--rounds 3] [--only malaria_cnn] [--keras PYTHON]

PYTHON is an interpreter with tensorflow (`make bench-training` makes one). Contestants take turns in fresh processes;
what is printed are medians over rounds of each process's median batch, without the first five, and the
median of the rounds' ratios: a shared machine is faster at one time than at another. `ours, plain heap` is
our loop without the kept heap; its weights must come out the same, bit for bit, and the script says so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import subprocess
import sys
from pathlib import Path

# network -> (side, channels, batches)
NETWORKS = {"malaria_cnn": (70, 1, 60), "mobilenet_v2": (224, 3, 14)}
BATCH = 32
WARM_UP = 5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=list(NETWORKS), help="One network.")
    parser.add_argument("--keras", help="A Python with tensorflow.")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _ours(*options.child)
        return
    contestants = {"ours": [sys.executable, "-m", "benchmarks.training_speed", "--child", "kept"]}
    contestants["ours, plain heap"] = [*contestants["ours"][:-1], "plain"]
    if options.keras:
        contestants["keras"] = [options.keras, str(Path(__file__).with_name("keras_training.py"))]
    for network in [options.only] if options.only else NETWORKS:
        _compare(network, contestants, options.rounds)


def _compare(network: str, contestants: dict[str, list[str]], rounds: int) -> None:
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    weights: dict[str, set[str]] = {name: set() for name in contestants}
    side, channels, batches = NETWORKS[network]
    for _ in range(rounds):
        for name, command in sorted(contestants.items(), key=lambda _: random.random()):
            shape = [network] if "keras" not in name else [network, *map(str, (side, channels, batches, BATCH))]
            done = subprocess.run([*command, *shape], check=True, capture_output=True, text=True)
            result = json.loads(done.stdout.splitlines()[-1])
            speeds[name].append(BATCH / statistics.median(result["seconds"][WARM_UP:]))
            weights[name].add(result.get("weights", ""))
    for name, values in speeds.items():
        print(f"{network:14} {name:18} {statistics.median(values):7.1f} images/s  {[round(v, 1) for v in values]}")
    same = weights["ours"] == weights["ours, plain heap"] and len(weights["ours"]) == 1
    print(f"{network:14} kept heap leaves the weights bit-identical: {'yes' if same else 'NO'}")
    if "keras" in speeds:
        ratios = [round(ours / keras, 2) for ours, keras in zip(speeds["ours"], speeds["keras"], strict=True)]
        print(f"{network:14} ours / keras: {statistics.median(ratios):.2f}  (each round: {ratios})")


def _ours(heap: str, name: str) -> None:
    """Train on noise through the loop that `medtrain fit` runs; print the batches' seconds as JSON."""
    import hashlib
    import time

    from medtrain.heap import keep_heap

    if heap == "kept":
        keep_heap()
    import numpy as np
    import torch

    from medtrain.dataset import Examples
    from medtrain.loop import Trainer
    from medtrain.network import Classifier, build_network, network_config
    from medtrain.recipe import load

    side, channels, batches = NETWORKS[name]
    color = ["input.color=gray", "input.mean=[0.0]", "input.std=[1.0]"] if channels == 1 else []
    recipe = load(
        "malaria",
        [
            *color,
            f"input.height={side}",
            f"input.width={side}",
            f"network.arch={name}",
            "training.epochs=1",
            f"training.batch_size={BATCH}",
            "training.optimizer=adam",
            "training.weight_decay=0.0",
            *(f"augment.{key}=0.0" for key in ("rotate", "scale", "brightness", "contrast")),
            "augment.flip_horizontal=false",
            "augment.flip_vertical=false",
        ],
    )
    torch.manual_seed(0)
    config = network_config(recipe.network, recipe.input, classes=2)
    images = np.random.default_rng(0).integers(0, 256, (batches * BATCH, side, side, channels), np.uint8)
    labels = np.arange(len(images)) % 2
    names = tuple(map(str, range(len(images))))
    classifier = Classifier(build_network(config), recipe.input.mean, recipe.input.std)
    few = Examples(images[:2], labels[:2], names[:2])
    trainer = Trainer(classifier, recipe, Examples(images, labels, names), few)
    times = [time.perf_counter()]
    trainer.run(lambda loss: times.append(time.perf_counter()), lambda: None)
    digest = hashlib.sha256()
    for key, value in sorted(classifier.state_dict().items()):
        digest.update(key.encode() + value.numpy().tobytes())
    seconds = [after - before for before, after in itertools.pairwise(times)]
    print(json.dumps({"seconds": seconds, "weights": digest.hexdigest()}))


if __name__ == "__main__":
    main()
