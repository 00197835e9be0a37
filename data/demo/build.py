"""From packages to the finished set: load, find duplicates, split, ask, check, write."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.demo import report as reports
from data.demo.duplicates import clusters, find_pairs
from data.demo.packages import PACKAGES
from data.demo.questions import Question, ask
from data.demo.recordings import Drops, Recording, encode, load
from data.demo.split import assign, check_split
from data.ordered import cpus, ordered
from data.writing import write_questions

COUNTS: Mapping[str, Mapping[str, int]] = {
    "train": {"sound": 1600, "music": 1600, "speech": 1800},
    "validation": {"sound": 160, "music": 160, "speech": 160},
    "test": {"sound": 320, "music": 320, "speech": 320},
}
LICENCES = {package.name: package.licence for package in PACKAGES}
Progress = Callable[[str], None]


def build(paths: Mapping[str, Path], out: Path, seed: int, progress: Progress) -> dict[str, Any]:
    """Build the set from the package files into `out`; returns the report."""
    progress("reading and decoding the packages")
    recordings, dropped, copyrights = load(paths)
    progress(f"{len(recordings)} recordings; looking for near-duplicates")
    report = build_from(recordings, dropped, out, seed, COUNTS)
    _write_credits(copyrights, recordings, out)
    progress(f"wrote {out}")
    return report


def build_from(
    recordings: Sequence[Recording], dropped: Drops, out: Path, seed: int, counts: Mapping[str, Mapping[str, int]]
) -> dict[str, Any]:
    """Split, ask, check and write; returns the report."""
    pairs = find_pairs(recordings)
    cluster = clusters(recordings, pairs)
    sides = assign(recordings, cluster, seed)
    check_split(recordings, sides, pairs)
    asked = {
        split: ask(recordings, [index for index, side in enumerate(sides) if side == split], wanted, seed, split)
        for split, wanted in counts.items()
    }
    used = sorted({question.recording for questions in asked.values() for question in questions})
    clips = dict(zip(used, ordered(lambda index: encode(recordings[index].waveform), used, cpus()), strict=True))
    rows = {
        split: [
            _row(split, place, question, recordings[question.recording], clips[question.recording])
            for place, question in enumerate(questions)
        ]
        for split, questions in asked.items()
    }
    out.mkdir(parents=True, exist_ok=True)
    for split, found in rows.items():
        with write_questions(out / f"{split}.parquet") as file:
            for row in found:
                file.add(row)
    report = {
        "seed": seed,
        "packages": sorted({recording.source for recording in recordings}),
        "recordings": len(recordings),
        "dropped": asdict(dropped),
        "duplicates": {
            "pairs": len(pairs),
            "clusters": len(set(cluster)),
            "largest_cluster": max(Counter(cluster).values()),
        },
        "splits": reports.row_counts(rows),
        "answers": len({row["answer"] for found in rows.values() for row in found}),
        "text_baseline": reports.text_baseline(rows["train"], rows["test"]),
        "confounds": list(reports.CONFOUNDS),
    }
    (out / "report.json").write_text(reports.as_json(report), encoding="utf-8")
    (out / "report.md").write_text(reports.as_markdown(report), encoding="utf-8")
    return report


def _row(split: str, place: int, question: Question, recording: Recording, audio: bytes) -> dict[str, Any]:
    return {
        "id": f"demo-{split}-{place:05d}",
        "audio": {"bytes": audio, "path": f"{recording.source}/{recording.path}"},
        "question": question.text,
        "choices": list(question.choices),
        "answer": question.answer,
        "task": recording.task,
        "sub_category": question.kind.name,
        "difficulty": question.kind.difficulty,
        "source": recording.source,
        "licence": LICENCES.get(recording.source, ""),
        "sha256": hashlib.sha256(audio).hexdigest(),
    }


def _write_credits(copyrights: Mapping[str, bytes], recordings: Sequence[Recording], out: Path) -> None:
    """`CREDITS.md`, and each package's copyright file as Debian has it."""
    used = Counter(recording.source for recording in recordings)
    (out / "CREDITS.md").write_text(reports.credits(PACKAGES, used), encoding="utf-8")
    folder = out / "licences"
    folder.mkdir(exist_ok=True)
    for name, content in copyrights.items():
        (folder / f"{name}.txt").write_bytes(content)
