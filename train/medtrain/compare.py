"""Several networks on the same split (`--arch a,b,c`): each trained in its own folder, ranked, the best one kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medinfer.errors import UsageError
from medinfer.files import atomic_file
from medtrain.fit import Options, fit, new_classifier
from medtrain.network import network_config
from medtrain.recipe import Recipe

BOARD = "leaderboard.json"


def compare(data: Path | None, recipe: Recipe, archs: Sequence[str], options: Options) -> list[dict[str, Any]]:
    """Train each architecture into `out/ARCH/` and return the leaderboard, best first by validation AUC.

    The best one's ckpt.pt is copied to `out`. The test figures stand beside: they choose nothing.

    Raises:
        UsageError: An architecture is named twice; and whatever `fit` raises.
    """
    archs = [arch.strip() for arch in archs]
    if len(set(archs)) < len(archs) or "" in archs:
        raise UsageError(f"arch: {','.join(archs)} names a network twice, or none")
    for arch in archs:
        wanted = _with_arch(recipe, arch)
        # Raises what training would, before hours are spent on the first.
        new_classifier(network_config(wanted.network, wanted.input, classes=2), wanted)
    if (options.out / "last.pt").exists():
        raise UsageError(
            f"{options.out}: holds last.pt of a run of one network", hint="Name another folder with --out."
        )
    kept = options.out / "ckpt.pt"
    if kept.exists() and not (options.resume or options.overwrite):
        hint = "Pass --resume to go on, --overwrite to start afresh, or --out another folder."
        raise UsageError(f"{options.out}: holds ckpt.pt of an earlier run", hint=hint)
    board = []
    for arch in archs:
        folder = options.out / arch.replace(":", "_")
        measured = fit(data, _with_arch(recipe, arch), replace(options, out=folder))
        board.append({"arch": arch, "folder": folder.name, **_figures(measured)})
    board.sort(key=lambda row: -(row["validation_auc"] or 0.0))
    if options.process.is_first:
        with atomic_file(options.out / BOARD) as file:
            json.dump(board, file, indent=2)
        with atomic_file(kept, binary=True) as file, (options.out / board[0]["folder"] / "ckpt.pt").open("rb") as best:
            shutil.copyfileobj(best, file)
    return board


def _with_arch(recipe: Recipe, arch: str) -> Recipe:
    return replace(recipe, network=replace(recipe.network, arch=arch))


def _figures(measured: dict[str, Any]) -> dict[str, Any]:
    return {
        "validation_auc": measured["validation"]["macro_auc"],
        "validation_accuracy": measured["validation"]["accuracy"],
        "test_auc": measured["test"]["macro_auc"],
        "test_accuracy": measured["test"]["accuracy"],
        "epoch": measured["best_epoch"],
    }


def board_text(board: Sequence[dict[str, Any]]) -> str:
    """Return the leaderboard as a table for people."""
    width = max(len("network"), *(len(row["arch"]) for row in board))
    keys = ("validation_auc", "validation_accuracy", "test_auc", "test_accuracy")
    lines = [f"{'network':{width}}  " + "  ".join(key.replace("_", " ") for key in keys)]
    for row in board:
        shown = (("-" if row[key] is None else f"{row[key]:.4f}").rjust(len(key)) for key in keys)
        lines.append(f"{row['arch']:{width}}  " + "  ".join(shown))
    return "\n".join(lines)
