"""A run directory by its path or its URL: what one process writes another finds, and nothing half."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import run_lock
from cluster.checkpoints import CheckpointError
from cluster.run_directory import RunDirectory, RunError
from cluster.run_lock import HOLDER, RunInUse
from cluster.run_storage import UrlStorage
from data.remote import WHOLE, Remote, copied, written
from learner.hf_files import model_directory
from tests.unit.test_run_directory import FACTS, config, newest, write_checkpoint


@pytest.fixture(params=["path", "url"])
def runs(request: pytest.FixtureRequest, tmp_path: Path, url: str) -> str:
    """Where runs are: a folder, or a storage of this process."""
    return str(tmp_path / "runs") if request.param == "path" else url


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path / "cache"))
    return f"memory://{uuid.uuid4().hex}/runs"


def save(run: RunDirectory, step: int, keep: int = 9, **facts: Any) -> None:
    state = json.dumps({**FACTS, "questions": {}, "step": step, **facts})
    run.checkpoints.finish(step, write_checkpoint(run.checkpoints.begin(step), state))
    run.checkpoints.tidy(newest(keep))


def log_shard(run: RunDirectory, step: int) -> None:
    with written(run.place("rollouts")) as folder:
        (folder / f"step_{step:06d}.parquet").write_text(str(step))


def test_files_that_a_killed_process_has_left_half_are_gone_on_a_resume(tmp_path: Path) -> None:
    run = RunDirectory.create(config(str(tmp_path)), fresh=False)
    save(run, 1)
    run.close()
    left = [run.path / name for name in (".metrics.jsonl.12.part", "rollouts/.step_000002.parquet.12.part")]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    again, _ = RunDirectory.resume(config(str(tmp_path)))
    assert not any(path.exists() for path in left)
    again.close()


def test_a_resume_finds_what_the_run_has_written_up_to_its_checkpoint(runs: str) -> None:
    run = RunDirectory.create(config(runs), fresh=False)
    for step in range(1, 4):
        run.append_metrics({"step": step})
        log_shard(run, step)
        if step == 2:
            save(run, step, position=7)
    run.write_evaluation("base", {"accuracy": 0.5})
    run.write_evaluation("validation_step_3", {"accuracy": 0.6})
    run.close()

    again, _ = RunDirectory.resume(config(runs))
    state = {**FACTS, "questions": {}, "step": 2, "position": 7}
    assert again.checkpoints.newest() == again.checkpoints.start(print) == (2, state)
    again.cut_after(2, max_steps=9)
    again.close()
    assert [json.loads(line)["step"] for line in again.metrics.read_text().splitlines()] == [1, 2]
    assert again.storage.names("rollouts") == ["step_000001.parquet", "step_000002.parquet"]
    assert again.read_evaluation("base") == {"accuracy": 0.5}
    assert again.read_evaluation("validation_step_3") is None
    third, _ = RunDirectory.resume(config(runs))
    assert not (third.evaluations / "validation_step_3.json").exists()
    assert [json.loads(line)["step"] for line in third.metrics.read_text().splitlines()] == [1, 2]
    third.close()


def test_checkpoints_are_complete_or_not_there_and_the_newest_are_kept(runs: str) -> None:
    run = RunDirectory.create(config(runs), fresh=False)
    for step in (2, 4, 10):
        before = run.checkpoints.steps()
        files = write_checkpoint(run.checkpoints.begin(step))
        assert run.checkpoints.steps() == before
        run.checkpoints.finish(step, files)
        run.checkpoints.tidy(newest(2))
        assert run.checkpoints.steps() == [*before, step][-2:]
    assert run.storage.names("checkpoints") == ["step_10", "step_4"]
    run.close()


def test_the_checkpoint_that_a_resume_starts_from_stays_as_long_as_it_goes_on(runs: str) -> None:
    run = RunDirectory.create(config(runs), fresh=False)
    save(run, 1)
    run.close()
    for first, last in ((2, 4), (5, 6)):
        run, _ = RunDirectory.resume(config(runs))
        run.checkpoints.start(print)
        for step in range(first, last + 1):
            save(run, step, keep=1)
        assert run.storage.names("checkpoints") == [f"step_{first - 1}", f"step_{last}"]
        run.close()


def test_a_checkpoint_that_is_written_again_holds_nothing_of_the_one_before(runs: str) -> None:
    run = RunDirectory.create(config(runs), fresh=False)
    with written(run.checkpoints.begin(3)) as folder:
        (folder / "adapter").mkdir()
        (folder / "adapter" / "weights").touch()
    files = write_checkpoint(run.checkpoints.begin(3))  # the first try was broken off
    run.checkpoints.finish(3, files)
    assert not run.storage.exists("checkpoints/step_3/adapter")
    assert run.storage.exists("checkpoints/step_3/hf/config.json")
    run.close()


def test_a_checkpoint_that_the_learner_wrote_elsewhere_is_refused_and_the_last_one_kept(runs: str) -> None:
    run = RunDirectory.create(config(runs), fresh=False)
    save(run, 4)
    files = write_checkpoint(run.checkpoints.begin(8))
    run.checkpoints.begin(8)
    absent = r"hf/config\.json is not there and trainer/state\.json is not there: run\.dir has to lie"
    with pytest.raises(CheckpointError, match=absent):
        run.checkpoints.finish(8, files)
    assert run.checkpoints.steps() == [4]
    run.close()


def test_an_existing_run_is_refused_or_moved_aside_with_all_that_it_has(runs: str) -> None:
    run = RunDirectory.create(config(runs), fresh=False)
    save(run, 1)
    run.close()
    for refused in (
        lambda: RunDirectory.create(config(runs), fresh=False),
        lambda: RunDirectory.check(config(runs), resume=False, fresh=False),
    ):
        with pytest.raises(RunError, match=rf"^{runs}/r holds a run already.*--resume.*--fresh.*run\.name="):
            refused()
    fresh = RunDirectory.create(config(runs), fresh=True)
    assert fresh.checkpoints.steps() == []
    fresh.close()
    names = os.listdir(runs) if "://" not in runs else {name.split("/")[0] for name in Remote(runs).files()}
    [aside] = [name for name in names if name != "r"]
    assert RunDirectory(f"{runs}/{aside}").checkpoints.steps() == [1]


def test_a_run_that_goes_on_is_refused_with_its_process_and_host(runs: str) -> None:
    run = RunDirectory.create(config(runs), fresh=False)
    for refused in (
        lambda: RunDirectory.check(config(runs), resume=True, fresh=False),
        lambda: RunDirectory.check(config(runs), resume=False, fresh=True),
        lambda: RunDirectory.resume(config(runs)),
        lambda: RunDirectory.create(config(runs), fresh=True),
    ):
        with pytest.raises(RunInUse, match=rf"{runs}/r is in use by process {os.getpid()} on {socket.gethostname()}"):
            refused()
    run.close()
    for resume in (True, False):
        RunDirectory.check(config(runs), resume, fresh=not resume)
    RunDirectory.resume(config(runs))[0].close()


def test_a_checkpoint_stands_for_its_model(runs: str) -> None:
    run = RunDirectory.create(config(runs), fresh=False)
    save(run, 3)
    assert model_directory(run.checkpoints.place(3)) == f"{runs}/r/checkpoints/step_3/hf"
    assert model_directory(f"{run.checkpoints.place(3)}/hf") == f"{runs}/r/checkpoints/step_3/hf"
    assert model_directory("Qwen/Qwen2-Audio-7B-Instruct") == "Qwen/Qwen2-Audio-7B-Instruct"
    run.close()


def holder(**changes: Any) -> bytes:
    """As another process tells that it lives."""
    known = {"token": "another", "host": "elsewhere", "pid": os.getpid(), "started": "1", "time": time.time()}
    return json.dumps(known | changes).encode()


def test_a_holder_by_url_that_has_ended_or_is_silent_does_not_block(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "WATCHED_SECONDS", 0.05)
    monkeypatch.setattr(run_lock, "LOOK_SECONDS", 0.01)
    RunDirectory.create(config(url), fresh=False).close()
    run = Remote(f"{url}/r")
    run.write(HOLDER, holder())
    with pytest.raises(RunInUse, match=r"on elsewhere: .* free 180 s after that"):
        RunDirectory.resume(config(url))
    for ended in (
        holder(time=time.time() - run_lock.SILENT_SECONDS - 1),
        holder(time=time.time() + 86_400),  # by a clock that was ahead
        holder(host=socket.gethostname(), pid=2**22 + 1),  # more than Linux gives
        holder(host=socket.gethostname()),  # another process has its number by now, which is this one
        b'{"pid": 1, "host": "elsewhere"}',  # of a run that lay on a disk
        b'{"pid": 1, "ho',
    ):
        run.write(HOLDER, ended)
        RunDirectory.resume(config(url))[0].close()
        assert run.read(HOLDER) is None


@pytest.mark.parametrize("moved", [-86_400, 86_400])
def test_a_holder_by_url_whose_clock_is_another_blocks_as_long_as_it_lives(
    url: str, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    RunDirectory.create(config(url), fresh=False).close()
    run = Remote(f"{url}/r")
    run.write(HOLDER, holder(time=time.time() + moved))
    looks = iter(range(1, 10))

    def told_meanwhile(seconds: float) -> None:
        if next(looks) == 2:
            run.write(HOLDER, holder(time=time.time() + moved + run_lock.BEAT_SECONDS))

    clock = SimpleNamespace(time=time.time, monotonic=time.monotonic, sleep=told_meanwhile)
    monkeypatch.setattr(run_lock, "time", clock)
    with pytest.raises(RunInUse, match="on elsewhere"):
        RunDirectory.resume(config(url))
    assert next(looks) == 3


def test_a_holder_by_url_on_this_machine_blocks_as_long_as_its_process_lives_whatever_the_clock(url: str) -> None:
    RunDirectory.create(config(url), fresh=False).close()
    started = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()[19]
    told = holder(host=socket.gethostname(), started=started, time=time.time() - 86_400)
    Remote(f"{url}/r").write(HOLDER, told)
    with pytest.raises(RunInUse, match=f"by process {os.getpid()}"):
        RunDirectory.resume(config(url))


def test_a_holder_by_url_tells_that_it_lives(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.01)
    run = RunDirectory.create(config(url), fresh=False)
    first = Remote(f"{url}/r").read(HOLDER)
    deadline = time.monotonic() + 5
    while Remote(f"{url}/r").read(HOLDER) == first:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run.close()


def test_a_run_that_was_cut_off_and_taken_by_another_writes_nothing_more(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory.create(config(url), fresh=False)
    there = Remote(f"{url}/r")
    there.write(HOLDER, holder())
    monkeypatch.setattr(run_lock, "SILENT_SECONDS", 0.0)  # as if it had been silent for as long
    run.append_metrics({"step": 1})
    for refused in (run.publish, lambda: run.checkpoints.begin(1), run.close):
        with pytest.raises(RunInUse, match="another may be now: --resume goes on"):
            refused()
    assert json.loads(there.read(HOLDER) or b"")["token"] == "another"
    assert there.read("metrics.jsonl") is None


def test_a_holder_leaves_the_lock_that_another_has_taken(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.01)
    run, there = RunDirectory.create(config(url), fresh=False), Remote(f"{url}/r")
    deadline = time.monotonic() + 10
    while json.loads(there.read(HOLDER) or b"")["token"] != "another":
        assert time.monotonic() < deadline
        there.write(HOLDER, holder())
        time.sleep(0.2)  # a beat that was on its way is over
    run.close()
    assert json.loads(there.read(HOLDER) or b"")["token"] == "another"


def test_a_resume_before_the_first_evaluation_can_write_one(runs: str) -> None:
    RunDirectory.create(config(runs), fresh=False).close()
    again, _ = RunDirectory.resume(config(runs))
    again.write_evaluation("base", {"accuracy": 0.5})
    assert again.read_evaluation("base") == {"accuracy": 0.5}
    again.close()


def test_a_run_moves_from_a_disk_to_a_bucket_and_back(tmp_path: Path, url: str) -> None:
    disk = str(tmp_path / "runs")
    run = RunDirectory.create(config(disk), fresh=False)
    save(run, 3)
    run.close()
    Remote(f"{url}/r").send(tmp_path / "runs" / "r")
    moved, changed = RunDirectory.resume(config(url))
    assert moved.checkpoints.start(print)[0] == 3
    assert changed == {"run.dir": (disk, url)}
    save(moved, 4)
    moved.close()
    there = Remote(f"{url}/r")
    there.fetch(there.files(), tmp_path / "back" / "r")
    back, _ = RunDirectory.resume(config(str(tmp_path / "back")))
    assert back.checkpoints.start(print)[0] == 4
    back.close()


def test_a_checkpoint_on_a_disk_counts_by_its_name_as_those_do_that_have_no_mark(tmp_path: Path) -> None:
    run = RunDirectory.create(config(str(tmp_path)), fresh=False)
    save(run, 3)
    run.close()
    (tmp_path / "r" / "checkpoints" / "step_3" / WHOLE).unlink()  # written before there was one
    again, _ = RunDirectory.resume(config(str(tmp_path)))
    assert again.checkpoints.start(print)[0] == 3
    save(again, 4, keep=1)
    again.close()
    assert again.storage.names("checkpoints") == ["step_3", "step_4"]


def test_what_a_launch_left_that_died_before_it_wrote_anything_is_in_nobodys_way(runs: str, tmp_path: Path) -> None:
    left = {".lock": b"", ".lock.json": b'{"pid": 1, "host": "elsewhere"}'}
    for name, content in left.items():
        if "://" in runs:
            Remote(f"{runs}/r").write(name, content)
        else:
            (tmp_path / "runs" / "r").mkdir(parents=True, exist_ok=True)
            (tmp_path / "runs" / "r" / name).write_bytes(content)
    assert not RunDirectory(f"{runs}/r").is_there()
    RunDirectory.check(config(runs), resume=False, fresh=False)
    RunDirectory.create(config(runs), fresh=False).close()


def test_files_that_are_no_run_are_not_written_among(runs: str, tmp_path: Path) -> None:
    with written(f"{runs}/r/notes") as folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mine.txt").write_text("kept")
    with pytest.raises(RunError, match=r"r holds 'notes' and no run: --fresh moves it aside"):
        RunDirectory.create(config(runs), fresh=False)


def test_a_start_that_fails_lets_the_run_go(runs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(RunDirectory, "write_text", fails)
        with pytest.raises(OSError, match="full"):
            RunDirectory.create(config(runs), fresh=True)
    RunDirectory.create(config(runs), fresh=True).close()


def test_a_run_of_wandb_is_known_again_on_another_machine(url: str) -> None:
    run = RunDirectory.create(config(url), fresh=False)
    (run.path / "wandb").mkdir()
    (run.path / "wandb" / "run_id").write_text("abc")
    run.close()
    again, _ = RunDirectory.resume(config(url))
    assert (again.path / "wandb" / "run_id").read_text() == "abc"
    again.close()


def test_what_was_broken_off_of_a_checkpoint_by_url_goes_with_the_next(url: str) -> None:
    run = RunDirectory.create(config(url), fresh=False)
    write_checkpoint(run.checkpoints.begin(1))
    save(run, 2)
    assert run.storage.names("checkpoints") == ["step_2"]
    run.close()


def test_what_has_changed_is_published_and_what_lies_elsewhere_is_not(url: str) -> None:
    run = RunDirectory.create(config(url), fresh=False)
    (run.path / "tensorboard").mkdir()
    (run.path / "tensorboard" / "events").write_text("1")
    (run.path / "rollouts" / "scratch").touch()
    run.append_metrics({"step": 1})
    run.publish()
    there = Remote(f"{url}/r")
    assert set(there.files()) == {"config.yaml", "metrics.jsonl", "tensorboard/events", HOLDER}
    there.write("config.yaml", b"changed by another")
    run.append_metrics({"step": 2})
    run.publish()
    assert there.read("config.yaml") == b"changed by another"  # it had not changed here
    assert (there.read("metrics.jsonl") or b"").count(b"\n") == 2
    run.close()


def test_a_checkpoint_by_url_is_there_only_after_the_steps_before_it(url: str) -> None:
    run = RunDirectory.create(config(url), fresh=False)
    run.append_metrics({"step": 1})
    save(run, 1)
    assert Remote(f"{url}/r").read("metrics.jsonl") == b'{"step": 1}\n'
    run.close()


def test_a_removal_that_is_broken_off_leaves_no_checkpoint(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory.create(config(url), fresh=False)
    save(run, 1)
    remove = Remote.remove

    def broken_off(self: Remote, name: str = "") -> None:
        if name == "checkpoints/step_1":
            raise KeyboardInterrupt
        remove(self, name)

    monkeypatch.setattr(Remote, "remove", broken_off)
    with pytest.raises(KeyboardInterrupt):
        run.storage.remove("checkpoints/step_1")
    assert run.checkpoints.steps() == []
    run.close()


def test_runs_of_one_name_in_two_storages_have_two_working_copies(url: str) -> None:
    assert UrlStorage(f"{url}/r").path != UrlStorage(f"{url}_too/r").path


def test_a_model_by_url_is_copied_once_and_again_when_it_changes(url: str) -> None:
    there = Remote(f"{url}/model")
    there.write("config.json", b"1")
    there.write("deep/weights", b"2")
    first = copied(f"{url}/model")
    assert (first / "config.json").read_text() + (first / "deep" / "weights").read_text() == "12"
    (first / "mark").touch()
    assert (copied(f"{url}/model/") / "mark").exists()
    there.write("config.json", b"3")
    assert (copied(f"{url}/model") / "config.json").read_text() == "3"
