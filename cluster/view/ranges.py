"""Parts of an answer: a browser can only move about in a recording whose bytes it may ask for one part at a time."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import Response

RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def answer(request: Request, content: bytes, media_type: str) -> Response:
    """All of the content, or the one part of it that the request asks for (RFC 9110, section 14)."""
    headers = {"Accept-Ranges": "bytes"}
    asked = RANGE.fullmatch(request.headers.get("range", ""))
    if asked is None or not any(asked.groups()):
        return Response(content, media_type=media_type, headers=headers)
    first, last = asked.groups()
    start = int(first) if first else max(len(content) - int(last), 0)
    end = min(int(last), len(content) - 1) if first and last else len(content) - 1
    if start > end:
        return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{len(content)}"})
    told = headers | {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
    return Response(content[start : end + 1], 206, media_type=media_type, headers=told)
