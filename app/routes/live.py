"""A camera's frames in, answers out: one WebSocket, on which the latest frame wins.

The client sends photos as binary messages, at any rate. While one is being answered, the next ones
replace each other, so that an answer is never older than one answer takes. Each answered frame is a
question as any other: it has its place in the queue, its limits, and counts for the client's rate.
"""

import asyncio
import contextlib
import time
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, HTTPException, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, Field, ValidationError
from starlette.websockets import WebSocketState

from app.edge.access import Access, admit
from app.inference.engine import Answer, Engine, Findings, Search
from app.problems import Problem, refusal
from app.routes.answers import (
    ClassMap,
    FoundBox,
    Map,
    Prediction,
    Target,
    View,
    found_boxes,
)
from app.routes.forms import LiveFields, LiveFindFields, LiveTask
from app.routes.uploads import Upload
from app.settings import Settings
from app.telemetry.observe import Trace
from cbam.errors import CBAMLensError
from cbam.explain.explanation import Explanation
from cbam.explain.question import Question, resolve

live = APIRouter(prefix="/api/v1", dependencies=[Depends(admit)])
LEAVING, REFUSED, RESTART = 1000, 1008, 1012  # RFC 6455, section 7.4, and its registry
NOT_FRAMES = "Send each frame as one binary message: a JPEG's bytes."


class LastGate(BaseModel):
    """The last block's gate that varies over places."""

    block: str
    kind: str
    map: Map


class LiveResult(BaseModel):
    """One model's answer about a frame."""

    model: str
    predictions: list[Prediction]
    target_probability: float
    view: View
    heatmap: ClassMap
    gate: LastGate | None = Field(description="null: the model has none over places")


class LiveFrame(BaseModel):
    """Which frame an answer is about."""

    frame: int = Field(description="its number among all that came, from 1")
    skipped: int = Field(description="frames since the last answer that a later one replaced")
    width: int
    height: int
    ms: float = Field(description="from the frame's turn to its answer")


class LiveAnswer(LiveFrame):
    """The models' answer about one frame."""

    target: Target
    results: list[LiveResult]


class LiveBoxes(BaseModel):
    """One detector's boxes on a frame."""

    model: str
    detections: list[FoundBox] = Field(description="the surest first")


class LiveFound(LiveFrame):
    """The detectors' answer about one frame."""

    results: list[LiveBoxes]


class Frames:
    """The latest frame of a stream; those before it are forgotten."""

    def __init__(self) -> None:
        self.came = 0
        self.ended = False
        self._latest: bytes | None = None
        self._news = asyncio.Event()

    def put(self, data: bytes) -> None:
        """The latest frame."""
        self.came += 1
        self._latest = data
        self._news.set()

    def end(self) -> None:
        """Nothing more will come."""
        self.ended = True
        self._news.set()

    async def take(self) -> tuple[int, bytes] | None:
        """The latest frame and its number, once there is one; None when the stream has ended."""
        while self._latest is None and not self.ended:
            self._news.clear()
            await self._news.wait()
        if self.ended or self._latest is None:
            return None
        data, self._latest = self._latest, None
        return self.came, data


@live.websocket("/live")
async def stream(socket: WebSocket) -> None:
    """Answer frames until the client leaves. The query's fields: task, and those of its kind."""
    engine: Engine = socket.app.state.engine
    settings: Settings = socket.app.state.settings
    if not _same_origin(socket):
        await socket.close(REFUSED, "Another site's page cannot use this service.")
        return
    await socket.accept()
    try:
        question = _question(socket, engine)
    except (CBAMLensError, HTTPException, ValidationError) as error:
        await _say(socket, error)
        await _close(socket, RESTART if engine.draining else REFUSED)
        return
    frames = Frames()
    reader = asyncio.create_task(_read(socket, frames))
    engine.metrics.live.inc()
    try:
        await _answer_all(socket, engine, settings, question, frames)
    except (WebSocketDisconnect, RuntimeError):  # the second: it closed while we wrote
        pass
    finally:
        engine.metrics.live.dec()
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader


async def _answer_all(
    socket: WebSocket,
    engine: Engine,
    settings: Settings,
    question: Question | Search,
    frames: Frames,
) -> None:
    """One answer after the other, each about the latest frame."""
    access: Access = socket.app.state.access
    counted = engine.metrics.live_frames
    before, first = 0, True
    while True:
        try:
            async with asyncio.timeout(settings.upload_timeout_s):
                taken = await frames.take()
        except TimeoutError:
            await _close(socket, LEAVING, f"No frame for {settings.upload_timeout_s:g} s.")
            return
        if taken is None:
            return
        number, data = taken
        skipped, before = number - before - 1, number
        counted.labels("skipped").inc(skipped)
        began = time.perf_counter()
        try:
            if not first:  # the first was counted with the connection
                await access.admit(socket)
            first = False
            answer = await _asked(engine, settings, question, data, frames)
            ms = (time.perf_counter() - began) * 1000
            text = await engine.in_picture_thread(_message, answer, number, skipped, ms)
        except (CBAMLensError, HTTPException) as error:
            counted.labels("refused").inc()
            await _say(socket, error)
            if engine.draining:
                await _close(socket, RESTART)
                return
            continue
        counted.labels("answered").inc()
        async with asyncio.timeout(settings.send_timeout_s):
            await socket.send_text(text)


async def _asked(
    engine: Engine, settings: Settings, question: Question | Search, data: bytes, frames: Frames
) -> Answer | Findings:
    """The models' answer about a frame. Raises as /explain does, or as /detect does."""
    most = settings.max_upload_mb
    if len(data) > most * 2**20:
        raise HTTPException(413, f"The frame is larger than {most:g} MiB. Send a smaller one.")

    async def alive() -> bool:
        return not frames.ended

    trace = Trace()
    try:
        if isinstance(question, Search):
            return await engine.detect(data, question, alive, trace)
        return await engine.explain(data, question, alive, trace)
    finally:
        for stage, taken in trace.stages.items():
            engine.metrics.stage_seconds.labels(stage).observe(taken)


async def _read(socket: WebSocket, frames: Frames) -> None:
    """Keep the latest frame until the client leaves."""
    try:
        while (message := await socket.receive())["type"] == "websocket.receive":
            if data := message.get("bytes"):
                frames.put(data)
            else:
                await _say(socket, HTTPException(415, NOT_FRAMES))
    except (WebSocketDisconnect, RuntimeError):
        pass
    finally:
        frames.end()


def _question(socket: WebSocket, engine: Engine) -> Question | Search:
    """What is asked of every frame. Raises ValidationError, UnknownName, NotAvailable, Busy."""
    given: dict[str, list[str]] = {}
    for name, text in socket.query_params.multi_items():
        given.setdefault(name, []).append(text)
    upload = Upload(None, given)
    task = LiveTask.model_validate(LiveFields.values(Upload(None, {"task": given.get("task", [])})))
    if task.task == "find":
        wanted = LiveFindFields.model_validate(LiveFindFields.values(upload))
        return Search(engine.chosen_detectors(wanted.models, wanted.family), wanted.search())
    fields = LiveFields.model_validate(LiveFields.values(upload))
    models = engine.chosen(fields.wanted([]), fields.family)
    return resolve(models, fields.options())


def _same_origin(socket: WebSocket) -> bool:
    """Whether no page of another site asks. Clients that are no browsers send no Origin."""
    origin = socket.headers.get("origin")
    host = socket.headers.get("host", "").lower()
    return origin is None or urlsplit(origin).netloc.lower() == host


async def _say(socket: WebSocket, error: Exception) -> None:
    """Send an error as {"problem": ...}, the same as over HTTP."""
    refused = refusal(socket, error)
    problem = Problem(
        title=refused.title,
        status=refused.status,
        detail=refused.detail,
        instance=socket.url.path,
        request_id=getattr(socket.state, "request_id", ""),
    )
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await socket.send_json({"problem": problem.model_dump()})


async def _close(socket: WebSocket, code: int, reason: str = "") -> None:
    if socket.application_state is not WebSocketState.DISCONNECTED:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await socket.close(code, reason)


def _message(answer: Answer | Findings, number: int, skipped: int, ms: float) -> str:
    """The answer as JSON."""
    found = answer.found if isinstance(answer, Findings) else answer.explanations
    frame: dict[str, Any] = {
        "frame": number,
        "skipped": skipped,
        "width": found[0].photo.width,
        "height": found[0].photo.height,
        "ms": round(ms, 1),
    }
    if isinstance(answer, Findings):
        boxes = [
            LiveBoxes(model=each.model, detections=found_boxes(each, answer.found))
            for each in answer.found
        ]
        return LiveFound(**frame, results=boxes).model_dump_json()
    target = answer.explanations[0].target
    return LiveAnswer(
        **frame,
        target=Target(index=target.index, label=target.label, indices=list(target.indices)),
        results=[_result(each) for each in answer.explanations],
    ).model_dump_json()


def _result(each: Explanation) -> LiveResult:
    view, heat = each.view, each.heatmaps[0]
    return LiveResult(
        model=each.model,
        predictions=[
            Prediction(index=item.index, label=item.label, probability=item.probability)
            for item in each.predictions
        ],
        target_probability=each.target.probability,
        view=View(x0=view.x0, y0=view.y0, x1=view.x1, y1=view.y1),
        heatmap=ClassMap(index=heat.index, label=heat.label, map=Map.of(heat.map)),
        gate=_last_gate(each),
    )


def _last_gate(each: Explanation) -> LastGate | None:
    """The last block's gate over places, channels averaged."""
    for block in reversed(each.attention):
        for gate in reversed(list(block.gates.values())):
            if gate.plane is not None and gate.kind.use != "shown":
                return LastGate(block=block.block, kind=gate.kind.name, map=Map.of(gate.plane))
    return None
