"""Ray sends an actor's class to its process by value, with every value of its module that it names."""

from __future__ import annotations

from typing import Any

import pytest
from ray import cloudpickle

from actors.audio import AudioActor
from actors.learner import LearnerActor
from actors.log import RolloutLogActor
from actors.reward import RewardActor
from actors.rollout import RolloutActor


@pytest.mark.parametrize("actor", [AudioActor, LearnerActor, RolloutLogActor, RewardActor, RolloutActor])
def test_an_actor_can_be_sent_to_another_process(actor: Any) -> None:
    assert cloudpickle.dumps(actor.__ray_metadata__.modified_class)
