"""What a command prints of an error, here or in an actor."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from ray.exceptions import ActorDiedError, ObjectLostError, OwnerDiedError, RayTaskError

from cluster.errors import report_errors
from learner.hf_files import ModelError


def in_actor(cause: Exception) -> RayTaskError:
    """The error as Ray hands it over from a call of an actor."""
    module = type(cause).__module__
    return RayTaskError("join", f"Traceback:\n  a line\n{module}.{type(cause).__name__}: {cause}", cause, "p", 1, "ip")


def printed(error: Exception, capsys: pytest.CaptureFixture[str]) -> str:
    @report_errors
    def command(argv: Sequence[str] | None) -> int:
        raise error

    assert command() == 2
    return capsys.readouterr().err


def test_an_error_of_ours_in_an_actor_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    error = in_actor(ModelError("/m has no config.json"))
    assert printed(error, capsys) == "error: /m has no config.json\n"
    assert printed(error.as_instanceof_cause(), capsys) == "error: /m has no config.json\n"


def test_an_error_of_ours_that_passed_through_two_actors_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(in_actor(in_actor(ModelError("/m is empty"))), capsys) == "error: /m is empty\n"


def test_an_error_of_ours_in_an_actors_constructor_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    error = ActorDiedError(in_actor(ModelError("/m has no config.json")))
    assert printed(error, capsys) == "error: /m has no config.json\n"


@pytest.mark.parametrize(
    "error", [ActorDiedError(), in_actor(OwnerDiedError("ab", "", "")), in_actor(ObjectLostError("ab", "", ""))]
)
def test_the_loss_of_an_actor_or_of_what_it_held_is_one_line_with_the_way_on(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    line = printed(error, capsys)
    assert line.startswith("error: an actor or a node is lost (")
    assert line.endswith("); a run goes on from its last checkpoint with --resume\n")
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [KeyError("rank"), in_actor(KeyError("rank")), ActorDiedError(in_actor(KeyError("rank")))],
)
def test_a_defect_keeps_its_traceback(error: Exception) -> None:
    @report_errors
    def command(argv: Sequence[str] | None) -> int:
        raise error

    with pytest.raises(type(error)):
        command()
