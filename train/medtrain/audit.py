"""What is wrong with a data set, told before a network learns it: `medtrain check`, and every `medtrain fit`.

Copies, leaks and unreadable files come with the split (`splits.py`); here is what else betrays the label or misleads.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from medinfer.imaging import FEW_LEVELS
from medtrain.layout import SET_ASIDE, Found, Sample
from medtrain.splits import Finding, Severity
from medtrain.survey import Facts, near_pairs

# A class this many times as frequent as another.
IMBALANCE = 3.0
# The share of a majority guess's errors that knowing an attribute would save.
SHORTCUT = 0.25
ONCE = "(once)"
Attribute = Callable[[Sample, Facts], str]
ATTRIBUTES: dict[str, Attribute] = {
    "file format": lambda sample, facts: facts.format,
    "size": lambda sample, facts: facts.size,
    "pixel mode": lambda sample, facts: facts.mode,
    "file name": lambda sample, facts: re.sub(r"[0-9]+", "#", sample.path.name).lower(),
}


def audit(found: Found, samples: Sequence[Sample], facts: Sequence[Facts]) -> list[Finding]:
    """Return what a person should know of a data set, beyond what splitting found.

    Args:
        found: What the search found and left out.
        samples: The samples with their splits.
        facts: Of each of `samples`.
    """
    return [
        *_left_out(found),
        *_duplicates(samples, facts),
        *_near_duplicates(samples, facts),
        *_imbalance(samples),
        *_shortcuts(samples, facts),
        *_few_levels(samples, facts),
    ]


def _left_out(found: Found) -> list[Finding]:
    findings = []
    if found.excluded:
        message = f"{found.excluded} files left out by data.exclude (masks)"
        findings.append(Finding("excluded", "note", message, found.excluded))
    if found.nested_copies:
        message = f"a second copy of the data lies inside it ({len(found.nested_copies)} folders); not used"
        findings.append(Finding("nested-copy", "warning", message, len(found.nested_copies), found.nested_copies))
    return findings


def _duplicates(samples: Sequence[Sample], facts: Sequence[Facts]) -> list[Finding]:
    groups = defaultdict(list)
    for sample, fact in zip(samples, facts, strict=True):
        if fact.pixels:
            groups[fact.pixels].append(sample.name)
    copies = [names for names in groups.values() if len(names) > 1]
    if not copies:
        return []
    spare = sum(len(names) - 1 for names in copies)
    message = f"{spare} images are exact copies of another ({len(copies)} pictures)"
    return [Finding("duplicates", "note", message, spare, tuple(" = ".join(names) for names in copies))]


def _near_duplicates(samples: Sequence[Sample], facts: Sequence[Facts]) -> list[Finding]:
    pairs = [(i, j) for i, j in near_pairs(facts) if facts[i].pixels != facts[j].pixels]
    if not pairs:
        return []
    across = [(i, j) for i, j in pairs if samples[i].split != samples[j].split]
    used = [(i, j) for i, j in across if SET_ASIDE not in (samples[i].split, samples[j].split)]
    images = len({index for pair in used for index in pair})
    message = f"{len(pairs)} pairs of images look alike; {images} images have a look-alike in another split"
    first = used or pairs
    examples = tuple(f"{samples[i].name} ~ {samples[j].name}" for i, j in first)
    return [Finding("near-duplicates", "warning" if used else "note", message, len(pairs), examples)]


def _imbalance(samples: Sequence[Sample]) -> list[Finding]:
    counts = Counter(sample.label for sample in samples)
    (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
    if many < IMBALANCE * few:
        return []
    message = f"{many} images of {most!r}, {few} of {least!r}"
    return [Finding("imbalance", "warning", message, many - few)]


def _few_levels(samples: Sequence[Sample], facts: Sequence[Facts]) -> list[Finding]:
    names = tuple(sample.name for sample, found in zip(samples, facts, strict=True) if found.few_levels)
    if not names:
        return []
    what = "1 image has" if len(names) == 1 else f"{len(names)} images have"
    message = f"{what} fewer than {FEW_LEVELS} distinct levels after preprocessing"
    return [Finding("few-levels", "warning", message, len(names), names)]


def _shortcuts(samples: Sequence[Sample], facts: Sequence[Facts]) -> list[Finding]:
    """Find attributes of a file that predict its label without a look at the picture, in each root by itself."""
    findings = []
    for root in sorted({sample.root for sample in samples}):
        rows = [(s, f) for s, f in zip(samples, facts, strict=True) if s.root == root and f.format]
        where = f" in {root}" if root else ""
        for name, attribute in ATTRIBUTES.items():
            told = _what_it_tells([attribute(s, f) for s, f in rows], [s.label for s, _ in rows])
            if told:
                # A network does not see the file's name; whoever splits or sorts by it does.
                severity: Severity = "note" if name == "file name" else "warning"
                findings.append(Finding("shortcut", severity, f"the {name} alone tells {told}{where}", len(rows)))
    return findings


def _what_it_tells(values: Sequence[str], labels: Sequence[str]) -> str:
    """Return what an attribute gives away: all labels, or one class against the rest; empty if neither."""
    questions = [("the label", list(labels))]
    if len(set(labels)) > 2:
        questions += [
            (f"{own!r} from the rest", [own if v == own else "" for v in labels]) for own in sorted(set(labels))
        ]
    for question, answers in questions:
        known, guessed = predictability(values, answers)
        if guessed < 1 and known - guessed >= SHORTCUT * (1 - guessed):
            return f"{question} ({known:.0%} right, {guessed:.0%} by the commonest)"
    return ""


def predictability(values: Sequence[str], labels: Sequence[str]) -> tuple[float, float]:
    """Return how often the commonest label of the *other* samples with the same value is right, and without the value.

    Values that occur once are taken together: being like no other may itself betray the label.
    """
    if not labels:
        return 0.0, 0.0
    overall, times = Counter(labels), Counter(values)
    values = [value if times[value] > 1 else ONCE for value in values]
    tables: dict[str, Counter[str]] = defaultdict(Counter)
    for value, label in zip(values, labels, strict=True):
        tables[value][label] += 1
    right = sum(
        _commonest_without(tables[value] if tables[value].total() > 1 else overall, label) == label
        for value, label in zip(values, labels, strict=True)
    )
    return right / len(labels), max(overall.values()) / len(labels)


def _commonest_without(table: Counter[str], label: str) -> str:
    """Return the commonest label of a table less one of `label`; of equals, another than `label`."""
    others: Iterable[tuple[int, bool, str]] = (
        (count - (name == label), name != label, name) for name, count in table.items()
    )
    return max(others)[2]
