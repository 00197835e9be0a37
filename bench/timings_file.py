"""Files of timings: JSON with the keys of `cluster.forecast.timings.Timings`."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from cluster.forecast.timings import Timings


class TimingsError(ValueError):
    """Timings that cannot be made out; the message names the file or the field, and the mend."""


def read_timings(file: Path) -> Timings:
    """The timings of a file.

    Raises:
        TimingsError: it cannot be read, is not JSON, or has other keys or values.
    """
    try:
        return Timings.model_validate_json(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise TimingsError(f"{file} cannot be read as timings: {error}") from error
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, one['loc']))} {one['msg'].lower()}".strip() for one in error.errors())
        raise TimingsError(
            f"{file} holds no timings: {'; '.join(problems)}. Give a file that `bench.scale --save` wrote"
        ) from error


def write_timings(timings: Timings, file: Path) -> None:
    """Write a file that `read_timings` reads; a line for the groups, and one for each other field."""
    values = timings.model_dump(mode="json")
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in values.items()]
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n")
