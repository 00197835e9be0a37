"""Counts and checks of a built set: `report.json`, `report.md` and `CREDITS.md`."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from data.demo.packages import Package
from data.demo.questions import CHOICES

Row = Mapping[str, Any]

CONFOUNDS = (
    "Voices and languages: the asterisk prompts have one speaker a language (English and Spanish share one), and the "
    "stamp names very likely too; Belarusian, Bulgarian, Catalan, Danish, Dutch, Greek, Lithuanian and Romanian come "
    "from the stamps alone and Italian almost alone from asterisk. `language` may be answered by voice or recording "
    "conditions.",
    "Speech of asterisk is telephone speech (8 kHz, GSM); that of the stamps is wide-band.",
    "Words, colours and digits in the held-out part are by voices that training has heard: other recordings, known "
    "speakers.",
    "Instruments: most notes of an instrument are from one SoundFont, each by one player in one room, at other "
    "pitches than in training.",
    "Drums: hits of one drum at another strength count as other recordings unless their waveforms correlate.",
    "Sounds: monsters, weapons and magic spells are all from one game; sound effects are edited and some were "
    "synthesised.",
    "Labels are file names and stamp names, not listeners' judgements.",
)


def row_counts(rows: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, Any]]:
    """Questions, distinct recordings, and answers by split, task and sub-category."""
    counts: dict[str, dict[str, Any]] = {}
    for split, found in rows.items():
        by_task: dict[str, list[Row]] = defaultdict(list)
        for row in found:
            by_task[row["task"]].append(row)
        counts[split] = {
            "questions": len(found),
            "recordings": len({row["sha256"] for row in found}),
            "gold_positions": [
                sum(row["choices"].index(row["answer"]) == place for row in found) for place in range(CHOICES)
            ],
            "tasks": {task: _task_counts(by_task[task]) for task in sorted(by_task)},
        }
    return counts


def _task_counts(rows: Sequence[Row]) -> dict[str, Any]:
    kinds: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        kinds[row["sub_category"]].append(row)
    return {
        "questions": len(rows),
        "recordings": len({row["sha256"] for row in rows}),
        "sub_categories": {
            name: {
                "questions": len(found),
                "recordings": len({row["sha256"] for row in found}),
                "answers": dict(sorted(Counter(row["answer"] for row in found).items())),
            }
            for name, found in sorted(kinds.items())
        },
    }


def text_baseline(train: Sequence[Row], test: Sequence[Row]) -> dict[str, Any]:
    """What is right on `test` without hearing anything, by task.

    A choice scores (times right) / (times present) in training, within its sub-category; the highest score is the
    prediction, ties count their share. A second baseline always takes the gold position that is most common.
    """
    right: Counter[tuple[str, str]] = Counter()
    present: Counter[tuple[str, str]] = Counter()
    positions: Counter[int] = Counter()
    for row in train:
        right[row["sub_category"], row["answer"]] += 1
        present.update((row["sub_category"], choice) for choice in row["choices"])
        positions[row["choices"].index(row["answer"])] += 1
    favourite = max(range(CHOICES), key=lambda place: positions[place])
    hits: dict[str, list[float]] = defaultdict(list)
    for row in test:
        scores = {
            choice: right[row["sub_category"], choice] / max(1, present[row["sub_category"], choice])
            for choice in row["choices"]
        }
        best = [choice for choice, score in scores.items() if score == max(scores.values())]
        hits[row["task"]].append((row["answer"] in best) / len(best))
    everything = [hit for found in hits.values() for hit in found]
    return {
        "accuracy": sum(everything) / len(everything),
        "by_task": {task: sum(found) / len(found) for task, found in sorted(hits.items())},
        "accuracy_of_one_position": sum(row["choices"].index(row["answer"]) == favourite for row in test) / len(test),
    }


def as_json(report: Mapping[str, Any]) -> str:
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


def as_markdown(report: Mapping[str, Any]) -> str:
    """The report for readers."""
    lines = [
        "# The demo question set",
        "",
        f"Seed {report['seed']}. {report['recordings']} recordings from {len(report['packages'])} packages, "
        f"{report['duplicates']['pairs']} pairs of near-duplicates, {report['duplicates']['clusters']} clusters. "
        f"{report['answers']} distinct answers.",
        "",
        "| split | task | sub-category | questions | recordings | answers |",
        "|---|---|---|---:|---:|---:|",
    ]
    for split, counts in report["splits"].items():
        lines.append(f"| **{split}** | | | **{counts['questions']}** | **{counts['recordings']}** | |")
        for task, found in counts["tasks"].items():
            lines.append(f"| {split} | {task} | | {found['questions']} | {found['recordings']} | |")
            for kind, numbers in found["sub_categories"].items():
                lines.append(
                    f"| {split} | {task} | {kind} | {numbers['questions']} | {numbers['recordings']} "
                    f"| {len(numbers['answers'])} |"
                )
    baseline = report["text_baseline"]
    by_task = ", ".join(f"{task} {value:.1%}" for task, value in baseline["by_task"].items())
    positions = "; ".join(f"{split} {counts['gold_positions']}" for split, counts in report["splits"].items())
    dropped = ", ".join(f"{count} {reason}" for reason, count in report["dropped"].items())
    lines += [
        "",
        "Intervals on the held-out part resample recordings, not questions.",
        "",
        f"Without hearing, by the frequency of answers in training: {baseline['accuracy']:.1%} right on the held-out "
        f"part ({by_task}); always one position: {baseline['accuracy_of_one_position']:.1%}. Chance is 25%.",
        "",
        f"Gold positions: {positions}.",
        "",
        f"Files dropped: {dropped}.",
        "",
        "## What is confounded",
        "",
        *(f"- {confound}" for confound in CONFOUNDS),
    ]
    return "\n".join(lines) + "\n"


def credits(packages: Sequence[Package], recordings: Mapping[str, int]) -> str:
    """Who made the sounds, and under which licence; `recordings` by package are those that the set uses."""
    lines = [
        "# Credits",
        "",
        "The clips are recordings from Debian packages, cut to at most 4 seconds, made mono, resampled to 16 kHz and "
        "scaled to one peak. Each stays under the licence of its package, which the column `licence` repeats; single "
        "files with a licence of their own are named in the package's copyright file, in `licences/`.",
        "",
        "| package | version | recordings | licence | by | SHA-256 of the package |",
        "|---|---|---:|---|---|---|",
    ]
    for package in packages:
        lines.append(
            f"| {package.name} | {package.version} | {recordings.get(package.name, 0)} | {package.licence} "
            f"| {package.credit} | `{package.sha256}` |"
        )
    return "\n".join(lines) + "\n"
