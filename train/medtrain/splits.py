"""Samples -> train, validation and test, such that no picture and no patient stands on both sides.

A split that we draw never leaks: what belongs together is drawn together. A split that the user fixed is checked, and
refused if it leaks, unless the recipe says what to do about it.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from medtrain.layout import SET_ASIDE, SPLITS, Sample
from medtrain.recipe import Data
from medtrain.survey import Facts, near_pairs

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """Something that a person should know of the data; an `error` is a reason not to train on it."""

    kind: str
    severity: Severity
    message: str
    count: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Split:
    """Samples with their splits, and what was found while splitting them."""

    samples: tuple[Sample, ...]
    findings: tuple[Finding, ...]


def split_samples(samples: Sequence[Sample], facts: Sequence[Facts], settings: Data, seed: int) -> Split:
    """Give every sample its split, or set it aside; depends on names, contents and the seed only."""
    by_name = {sample.name: found for sample, found in zip(samples, facts, strict=True)}
    result, findings = _set_unreadable_aside(samples, by_name, settings)
    if settings.keep_together:
        result, conflicts = _set_conflicts_aside(result, by_name)
        findings += conflicts
    groups = _Groups(result, by_name, settings)
    result = _follow_fixed(result, groups)
    result, leaks = _handle_fixed(result, groups, settings)
    findings += leaks
    result = _draw(result, groups, settings, seed)
    if not settings.keep_together:
        together = replace(settings, keep_together=True)
        findings += _leaks(result, _Groups(result, by_name, together), settings, kind="drawn-leakage")
    return Split(tuple(result), (*findings, *_missing_classes(result)))


class _Groups:
    """Which samples belong together: exact copies, a patient's images, and if wanted pictures that look alike."""

    def __init__(self, samples: Sequence[Sample], facts: Mapping[str, Facts], settings: Data) -> None:
        self._parent = {sample.name: sample.name for sample in samples}
        if not settings.keep_together:
            return
        names = [sample.name for sample in samples]
        self._join_equal((facts[name].sha256 for name in names), names)
        self._join_equal((facts[name].pixels for name in names), names)
        self._join_equal((sample.patient for sample in samples), names)
        if settings.near_duplicates:
            for first, second in near_pairs([facts[name] for name in names]):
                self._join(names[first], names[second])

    def of(self, name: str) -> str:
        """Return the name that stands for a sample's group."""
        while self._parent[name] != name:
            self._parent[name] = name = self._parent[self._parent[name]]
        return name

    def _join(self, first: str, second: str) -> None:
        first, second = self.of(first), self.of(second)
        # The smaller name stands for both, whatever the order.
        self._parent[max(first, second)] = min(first, second)

    def _join_equal(self, keys: Iterable[str], names: Sequence[str]) -> None:
        seen: dict[str, str] = {}
        for key, name in zip(keys, names, strict=True):
            if key:
                self._join(seen.setdefault(key, name), name)


def _set_unreadable_aside(
    samples: Sequence[Sample], facts: Mapping[str, Facts], settings: Data
) -> tuple[list[Sample], list[Finding]]:
    bad = {sample.name for sample in samples if facts[sample.name].error}
    if not bad:
        return list(samples), []
    examples = tuple(f"{name}: {facts[name].error}" for name in sorted(bad))
    finding = Finding(
        "unreadable",
        "warning" if settings.skip_bad else "error",
        f"{len(bad)} images cannot be read" + ("; left out" if settings.skip_bad else ""),
        len(bad),
        examples,
    )
    return [replace(s, split=SET_ASIDE) if s.name in bad else s for s in samples], [finding]


def _set_conflicts_aside(samples: Sequence[Sample], facts: Mapping[str, Facts]) -> tuple[list[Sample], list[Finding]]:
    """Set aside the copies of one picture that carry different labels: at least one label is wrong."""
    labels = defaultdict(set)
    for sample in samples:
        if sample.split != SET_ASIDE:
            labels[facts[sample.name].pixels].add(sample.label)
    wrong = {s.name for s in samples if s.split != SET_ASIDE and len(labels[facts[s.name].pixels]) > 1}
    if not wrong:
        return list(samples), []
    finding = Finding(
        "label-conflict",
        "warning",
        f"{len(wrong)} images are copies of a picture with another label; set aside",
        len(wrong),
        tuple(sorted(wrong)),
    )
    return [replace(s, split=SET_ASIDE) if s.name in wrong else s for s in samples], [finding]


def _follow_fixed(samples: list[Sample], groups: _Groups) -> list[Sample]:
    """Put what is not fixed, and belongs to a picture or patient of a fixed test or validation set, there too."""
    fixed = {groups.of(s.name): s.split for split in ("validation", "test") for s in samples if s.split == split}
    return [replace(s, split=fixed.get(groups.of(s.name), "")) if not s.split else s for s in samples]


def _handle_fixed(samples: list[Sample], groups: _Groups, settings: Data) -> tuple[list[Sample], list[Finding]]:
    """Deal with what a fixed split has on both sides: refuse, or let the later split keep it."""
    if settings.on_leak != "drop-from-train":
        return samples, _leaks([sample for sample in samples if sample.split], groups, settings)
    dropped: set[str] = set()
    for later, earlier in (("test", ("train", "validation")), ("validation", ("train",))):
        kept = {groups.of(sample.name) for sample in samples if sample.split == later}
        dropped |= {s.name for s in samples if s.split in earlier and groups.of(s.name) in kept}
    if not dropped:
        return samples, []
    message = f"{len(dropped)} images belong to pictures or patients of a later split; set aside"
    finding = Finding("leakage", "warning", message, len(dropped), tuple(sorted(dropped)))
    return [replace(s, split=SET_ASIDE) if s.name in dropped else s for s in samples], [finding]


def _leaks(samples: Sequence[Sample], groups: _Groups, settings: Data, kind: str = "leakage") -> list[Finding]:
    """Return what stands on both sides of a split."""
    sides = defaultdict(set)
    for sample in samples:
        if sample.split in SPLITS:
            sides[groups.of(sample.name)].add(sample.split)
    leaked = [s.name for s in samples if s.split in SPLITS and len(sides[groups.of(s.name)]) > 1]
    if not leaked:
        return []
    allowed = settings.on_leak == "allow"
    verdict = "allowed, as asked for" if allowed else "the results would be too good"
    message = f"{len(leaked)} images have a copy or a patient in another split: {verdict}"
    return [Finding(kind, "warning" if allowed else "error", message, len(leaked), tuple(sorted(leaked)))]


def _draw(samples: list[Sample], groups: _Groups, settings: Data, seed: int) -> list[Sample]:
    """Draw what is not fixed, keeping to each class's share in each root as closely as the groups allow."""
    fixed = {sample.split for sample in samples}
    wanted = [(name, getattr(settings, name)) for name in ("test", "validation") if name not in fixed]
    pool = [sample for sample in samples if sample.split in ("", "train")]
    members = defaultdict(list)
    for sample in pool:
        members[groups.of(sample.name)].append(sample)
    order = sorted(members)
    random.Random(f"split/{seed}").shuffle(order)
    totals = Counter(_stratum(sample) for sample in pool)
    drawn: dict[str, str] = {}
    for split, share in wanted:
        missing = Counter({stratum: share * total for stratum, total in totals.items()})
        for group in order:
            if group not in drawn and _gain(members[group], missing) > 0:
                drawn[group] = split
                missing.subtract(Counter(map(_stratum, members[group])))
        # A few large groups may all be larger than the share: better too many images of a class than none.
        for label in sorted({sample.label for sample in pool}):
            free = [g for g in order if g not in drawn and any(s.label == label for s in members[g])]
            had = any(s.label == label for g in drawn if drawn[g] == split for s in members[g])
            if not had and len(free) > 1:
                drawn[max(free, key=lambda group: _gain(members[group], missing))] = split
    chosen = {sample.name: drawn.get(groups.of(sample.name), "train") for sample in pool}
    return [replace(s, split=chosen[s.name]) if s.name in chosen else s for s in samples]


def _gain(group: Sequence[Sample], missing: Mapping[tuple[str, str], float]) -> float:
    """Return by how much the sum of squared gaps to the shares falls if a group is taken."""
    counts = Counter(map(_stratum, group))
    return sum(count * (2 * missing[stratum] - count) for stratum, count in counts.items())


def _stratum(sample: Sample) -> tuple[str, str]:
    return sample.label, sample.root


def _missing_classes(samples: Sequence[Sample]) -> list[Finding]:
    """Report a split that lacks a class: no metric would mean anything."""
    counts = Counter((sample.split, sample.label) for sample in samples)
    labels = sorted({sample.label for sample in samples})
    return [
        Finding("missing-class", "error", f"class {label!r} has no image in the {split} split", 0)
        for split in SPLITS
        for label in labels
        if not counts[split, label]
    ]
