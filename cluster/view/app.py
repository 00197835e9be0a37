"""The page's server: what each address gives. Everything is read from the files of the runs."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from cluster.errors import UsageError
from cluster.evaluation.comparison import compare
from cluster.view import evaluation as evaluations
from cluster.view import groups as rollouts
from cluster.view import ranges
from cluster.view.clips import NoClip, as_wav, peaks, prepare, spectrogram_png
from cluster.view.curves import curves
from cluster.view.group import as_shown
from cluster.view.run import Library
from cluster.view.shelf import Shelf
from cluster.view.shown import Shown
from data.audio import SAMPLE_RATE

STATIC = Path(__file__).parent / "static"
REFRESH_SECONDS = 2.0
MOST_ROWS = 200
DROPPED = "dropped_by_reason."
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may load: its own files alone. The charts set styles."""

addresses = APIRouter()


def create(library: Library, hosts: Sequence[str] = ("127.0.0.1", "localhost")) -> FastAPI:
    """The application for these runs.

    Args:
        library: the runs.
        hosts: names by which a browser may ask for it; others are refused, since any page could take one of its own.
    """
    app = FastAPI(title="Auricle", lifespan=_life, openapi_url=None, docs_url=None, redoc_url=None)
    app.state.shelf = Shelf(library)
    app.add_middleware(GZipMiddleware, minimum_size=2_000)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*hosts])
    app.middleware("http")(_guarded)
    app.add_exception_handler(Exception, _told)
    app.include_router(addresses)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app


@asynccontextmanager
async def _life(app: FastAPI) -> AsyncIterator[None]:
    closing = threading.Event()

    def follow() -> None:
        while not closing.is_set():
            app.state.shelf.refresh(closing.is_set)
            closing.wait(REFRESH_SECONDS)

    threads = [threading.Thread(target=work, name=work.__name__, daemon=True) for work in (follow, prepare)]
    for thread in threads:
        thread.start()
    yield
    closing.set()
    for thread in threads:  # an import that goes on would swap sys.stderr under whoever comes next
        thread.join()


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


def _shelf(request: Request) -> Shelf:
    shelf: Shelf = request.app.state.shelf
    return shelf


ItsShelf = Annotated[Shelf, Depends(_shelf)]


def _found(run: str, shelf: ItsShelf) -> Shown:
    """The run that an address names."""
    if run not in shelf.runs:
        raise HTTPException(404, f"there is no run {run!r}")
    return shelf.runs[run]


Found = Annotated[Shown, Depends(_found)]
Offset = Annotated[int, Query(ge=0)]
Count = Annotated[int, Query(ge=1, le=MOST_ROWS)]


def _evaluated(run: str, name: str, shelf: Shelf) -> dict[str, Any]:
    """An evaluation of a run."""
    try:
        return _found(run, shelf).run.evaluation(name)
    except KeyError:
        raise HTTPException(404, f"{run} has no evaluation {name!r}") from None


@addresses.get("/")
def _index() -> FileResponse:
    return FileResponse(STATIC / "index.html")


@addresses.get("/charts.js")
def _charts() -> Response:
    from plotly.offline import get_plotlyjs

    return Response(get_plotlyjs(), media_type="text/javascript", headers={"Cache-Control": "max-age=86400"})


@addresses.get("/api/runs")
def _runs(shelf: ItsShelf) -> list[dict[str, Any]]:
    return [shown.about() for shown in shelf.runs.values() if shown.run.is_there]


@addresses.get("/api/about")
def _about(shown: Found) -> dict[str, Any]:
    return {"config": shown.run.config_text, "environment": shown.run.environment}


@addresses.get("/api/curves")
def _curves(shown: Found, key: Annotated[list[str], Query()]) -> dict[str, Any]:
    return curves(shown.run.lines(), key)


@addresses.get("/api/groups")
def _groups(
    shown: Found,
    kind: rollouts.Kind = "all",
    search: str = "",
    task: str = "",
    drop: str = "",
    order: rollouts.Order = "step",
    descending: bool = True,
    offset: Offset = 0,
    count: Count = 50,
) -> dict[str, Any]:
    query = rollouts.Query(kind, search, task, drop, order, descending, offset, count)
    return shown.groups.query(query) | {"choices": shown.groups.choices()}


@addresses.get("/api/group")
def _group(shown: Found, run: str, step: int, row: int, id: str = "") -> dict[str, Any]:
    try:
        logged = shown.groups.read(step, row)
    except KeyError as missing:
        raise HTTPException(404, f"{run} has no group there: {missing.args[0]}") from None
    if id and logged["group_id"] != id:
        raise HTTPException(404, f"{run} has another group there since a resume: search for {id}")
    return as_shown(logged, shown.tokens)


@addresses.get("/api/clip/{form}")
def _clip(request: Request, shown: Found, form: str, sha256: str = "", example: str = "") -> Response:
    try:
        waveform = shown.clips.waveform(sha256, example)
    except NoClip as missing:
        raise HTTPException(404, str(missing.args[0])) from None
    if form == "sound.wav":
        return ranges.answer(request, as_wav(waveform), "audio/wav")
    if form == "mel.png":
        return Response(spectrogram_png(waveform), media_type="image/png")
    if form == "peaks":
        return JSONResponse({"seconds": len(waveform) / SAMPLE_RATE, "peaks": peaks(waveform)})
    raise HTTPException(404, f"there is no {form!r} of a recording")


@addresses.get("/api/evaluations")
def _evaluations(shown: Found) -> dict[str, Any]:
    return shown.run.evaluations()


@addresses.get("/api/evaluation")
def _evaluation(
    shelf: ItsShelf,
    run: str,
    name: str,
    kind: evaluations.Kind = "all",
    search: str = "",
    task: str = "",
    offset: Offset = 0,
    count: Count = 50,
) -> dict[str, Any]:
    figures = _evaluated(run, name, shelf)
    rows = figures.pop("rows")
    return {
        "figures": figures,
        "confusion": evaluations.confusion(rows),
        "page": evaluations.page(rows, kind, search, task, offset, count),
    }


@addresses.get("/api/compare")
def _compare(shelf: ItsShelf, first_run: str, first: str, second_run: str, second: str) -> dict[str, Any]:
    one, other = _evaluated(first_run, first, shelf), _evaluated(second_run, second, shelf)
    try:
        figures = compare(one, other, (f"{first_run}, {first}", f"{second_run}, {second}"))
    except UsageError as refused:
        raise HTTPException(422, str(refused)) from None
    return {"figures": figures, "flips": evaluations.flips(one["rows"], other["rows"])}


@addresses.get("/api/cluster")
def _cluster(shown: Found) -> dict[str, Any]:
    lines = shown.run.lines()
    last = lines[-1] if lines else {}
    reasons = {key.removeprefix(DROPPED): value for key, value in last.items() if key.startswith(DROPPED)}
    return {
        "engines": shown.groups.by_engine(),
        "ledger": {key: last.get(key) for key in ("admitted", "trained", "dropped", "in_flight")},
        "dropped_by_reason": reasons,
    }
