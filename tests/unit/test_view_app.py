"""What the viewer's server answers, and whom; the pages themselves are tried in a browser."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from cluster import report
from cluster.view import app
from cluster.view.app import create
from cluster.view.run import Library
from tests.view_runs import HOSTILE, group, tone, write_run, write_shard

READ_SECONDS = 30.0
SHA256 = hashlib.sha256(tone()).hexdigest()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(app, "REFRESH_SECONDS", 0.05)
    monkeypatch.setattr(app, "prepare", lambda: None)  # which imports for seconds what most tests do not ask for
    made = write_run(tmp_path)
    write_shard(made, 4, [group(99, 4, question=HOSTILE, choices=[HOSTILE, "cat"], answer=HOSTILE)])
    return made


@pytest.fixture
def client(run: Path) -> Iterator[TestClient]:
    with TestClient(create(Library([str(run)])), base_url="http://127.0.0.1") as started:
        deadline = time.monotonic() + READ_SECONDS
        while (told := started.get("/api/runs").json()[0])["indexed"] < 4:
            assert time.monotonic() < deadline, told
            time.sleep(0.01)
        yield started


def ask(client: TestClient, what: str, **parameters: Any) -> Any:
    answer = client.get(f"/api/{what}", params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_nothing_of_a_viewer_that_has_closed_goes_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "prepare", lambda: time.sleep(0.3))
    before = set(threading.enumerate())
    with TestClient(create(Library([str(run)]))):
        assert len(threading.enumerate()) > len(before)
    assert set(threading.enumerate()) <= before


def test_every_page_gets_what_it_asks_for(client: TestClient) -> None:
    [about] = ask(client, "runs")
    assert (about["step"], about["max_steps"], about["indexed"], about["finished"]) == (3, 10, 4, False)
    assert ask(client, "curves", run="run", key=["reward_mean", "seconds."])["step"] == [1, 2, 3]
    assert ask(client, "groups", run="run", kind="mixed")["total"] == 12
    shown = ask(client, "group", run="run", step=2, row=1)
    assert [one["correct"] for one in shown["completions"]] == [True, False]
    assert shown["completions"][0]["rewards"] == {"accuracy": 1.0}
    assert shown["prompt"] is None  # there is no tokenizer
    assert [*ask(client, "evaluations", run="run")] == ["base", "trained"]
    assert ask(client, "evaluation", run="run", name="trained", kind="right")["page"]["total"] == 3
    compared = ask(client, "compare", first_run="run", first="base", second_run="run", second="trained")
    assert [row["id"] for row in compared["flips"]["gained"]] == ["q3", "q4"]
    assert compared["figures"]["measures"]["accuracy"]["difference"] == pytest.approx(1 / 6)
    assert ask(client, "cluster", run="run")["ledger"]["trained"] == 12
    assert "max_steps: 10" in ask(client, "about", run="run")["config"]


@pytest.mark.heavy
def test_sound_and_pictures_are_what_they_say(client: TestClient) -> None:
    for form, kind in (("sound.wav", "audio/wav"), ("mel.png", "image/png"), ("peaks", "application/json")):
        answer = client.get(f"/api/clip/{form}", params={"run": "run", "sha256": SHA256})
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    silent = client.get("/api/clip/peaks", params={"run": "run", "sha256": f"silence-{SHA256}"})
    assert silent.json()["seconds"] == 1.0


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        (None, 200, slice(None)),
        ("bytes=0-", 206, slice(None)),
        ("bytes=100-199", 206, slice(100, 200)),
        ("bytes=-10", 206, slice(-10, None)),
        ("bytes=100-9999999", 206, slice(100, None)),
        ("bytes=9999999-", 416, slice(0, 0)),
        ("lines=1-2", 200, slice(None)),
    ],
)
def test_a_part_of_a_recording_is_given_to_who_asks_for_it(
    client: TestClient, asked: str | None, status: int, part: slice
) -> None:
    address = f"/api/clip/sound.wav?run=run&sha256={SHA256}"
    whole = client.get(address).content
    given = client.get(address, headers={} if asked is None else {"range": asked})
    assert (given.status_code, given.content) == (status, whole[part])
    if status == 206:
        start, end, _ = part.indices(len(whole))
        assert given.headers["content-range"] == f"bytes {start}-{end - 1}/{len(whole)}"


def test_a_group_that_is_another_since_a_resume_is_not_shown(client: TestClient) -> None:
    assert ask(client, "group", run="run", step=2, row=1, id="0-21")["question"] == "Question 21?"
    refused = client.get("/api/group", params={"run": "run", "step": 2, "row": 1, "id": "0-77"})
    assert (refused.status_code, "another group there since a resume" in refused.text) == (404, True)


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/api/groups?run=other", 404),
        ("/api/groups?run=run&kind=odd", 422),
        ("/api/groups?run=run&count=100000", 422),
        ("/api/group?run=run&step=1&row=77", 404),
        ("/api/evaluation?run=run&name=..%2F..%2Fconfig", 404),
        ("/api/clip/sound.wav?run=run&sha256=..%2Fconfig.yaml", 404),
        ("/api/clip/other?run=run", 404),
        ("/static/../app.py", 404),
        ("/static/%2e%2e/app.py", 404),
        ("/docs", 404),
    ],
)
def test_what_is_not_there_is_refused(client: TestClient, address: str, status: int) -> None:
    assert client.get(address).status_code == status


def test_only_a_browser_that_asks_for_this_machine_is_answered_and_nothing_else_may_be_loaded(
    client: TestClient,
) -> None:
    assert client.get("/api/runs", headers={"host": "evil.example"}).status_code == 400
    headers = client.get("/").headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "unsafe-inline" not in headers["content-security-policy"].split("style-src")[0]
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


@pytest.mark.heavy
def test_the_page_and_the_charts_come_from_this_machine(client: TestClient) -> None:
    page = client.get("/").text
    assert "http://" not in page
    assert "https://" not in page
    assert "Plotly" in client.get("/charts.js").text


@pytest.mark.heavy
def test_a_report_holds_all_it_needs_and_shows_text_as_text(run: Path, tmp_path: Path) -> None:
    assert report.main([str(run), "--groups", "6", "--plots", str(tmp_path / "plots")]) == 0
    text = (run / "report.html").read_text()
    assert HOSTILE not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert text.count('src="data:audio/flac;base64,') == 6
    assert "<svg" in text
    assert 'src="http' not in text
    assert 'href="http' not in text
    assert {"reward.png", "held_out.png", "phases.png"} <= {file.name for file in (tmp_path / "plots").iterdir()}


def test_a_report_without_groups_or_evaluations_is_written_too(tmp_path: Path) -> None:
    bare = write_run(tmp_path, "bare", steps=0)
    for file in (bare / "eval").iterdir():
        file.unlink()
    assert report.main([str(bare), "--out", str(tmp_path / "bare.html")]) == 0
    assert "No step was taken" in (tmp_path / "bare.html").read_text()


def test_a_report_of_no_run_or_to_no_folder_says_so(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main([str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert report.main([str(run), "--out", str(tmp_path / "none" / "r.html")]) == 2
    assert "is no directory" in capsys.readouterr().err


@pytest.mark.parametrize("config", ["data: [", "a list", "data: {prompt: think}\n", "run: {}\n"])
def test_a_directory_whose_configuration_is_no_runs_hides_no_run(
    run: Path, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = run.parent / "other"
    other.mkdir()
    (other / "config.yaml").write_text(config)
    with TestClient(create(Library([str(run.parent)])), base_url="http://127.0.0.1") as client:
        assert [one["name"] for one in ask(client, "runs")] == ["run"]
        late = run.parent / "late"
        late.mkdir()
        (late / "config.yaml").write_text(config)
        deadline = time.monotonic() + READ_SECONDS
        while "late is not shown" not in (told := capsys.readouterr().err):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (late / "config.yaml").write_text((run / "config.yaml").read_text())
        while "late" not in [one["name"] for one in ask(client, "runs")]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert told.count("late is not shown") == 1


def test_a_run_that_is_deleted_leaves_the_others_shown(run: Path) -> None:
    gone = write_run(run.parent, "gone")
    with TestClient(create(Library([str(run.parent)])), base_url="http://127.0.0.1") as client:
        assert [one["name"] for one in ask(client, "runs")] == ["gone", "run"]
        shutil.rmtree(gone)
        assert [one["name"] for one in ask(client, "runs")] == ["run"]
        deadline = time.monotonic() + READ_SECONDS
        while client.get("/api/curves", params={"run": "gone", "key": "kl"}).status_code != 404:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        write_run(run.parent, "late")
        while "late" not in [one["name"] for one in ask(client, "runs")]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
