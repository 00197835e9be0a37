"""When a group may start, and which groups make a step. Pure: no Ray, no clock.

Version v is the number of steps applied. The step that turns v into v + 1 may use a group while
v <= oldest + max_staleness, where `oldest` is the version of its oldest token; that sum, or the last step of the run
where that comes first, is the group's *limit*. One condition keeps every group within its limit, and holds after
each call:

    for every u >= v: outstanding groups with a limit of u or less <= prompts_per_step x (u - v + 1)

since the steps at v, v + 1, ..., u take that many, where v is the version that the next step to begin will train. A
group is *outstanding* from its start until its step begins or it is dropped: a finished one keeps its place, so nothing
starts that would have to wait too long. A step takes the groups with the lowest limits, in the order of their start.
Where it passes one that is still sampled, the condition has to hold for all that stay behind, and if it does not, the
step waits: a long completion is trained like a short one, if later, and never left out.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass


class AdmissionError(AssertionError):
    """A group was started without room, or has tokens from before its start: a defect of the control loop."""


@dataclass(slots=True)
class _Group:
    limit: int
    finished: bool = False


class Admission:
    """The outstanding groups of a run.

    Args:
        prompts_per_step: groups of a step.
        max_staleness: by how many versions a token may be older than the weights that it trains.
        last_step: number of the last step; no group starts that none up to it would train.
        version: steps begun so far. Nothing is outstanding yet, after a resume as after a start.

    >>> admission = Admission(prompts_per_step=1, max_staleness=1, last_step=9)
    >>> admission.room(engines_at=0)
    2
    >>> admission.start("a", engines_at=0); admission.start("b", engines_at=0)
    >>> admission.finish("b", oldest=0); admission.take()
    ['b']
    >>> admission.version, admission.room(engines_at=0), admission.room(engines_at=1)
    (1, 0, 1)
    >>> admission.start("c", engines_at=1); admission.finish("c", oldest=1); admission.take()  # waits for a
    []
    """

    def __init__(self, prompts_per_step: int, max_staleness: int, last_step: int, version: int = 0) -> None:
        self.prompts_per_step = prompts_per_step
        self.max_staleness = max_staleness
        self.last_step = last_step
        self.version = version
        self._groups: dict[str, _Group] = {}
        self._outstanding: Counter[int] = Counter()
        self._finished: Counter[int] = Counter()

    @property
    def outstanding(self) -> int:
        """Groups that have started, and neither has their step begun nor were they dropped."""
        return len(self._groups)

    @property
    def finished(self) -> int:
        """Those of them that wait for their step."""
        return self._finished.total()

    @property
    def unstarted(self) -> int:
        """Groups that the rest of the run takes beyond those that are outstanding."""
        return self.prompts_per_step * (self.last_step - self.version) - self.outstanding

    def room(self, engines_at: int) -> int:
        """How many groups may start now on engines of this version; one that lags behind leaves less room."""
        first = self._limit(engines_at)
        if first < self.version:
            return 0
        room = self.unstarted
        due = 0
        for limit in self._limits():
            due += self._outstanding[limit]
            if limit >= first:
                room = min(room, self.prompts_per_step * (limit - self.version + 1) - due)
        return room

    def start(self, group_id: str, engines_at: int) -> None:
        """A group is asked for; none of its tokens will be older than the version of the engines."""
        if group_id in self._groups:
            raise AdmissionError(f"group {group_id} is outstanding already")
        if self.room(engines_at) < 1:
            raise AdmissionError(f"no room for group {group_id} at version {self.version}, engines at {engines_at}")
        group = self._groups[group_id] = _Group(self._limit(engines_at))
        self._outstanding[group.limit] += 1

    def restart(self, group_id: str, engines_at: int) -> None:
        """A group that was lost while it was sampled is asked for again, in the place that it has."""
        group = self._groups[group_id]
        if group.finished:
            raise AdmissionError(f"group {group_id} is finished, and its limit that of its tokens")
        self._move(group, max(group.limit, self._limit(engines_at)))

    def finish(self, group_id: str, oldest: int) -> None:
        """A group is sampled and scored; `oldest` is the version of its oldest token."""
        group = self._groups[group_id]
        if self._limit(oldest) < group.limit:
            raise AdmissionError(f"group {group_id} has a token of version {oldest}, older than its start")
        self._move(group, self._limit(oldest))
        group.finished = True
        self._finished[group.limit] += 1

    def drop(self, group_id: str) -> None:
        """A group will not be trained."""
        group = self._groups.pop(group_id)
        self._outstanding[group.limit] -= 1
        self._finished[group.limit] -= group.finished

    def take(self) -> list[str]:
        """The groups of the next step, which begins with this; none as long as it has to wait.

        They have their step from now on, though it is not over: what starts meanwhile has to fit into the later ones.
        """
        if self.finished < self.prompts_per_step or self._overdue():
            return []
        finished = (name for name, group in self._groups.items() if group.finished)  # in the order of their start
        taken = heapq.nsmallest(self.prompts_per_step, finished, key=lambda name: self._groups[name].limit)
        for name in taken:
            self.drop(name)
        for counts in (self._outstanding, self._finished):
            counts.pop(self.version, None)
        self.version += 1
        return taken

    def skip(self) -> None:
        """The step that was taken last has trained nothing, and its version stands. Limits were met and still are."""
        self.version -= 1

    def _limit(self, oldest: int) -> int:
        return min(oldest + self.max_staleness, self.last_step - 1)

    def _limits(self) -> range:
        """Those that an outstanding group may have."""
        return range(self.version, self._limit(self.version) + 1)

    def _move(self, group: _Group, limit: int) -> None:
        self._outstanding[group.limit] -= 1
        self._outstanding[limit] += 1
        group.limit = limit

    def _overdue(self) -> bool:
        """Whether groups that stay behind the next step would miss their limit."""
        due = finished = 0
        for limit in self._limits():
            due += self._outstanding[limit]
            finished += self._finished[limit]
            if finished >= self.prompts_per_step:
                return False  # the step takes as many as it may leave, of these and of all later limits
            if due - finished > self.prompts_per_step * (limit - self.version):
                return True
        return False
