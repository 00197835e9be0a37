"""The page's server: what each address gives. Everything is read from the files of the runs."""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from cluster.comparison import compare
from cluster.errors import UsageError
from cluster.view import evaluation as evaluations
from cluster.view import groups as rollouts
from cluster.view import ranges
from cluster.view.clips import NoClip, as_wav, peaks, prepare, spectrogram_png
from cluster.view.curves import curves
from cluster.view.group import as_shown
from cluster.view.run import Library
from cluster.view.shown import Shown
from data.audio import SAMPLE_RATE
from rewards.logged import LogError

STATIC = Path(__file__).parent / "static"
REFRESH_SECONDS = 2.0
MOST_ROWS = 200
DROPPED = "dropped_by_reason."
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may load: its own files alone. The charts set styles."""


class Shelf:
    """What is shown, by name; runs that begin later are put to it."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self.runs: dict[str, Shown] = {}
        self._refused: dict[str, str] = {}
        """Why a directory that looks like a run's is not shown."""
        self._put()

    def refresh(self, stop: Callable[[], bool]) -> None:
        """Look for new runs, and for new groups of all."""
        self._library.refresh()
        self._put()
        for shown in self.runs.values():
            if not stop():
                shown.groups.refresh(stop)

    def _put(self) -> None:
        for name, run in self._library.runs.items():
            if name in self.runs:
                continue
            try:
                self.runs = self.runs | {name: Shown(run)}
            except LogError as error:  # its configuration may be on its way, or somebody else's
                if self._refused.get(name) != str(error):
                    self._refused[name] = str(error)
                    print(f"{name} is not shown: {error}", file=sys.stderr, flush=True)


def create(library: Library, hosts: Sequence[str] = ("127.0.0.1", "localhost")) -> FastAPI:
    """The application for these runs.

    Args:
        library: the runs.
        hosts: names by which a browser may ask for it; others are refused, since any page could take one of its own.
    """
    shelf = Shelf(library)
    closing = threading.Event()

    def follow() -> None:
        while not closing.is_set():
            shelf.refresh(closing.is_set)
            closing.wait(REFRESH_SECONDS)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        threads = [threading.Thread(target=work, name=work.__name__, daemon=True) for work in (follow, prepare)]
        for thread in threads:
            thread.start()
        yield
        closing.set()
        for thread in threads:  # an import that goes on would swap sys.stderr under whoever comes next
            thread.join()

    app = FastAPI(title="Auricle", lifespan=life, openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(GZipMiddleware, minimum_size=2_000)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*hosts])
    app.middleware("http")(_guarded)
    app.add_exception_handler(Exception, _told)

    def found(name: str) -> Shown:
        if name not in shelf.runs:
            raise HTTPException(404, f"there is no run {name!r}")
        return shelf.runs[name]

    def evaluated(run: str, name: str) -> dict[str, Any]:
        try:
            return found(run).run.evaluation(name)
        except KeyError:
            raise HTTPException(404, f"{run} has no evaluation {name!r}") from None

    @app.get("/")
    def index() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/charts.js")
    def charts() -> Response:
        from plotly.offline import get_plotlyjs

        return Response(get_plotlyjs(), media_type="text/javascript", headers={"Cache-Control": "max-age=86400"})

    @app.get("/api/runs")
    def all_runs() -> list[dict[str, Any]]:
        return [one.about() for one in shelf.runs.values()]

    @app.get("/api/about")
    def about(run: str) -> dict[str, Any]:
        one = found(run).run
        return {"config": one.config_text, "environment": one.environment}

    @app.get("/api/curves")
    def drawn(run: str, key: Annotated[list[str], Query()]) -> dict[str, Any]:
        return curves(found(run).run.lines(), key)

    @app.get("/api/groups")
    def groups(
        run: str,
        kind: rollouts.Kind = "all",
        search: str = "",
        task: str = "",
        drop: str = "",
        order: rollouts.Order = "step",
        descending: bool = True,
        offset: Annotated[int, Query(ge=0)] = 0,
        count: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 50,
    ) -> dict[str, Any]:
        query = rollouts.Query(kind, search, task, drop, order, descending, offset, count)
        return found(run).groups.query(query) | {"choices": found(run).groups.choices()}

    @app.get("/api/group")
    def group(run: str, step: int, row: int, id: str = "") -> dict[str, Any]:
        one = found(run)
        try:
            logged = one.groups.read(step, row)
        except KeyError as missing:
            raise HTTPException(404, f"{run} has no group there: {missing.args[0]}") from None
        if id and logged["group_id"] != id:
            raise HTTPException(404, f"{run} has another group there since a resume: search for {id}")
        return as_shown(logged, one.tokens)

    @app.get("/api/clip/{form}")
    def clip(request: Request, form: str, run: str, sha256: str = "", example: str = "") -> Response:
        try:
            waveform = found(run).clips.waveform(sha256, example)
        except NoClip as missing:
            raise HTTPException(404, str(missing.args[0])) from None
        if form == "sound.wav":
            return ranges.answer(request, as_wav(waveform), "audio/wav")
        if form == "mel.png":
            return Response(spectrogram_png(waveform), media_type="image/png")
        if form == "peaks":
            return JSONResponse({"seconds": len(waveform) / SAMPLE_RATE, "peaks": peaks(waveform)})
        raise HTTPException(404, f"there is no {form!r} of a recording")

    @app.get("/api/evaluations")
    def all_evaluations(run: str) -> dict[str, Any]:
        return found(run).run.evaluations()

    @app.get("/api/evaluation")
    def evaluation(
        run: str,
        name: str,
        kind: evaluations.Kind = "all",
        search: str = "",
        task: str = "",
        offset: Annotated[int, Query(ge=0)] = 0,
        count: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 50,
    ) -> dict[str, Any]:
        figures = evaluated(run, name)
        rows = figures.pop("rows")
        return {
            "figures": figures,
            "confusion": evaluations.confusion(rows),
            "page": evaluations.page(rows, kind, search, task, offset, count),
        }

    @app.get("/api/compare")
    def compared(first_run: str, first: str, second_run: str, second: str) -> dict[str, Any]:
        one, other = evaluated(first_run, first), evaluated(second_run, second)
        names = (f"{first_run}, {first}", f"{second_run}, {second}")
        try:
            figures = compare(one, other, names)
        except UsageError as refused:
            raise HTTPException(422, str(refused)) from None
        return {"figures": figures, "flips": evaluations.flips(one["rows"], other["rows"])}

    @app.get("/api/cluster")
    def cluster(run: str) -> dict[str, Any]:
        one = found(run)
        lines = one.run.lines()
        last = lines[-1] if lines else {}
        reasons = {key.removeprefix(DROPPED): value for key, value in last.items() if key.startswith(DROPPED)}
        return {
            "engines": one.groups.by_engine(),
            "ledger": {key: last.get(key) for key in ("admitted", "trained", "dropped", "in_flight")},
            "dropped_by_reason": reasons,
        }

    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app


async def _guarded(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call(request)
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers.setdefault("Cache-Control", "no-cache")
    return response


async def _told(_: Request, error: Exception) -> Response:
    """A file that cannot be read is said on the page; the traceback is where the command was started."""
    return JSONResponse({"detail": f"{type(error).__name__}: {error}"}, 500)
