"""Prometheus's own tool on the shipped configuration, rules and their tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from deploy.dashboard.__main__ import PROMETHEUS, configuration
from tests.prometheus import tool

NAMED = "\n  - name: "
"""Begins each of the rules' tests."""


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A run of promtool, with what it printed."""
    words = [tool("promtool"), *map(str, arguments)]
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False)


def test_the_configuration_and_its_rules_are_valid() -> None:
    checked = promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert checked.returncode == 0, checked.stdout
    assert "2 rule files found" in checked.stdout


def test_the_configuration_that_the_dashboard_makes_is_valid(tmp_path: Path) -> None:
    (tmp_path / "my.yml").write_text(configuration(tmp_path / "runs"))
    checked = promtool("check", "config", tmp_path / "my.yml")
    assert checked.returncode == 0, checked.stdout
    assert "2 rule files found" in checked.stdout


def test_every_alert_fires_when_it_should_and_at_nothing_else() -> None:
    tested = promtool("test", "rules", PROMETHEUS / "tests.yml")
    assert tested.returncode == 0, tested.stdout
    fired = (PROMETHEUS / "tests.yml").read_text()
    groups = yaml.safe_load((PROMETHEUS / "alerts.rules.yml").read_text())["groups"]
    never = [rule["alert"] for group in groups for rule in group["rules"] if f'"{rule["alert"]}"' not in fired]
    assert not never


@pytest.mark.parametrize(
    ("before", "after", "noticed_by"),
    [
        ("> 10 * auricle:step_seconds", "> 0.1 * auricle:step_seconds", "a run of short steps"),  # minutes would fire
        ("            unless auricle_checkpoint_saving == 1\n", "", "a run of short steps"),
        ("_seconds > 1800", "_seconds > 18000", "a run that never takes its first step"),
        ('role="controller"} == 0', 'role="controller"} < 0', "a control loop that does not answer"),
        ('role=~"engine|learner"', 'role="engine"', "a control loop that does not answer"),
        ("> 10 * auricle:sync_seconds", "> 0.1 * auricle:sync_seconds", "weights are late"),
        ("auricle_importance_clipped_ratio > 0.2", "auricle_importance_clipped_ratio > 0.9", "old tokens"),
        ("(auricle_verified_logprob", "(100 * auricle_verified_logprob", "log-probs that differ"),  # so would bfloat16
        ("(auricle_logprob_difference_max_nats >", "(0.01 * auricle_logprob_difference_max_nats >", "log-probs"),
        ("0.2 and auricle:running", "0.2", "groups that are dropped"),  # a run that has ended would fire
        ("skipped_total[15m]) > 0 and auricle:running", "skipped_total[15m]) > 0", "skipped steps"),
        ("failed_total[15m]) > 0 and auricle:running", "failed_total[15m]) > 0", "skipped steps"),
        ('{reason!="zero_variance"}', "", "groups that are dropped"),
        ("0.5 * auricle_reward_best_mean", "0.1 * auricle_reward_best_mean", "a reward that falls"),
        ("auricle_kl_nats > 1", "auricle_kl_nats > 0.05", "a KL above a nat"),
        ("1.1 * auricle_checkpoint_bytes", "0.9 * auricle_checkpoint_bytes", "a disk"),
        ("_bytes < 1e9", "_bytes < 1e7", "a disk"),
    ],
)
def test_the_tests_of_the_rules_notice_a_rule_that_is_wrong(
    before: str, after: str, noticed_by: str, tmp_path: Path
) -> None:
    changed = 0
    for file in PROMETHEUS.glob("*.yml"):
        text = file.read_text()
        changed += text.count(before)
        (tmp_path / file.name).write_text(text.replace(before, after))
    assert changed
    head, *tests = (tmp_path / "tests.yml").read_text().split(NAMED)
    [test] = [test for test in tests if test.startswith(noticed_by)]
    (tmp_path / "tests.yml").write_text(head + NAMED + test)
    tested = promtool("test", "rules", tmp_path / "tests.yml")
    assert tested.returncode != 0
    assert "FAILED" in tested.stdout
    assert "got:" in tested.stdout
