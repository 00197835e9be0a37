"""What the viewer reads of a run: lines that grow, evaluations, recordings, and names for several runs."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from cluster.errors import UsageError
from cluster.run_lock import RunLock
from cluster.view.clips import Clips, NoClip, as_flac, as_wav, peaks, spectrogram_png
from cluster.view.curves import curves, thin
from cluster.view.evaluation import OTHER, OUTSIDE, confusion, flips, page
from cluster.view.run import Library, ViewedRun
from cluster.view.tokens import Tokens
from tests.view_runs import line, question, tone, write_evaluation, write_line, write_run

SHA256 = hashlib.sha256(tone()).hexdigest()


def test_lines_are_read_as_they_are_written_whole_ones_alone_and_again_where_a_resume_has_cut_them(
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path, steps=2)
    viewed, file = ViewedRun(run), run / "metrics.jsonl"
    assert [one["step"] for one in viewed.lines()] == [1, 2]
    with file.open("a") as more:
        more.write(json.dumps(line(3))[:20])
    assert [one["step"] for one in viewed.lines()] == [1, 2]
    with file.open("a") as more:
        more.write(json.dumps(line(3))[20:] + "\n")
    assert [one["step"] for one in viewed.lines()] == [1, 2, 3]
    cut = file.with_suffix(".part")
    cut.write_text("".join(file.read_text().splitlines(keepends=True)[:1]))
    cut.replace(file)
    write_line(run, 2, kl=9.0)
    assert [(one["step"], one["kl"]) for one in viewed.lines()] == [(1, 0.01), (2, 9.0)]


def test_what_is_no_number_for_json_is_none_and_nested_values_have_names_with_dots(tmp_path: Path) -> None:
    run = write_run(tmp_path, steps=0)
    write_line(run, 1, kl=float("nan"), reward_mean=float("inf"))
    [told] = ViewedRun(run).lines()
    assert (told["kl"], told["reward_mean"], told["seconds.sample"]) == (None, None, 6.0)
    json.dumps(told, allow_nan=False)


def test_runs_are_called_by_as_much_of_their_path_as_tells_them_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_run(tmp_path / folder)
    write_run(tmp_path / "a", "other")
    assert [*Library([str(tmp_path / "a" / "run")]).runs] == ["run"]
    assert [*Library([str(tmp_path / place) for place in ("a", "b", "b/run")]).runs] == ["a/other", "a/run", "b/run"]
    with pytest.raises(UsageError, match="is no directory"):
        Library([str(tmp_path / "none")])


def test_a_run_that_begins_later_comes_in_under_a_name_of_its_own(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    library = Library([str(tmp_path / "a"), str(tmp_path / "b")])
    assert library.runs == {}
    first = write_run(tmp_path / "a")
    library.refresh()
    before = library.runs["run"]
    write_run(tmp_path / "b")
    library.refresh()
    assert {name: run.path.parent.name for name, run in library.runs.items()} == {"run": "a", "b/run": "b"}
    assert library.runs["run"] is before
    assert before.path == first


def test_a_run_that_is_deleted_goes_and_one_that_takes_its_place_is_another(tmp_path: Path) -> None:
    gone, stays = write_run(tmp_path), write_run(tmp_path, "other")
    library = Library([str(tmp_path)])
    before = dict(library.runs)
    shutil.rmtree(gone)
    library.refresh()
    assert [run.path for run in library.runs.values()] == [stays]
    write_run(tmp_path)
    library.refresh()
    assert library.runs["other"] is before["other"]
    assert library.runs["run"].path == gone
    assert library.runs["run"] is not before["run"]


def test_a_run_is_written_while_a_process_holds_it_or_one_of_another_machine_has_just_taken_a_step(
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path)
    viewed = ViewedRun(run)
    assert viewed.is_written  # by its newest line
    os.utime(run / "metrics.jsonl", (0, 0))
    assert not viewed.is_written
    before = viewed.revisions()["steps"]
    lock = RunLock(run)
    lock.acquire()
    assert viewed.is_written
    assert viewed.revisions()["steps"] != before
    lock.release()
    assert not viewed.is_written


def test_a_configuration_that_a_resume_has_changed_is_read_again(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    viewed = ViewedRun(run)
    assert viewed.config["run"]["max_steps"] == 10
    (run / "config.yaml").write_text(viewed.config_text.replace("max_steps: 10", "max_steps: 200"))
    assert viewed.config["run"]["max_steps"] == 200


def test_tokens_have_texts_as_soon_as_there_is_a_tokenizer(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    tokens = Tokens(ViewedRun(run).tokenizer_file)
    assert tokens.texts([5]) is None
    for step in (9, 10):
        (run / "checkpoints" / f"step_{step}" / "hf").mkdir(parents=True)
        words = WordLevel({"?": 0, "wolf": 5, "howls": 6}, unk_token="?")
        Tokenizer(words).save(str(run / "checkpoints" / f"step_{step}" / "hf" / "tokenizer.json"))
    assert ViewedRun(run).tokenizer_file() == run / "checkpoints" / "step_10" / "hf" / "tokenizer.json"
    assert tokens.texts([5, 6, 5]) == ["wolf", "howls", "wolf"]


def test_evaluations_are_told_without_their_rows_and_anew_when_they_change(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    viewed = ViewedRun(run)
    assert [*viewed.evaluations()] == ["base", "trained"]
    assert "rows" not in viewed.evaluations()["base"]
    before = viewed.revisions()
    write_evaluation(run, "base", 0, [question(number, right=True) for number in range(7)])
    assert viewed.evaluations()["base"]["questions"] == 7
    after = viewed.revisions()
    assert (after["evaluations"] != before["evaluations"], after["steps"] == before["steps"]) == (True, True)
    assert len(viewed.evaluation("base")["rows"]) == 7
    with pytest.raises(KeyError):
        viewed.evaluation("../config")


def test_a_long_curve_is_thinned_to_means_and_gaps_stay_gaps() -> None:
    assert thin([1.0, None, 3.0], 3) == [1.0, None, 3.0]
    assert thin([1.0, 3.0, None, None, 5.0], 3) == [2.0, None, 5.0]
    lines = [line(step) | {"seconds.sample": 6.0, "seconds.forward": 4.0} for step in range(1, 11)]
    told = curves(lines, ["reward_mean", "seconds.", "nothing"], most=5)
    assert told["step"] == [1.5, 3.5, 5.5, 7.5, 9.5]
    assert told["hours"][0] == pytest.approx(15 / 3600)
    assert [*told["values"]] == ["reward_mean", "seconds.forward", "seconds.sample"]
    assert curves([], ["kl"]) == {"step": [], "hours": [], "values": {}}


def test_a_recording_is_found_in_the_run_by_its_hash_and_in_no_other_place(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    clips = Clips(run, ViewedRun(run).config["data"])
    assert len(clips.waveform(SHA256, "")) == 16_000
    (run / "secret").write_bytes(tone())
    for name, why in {
        "../secret": "never read",
        str(run / "secret"): "never read",
        "": "never read",
        "0" * 64: "not kept",
    }.items():
        with pytest.raises(NoClip, match=why):
            clips.waveform(name, "")


def test_a_recording_that_the_run_does_not_keep_is_found_in_its_data_unless_it_has_changed(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    rows = [
        {"id": name, "audio": f"{name}.wav", "question": "?", "choices": ["a", "b"], "answer": "a"} for name in "xy"
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "x.wav").write_bytes(tone(hertz=220.0))
    (tmp_path / "y.wav").write_bytes(b"no sound")
    (tmp_path / "v.jsonl").write_text(json.dumps(rows[0] | {"audio": "other.wav"}) + "\n")
    (tmp_path / "other.wav").write_bytes(tone(hertz=110.0))
    splits = {"validation": str(tmp_path / "v.jsonl"), "test": str(tmp_path / "q.jsonl")}
    clips = Clips(run, ViewedRun(run).config["data"] | splits)
    heard = {hertz: clips.waveform(hashlib.sha256(tone(hertz=hertz)).hexdigest(), "x") for hertz in (110.0, 220.0)}
    assert not np.allclose(heard[110.0], heard[220.0])  # splits may number their questions alike
    with pytest.raises(NoClip, match="is not as it was"):
        clips.waveform("1" * 64, "x")
    with pytest.raises(NoClip, match=r"y\.wav"):
        clips.waveform(hashlib.sha256(b"no sound").hexdigest(), "y")


def test_a_recording_is_handed_out_as_sound_and_pictures() -> None:
    waveform = np.concatenate([np.zeros(8_000), np.full(8_000, 0.5)]).astype(np.float32)
    for encoded in (as_wav(waveform), as_flac(waveform)):
        samples, rate = soundfile.read(io.BytesIO(encoded))
        assert rate == 16_000
        assert samples == pytest.approx(waveform, abs=1e-4)
    assert peaks(waveform, 4) == [(0.0, 0.0), (0.0, 0.0), (0.5, 0.5), (0.5, 0.5)]
    assert spectrogram_png(waveform).startswith(b"\x89PNG")


def test_confusion_counts_what_each_answer_is_taken_for() -> None:
    rows = [
        question(0, True),
        question(1, False),
        question(2, False, model_prediction="a horse"),
        question(3, False, answer="bird", choices=["bird", "DOG"], model_prediction="dog "),
        question(4, False, answer="bird", choices=["bird", "fish"], model_prediction="fish"),
    ]
    assert confusion(rows) == {
        "answers": ["dog", "bird"],
        "predictions": ["dog", "bird", OTHER, OUTSIDE],
        "counts": [[1, 0, 1, 1], [1, 0, 1, 0]],
    }


def test_questions_are_shown_by_kind_and_search() -> None:
    rows = [question(0, True), question(1, False, question="What SINGS?"), question(2, False, model_prediction="?")]
    shown = {
        kind: [row["id"] for row in page(rows, kind, "", "", 0, 9)["rows"]] for kind in ("all", "wrong", "outside")
    }
    assert shown == {"all": ["q0", "q1", "q2"], "wrong": ["q1", "q2"], "outside": ["q2"]}
    assert page(rows, "all", "sings", "sound", 0, 9)["total"] == 1
    assert page(rows, "all", "", "music", 0, 9)["total"] == 0
    assert [row["id"] for row in page(rows, "all", "", "", 1, 1)["rows"]] == ["q1"]


def test_flips_are_the_questions_that_one_alone_is_right_about() -> None:
    first = [question(number, right=number < 2) for number in range(4)]
    second = [question(number, right=number in (1, 2)) for number in range(4)]
    found = flips(first, second)
    assert [row["id"] for row in found["gained"]] == ["q2"]
    assert [(row["id"], row["before"]) for row in found["lost"]] == [("q0", "<answer>dog</answer>")]
