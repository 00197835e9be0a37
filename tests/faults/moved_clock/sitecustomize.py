"""On the path of a process this moves its time of day by days, forth and back, while the file is there that
AURICLE_TEST_CLOCK names. Clocks that only go on, `time.monotonic` and `time.perf_counter`, are as they were.
"""

import os
import time

DAY_SECONDS = 86_400
LEAP_SECONDS = 0.5
"""Between two leaps."""
DAYS = (3, -2, 7, 0, -5)

_time_of_day = time.time
_file = os.environ.get("AURICLE_TEST_CLOCK", "")


def moved_time() -> float:
    """`time.time` by a clock that somebody keeps setting."""
    moved = DAYS[int(time.monotonic() / LEAP_SECONDS) % len(DAYS)] if os.path.exists(_file) else 0
    return _time_of_day() + moved * DAY_SECONDS


time.time = moved_time
