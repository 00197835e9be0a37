"""Four-choice questions about labelled recordings.

Nothing but the sound tells the answer: within a kind of question and a side of the split, every answer stands among
the choices about four times as often as it is right, the gold position is dealt out evenly, and the wording is chosen
without looking at the answer.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data.demo import labels
from data.demo.recordings import Recording

CHOICES = 4


@dataclass(frozen=True, slots=True)
class Kind:
    """A sub-category: what is asked, and in which words."""

    name: str
    task: str
    difficulty: str
    share: float
    """Of the questions of its task."""
    templates: tuple[str, ...]
    """A recording is asked about at most once in each wording."""


KINDS = (
    Kind(
        labels.SOURCE,
        "sound",
        "easy",
        0.5,
        (
            "What is the source of this sound?",
            "What kind of source made the sound in this recording?",
            "Which of these do you hear in the clip?",
            "Where does the sound in this audio come from?",
            "Which source best explains what is heard?",
            "Listen to the clip. What produced the sound?",
        ),
    ),
    Kind(
        labels.ANIMAL,
        "sound",
        "medium",
        0.26,
        (
            "Which animal is heard in this recording?",
            "What animal makes this sound?",
            "Which of these animals do you hear?",
            "An animal is heard in the clip. Which one is it?",
            "Which animal does this sound belong to?",
            "Listen to the clip. Which animal is calling or moving?",
        ),
    ),
    Kind(
        labels.MACHINE,
        "sound",
        "medium",
        0.14,
        (
            "Which vehicle or machine is heard?",
            "What vehicle or machine makes this sound?",
            "Which of these vehicles or machines do you hear in the clip?",
            "The recording is of a vehicle or a machine. Which one?",
            "Listen to the clip. What is running or passing by?",
            "Which vehicle or machine does this sound belong to?",
        ),
    ),
    Kind(
        labels.HUMAN,
        "sound",
        "medium",
        0.1,
        (
            "What is the person or the crowd doing?",
            "Which human sound is in this recording?",
            "What do you hear somebody do in the clip?",
            "A person or a crowd is heard. What is the sound?",
            "Which of these human sounds is it?",
            "Listen to the clip. What human sound do you hear?",
        ),
    ),
    Kind(
        labels.INSTRUMENT,
        "music",
        "medium",
        0.4,
        (
            "Which instrument is playing?",
            "What instrument do you hear in this recording?",
            "Which of these instruments plays the note?",
            "Listen to the clip. Which instrument is it?",
            "On which instrument is this played?",
        ),
    ),
    Kind(
        labels.DRUM,
        "music",
        "easy",
        0.3,
        (
            "Which drum or percussion instrument is struck?",
            "What percussion sound is this?",
            "Which part of the drum kit or percussion do you hear?",
            "Listen to the hit. What was played?",
            "Which percussion instrument is in this recording?",
        ),
    ),
    Kind(
        labels.FAMILY,
        "music",
        "easy",
        0.3,
        (
            "Which family does the instrument belong to?",
            "What family of instruments is heard?",
            "Which group of instruments does this sound come from?",
            "Listen to the clip. Which instrument family is playing?",
            "To which family would you assign this instrument?",
        ),
    ),
    Kind(
        labels.LANGUAGE,
        "speech",
        "easy",
        0.55,
        (
            "Which language is spoken?",
            "What language does the speaker use?",
            "In which language is this said?",
            "Listen to the voice. Which language is it?",
            "Which of these languages do you hear?",
        ),
    ),
    Kind(
        labels.WORD,
        "speech",
        "hard",
        0.2,
        (
            "What does the speaker name?",
            "Which of these things is mentioned?",
            "What is being talked about, in whichever language?",
            "Which thing does the voice name?",
        ),
    ),
    Kind(
        labels.COLOUR,
        "speech",
        "hard",
        0.09,
        (
            "Which colour does the speaker mention?",
            "What colour is named?",
            "Which colour do you hear, in whichever language?",
            "What is the colour of the thing that the voice names?",
        ),
    ),
    Kind(
        labels.DIGIT,
        "speech",
        "hard",
        0.16,
        (
            "Which digit is spoken?",
            "What number does the speaker say?",
            "Which digit do you hear, in whichever language?",
            "Listen to the voice. Which number is it?",
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Question:
    """One question about one recording (its place in the list)."""

    recording: int
    kind: Kind
    text: str
    choices: tuple[str, ...]
    answer: str


class TooFewRecordings(ValueError):
    """The recordings cannot carry the questions asked of them."""


def ask(
    recordings: Sequence[Recording], chosen: Sequence[int], counts: Mapping[str, int], seed: int, side: str
) -> list[Question]:
    """Questions about the recordings `chosen`, `counts` by task, in a mixed order.

    A kind that has too few recordings for its share leaves the rest to the other kinds of its task.
    """
    questions: list[Question] = []
    for task, wanted in counts.items():
        kinds = [kind for kind in KINDS if kind.task == task]
        by_label = {kind.name: _by_label(recordings, chosen, kind) for kind in kinds}
        for kind, count in _counts(kinds, by_label, wanted, side).items():
            rng = random.Random(f"ask:{seed}:{side}:{kind.name}")
            questions += _ask_kind(kind, by_label[kind.name], count, len(questions), rng)
    random.Random(f"order:{seed}:{side}").shuffle(questions)
    return questions


def _by_label(recordings: Sequence[Recording], chosen: Sequence[int], kind: Kind) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for index in chosen:
        if recordings[index].task == kind.task and kind.name in recordings[index].labels:
            found[recordings[index].labels[kind.name]].append(index)
    return dict(sorted(found.items()))


def _counts(
    kinds: Sequence[Kind], by_label: Mapping[str, Mapping[str, Sequence[int]]], wanted: int, side: str
) -> dict[Kind, int]:
    """Questions of each kind, `wanted` in all."""
    capacities = {kind: _capacities(kind, by_label[kind.name]) for kind in kinds}

    def reachable(kind: Kind, count: int) -> int:
        return sum(quotas(capacities[kind], count).values())

    counts = {kind: reachable(kind, round(kind.share * wanted)) for kind in kinds}
    for kind in sorted(kinds, key=lambda kind: -sum(capacities[kind].values())):
        others = sum(count for other, count in counts.items() if other is not kind)
        counts[kind] = reachable(kind, max(0, wanted - others))
    if (found := sum(counts.values())) < wanted:
        raise TooFewRecordings(
            f"{side}: {kinds[0].task} has recordings for {found} questions, {wanted} are asked for; lower the count "
            f"or add packages"
        )
    return counts


def _capacities(kind: Kind, by_label: Mapping[str, Sequence[int]]) -> dict[str, int]:
    return {answer: len(found) * len(kind.templates) for answer, found in by_label.items()}


def quotas(capacities: Mapping[str, int], count: int) -> dict[str, int]:
    """Questions of each answer: as even as the capacities allow, at most `count` in all.

    No answer is right in more than a quarter of the questions, or it could not stand among the choices four times as
    often as it is right.
    """
    for total in range(count, 0, -1):
        level = {answer: min(capacity, total // CHOICES) for answer, capacity in capacities.items()}
        if sum(level.values()) >= total:
            return _even(level, total)
    return dict.fromkeys(capacities, 0)


def _even(capacities: Mapping[str, int], total: int) -> dict[str, int]:
    """Share out `total`, one after the other, to every answer that has room."""
    given = dict.fromkeys(capacities, 0)
    while (left := total - sum(given.values())) > 0:
        open_answers = [answer for answer in capacities if given[answer] < capacities[answer]]
        each = max(1, left // len(open_answers))
        for answer in open_answers[:left]:
            given[answer] += min(each, capacities[answer] - given[answer])
    return given


def _ask_kind(
    kind: Kind, by_label: Mapping[str, Sequence[int]], count: int, first_position: int, rng: random.Random
) -> list[Question]:
    golds: list[tuple[int, str, str]] = []  # recording, question, answer
    for answer, quota in quotas(_capacities(kind, by_label), count).items():
        order = list(by_label[answer])
        rng.shuffle(order)
        wording = {index: rng.randrange(len(kind.templates)) for index in order}
        for turn in range(quota):
            index = order[turn % len(order)]
            template = kind.templates[(wording[index] + turn // len(order)) % len(kind.templates)]
            golds.append((index, template, answer))
    rng.shuffle(golds)
    distractors = deal_distractors([answer for _, _, answer in golds], rng)
    questions = []
    for place, ((index, text, answer), others) in enumerate(zip(golds, distractors, strict=True)):
        position = (first_position + place) % CHOICES
        choices = [*others[:position], answer, *others[position:]]
        questions.append(Question(index, kind, text, tuple(choices), answer))
    return questions


def deal_distractors(golds: Sequence[str], rng: random.Random) -> list[list[str]]:
    """Three wrong choices for each gold, so that every answer is a wrong choice three times as often as it is gold.

    The answers that are furthest behind are taken first, with a little chance among them.
    """
    owed = {answer: (CHOICES - 1) * gold for answer, gold in sorted(Counter(golds).items())}
    dealt = []
    for gold in golds:
        ranked = sorted((answer for answer in owed if answer != gold), key=lambda answer: -owed[answer] - rng.random())
        others = ranked[: CHOICES - 1]
        for answer in others:
            owed[answer] -= 1
        rng.shuffle(others)
        dealt.append(others)
    return dealt
