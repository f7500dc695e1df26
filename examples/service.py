"""An HTTP service: POST one image, get its classes.

    pip install "medonnx[cpu]" fastapi uvicorn prometheus-client
    python service.py ckpt.onnx --port 8000
    curl --data-binary @scan.png -H "Content-Type: image/png" http://127.0.0.1:8000/predict

POST /predict takes the bytes of one image, GET /health tells what runs, GET /metrics is for Prometheus. The port opens
once the model is open and has replayed its golden samples. Every option is an environment variable too, as
MEDINFER_PORT. Encryption, and who may ask, are for a proxy in front of it. Research use only; not a medical device.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import click
import prometheus_client as metrics
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from starlette.requests import ClientDisconnect

import medinfer
from medinfer.stream import available_cores

TYPES = ("image/", "application/octet-stream", "application/dicom")
REQUESTS = metrics.Counter("medinfer_requests", "Requests to /predict, by outcome", ["code"])
SECONDS = metrics.Histogram("medinfer_request_seconds", "From the headers of a request to its answer")
ADMITTED = metrics.Gauge("medinfer_requests_in_progress", "Requests admitted and not answered yet")
QUEUED = metrics.Gauge("medinfer_queue_length", "Images that wait for a thread")
BATCH = metrics.Histogram("medinfer_batch_images", "Images in one run of the model", buckets=(1, 2, 4, 8, 16, 32, 64))
Job = tuple[bytes, "asyncio.Future[medinfer.Prediction]"]


class Batcher:
    """Gathers waiting images into batches of up to `size`, for at most `wait` seconds, and runs them on threads."""

    def __init__(self, model: medinfer.Model, *, size: int, wait: float, queue: int) -> None:
        self.model, self.size, self.wait = model, size, wait
        self.jobs: asyncio.Queue[Job] = asyncio.Queue(queue)
        self.turn = asyncio.Lock()
        self.failure: Exception | None = None
        QUEUED.set_function(self.jobs.qsize)

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """Work on all cores while the application is up."""
        with ThreadPoolExecutor(available_cores()) as pool:
            workers = [asyncio.create_task(self._work(pool)) for _ in range(available_cores())]
            yield
            for worker in workers:
                worker.cancel()

    async def predict(self, image: bytes) -> medinfer.Prediction:
        """Wait for an image's turn, and return what the model says of it."""
        answer = asyncio.get_running_loop().create_future()
        await self.jobs.put((image, answer))
        return await answer

    async def _work(self, pool: ThreadPoolExecutor) -> None:
        while True:
            await self._answer(await self._gather(), pool)

    async def _gather(self) -> list[Job]:
        async with self.turn:  # one worker gathers while the others run
            jobs = [await self.jobs.get()]
            with suppress(TimeoutError):
                async with asyncio.timeout(self.wait):
                    while len(jobs) < self.size:
                        jobs.append(await self.jobs.get())
        return [job for job in jobs if not job[1].done()]  # who gave up needs no answer

    async def _answer(self, jobs: list[Job], pool: ThreadPoolExecutor) -> None:
        images = [image for image, _ in jobs]
        try:
            found = await asyncio.get_running_loop().run_in_executor(pool, self._run, images)
            self.failure = None
        except Exception as error:  # noqa: BLE001 - those who wait are told, and so is /health
            self.failure, found = error, [error] * len(jobs)
        for (_, answer), one in zip(jobs, found, strict=True):
            if not answer.done():
                answer.set_exception(one) if isinstance(one, Exception) else answer.set_result(one)

    def _run(self, images: list[bytes]) -> list[Any]:
        BATCH.observe(len(images))
        # As predict_batch does, and fills a device's batch up to its one shape; on this thread, for the model has one.
        return list(self.model.predict_many(images, batch_size=self.size))


def refuse(status: int, code: str, message: str, **headers: str) -> HTTPException:
    """Return the error that answers a request: {"detail": {"code": ..., "message": ...}}."""
    return HTTPException(status, {"code": code, "message": message}, headers)


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body of a request; refuses one that is too long as soon as it is."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise refuse(413, "body_too_large", f"over the limit of {limit} bytes")
    return bytes(body)


async def answer(request: Request, batcher: Batcher, max_bytes: int, timeout: float) -> dict[str, Any]:
    """Return what the model says of the image in a request."""
    late = refuse(408, "timeout", f"the image was not there after {timeout:g} s")
    try:
        async with asyncio.timeout(timeout):
            image = await read_body(request, max_bytes)
            late = refuse(504, "timeout", f"the answer was not there after {timeout:g} s")
            seen = await batcher.predict(image)
    except TimeoutError:
        raise late from None
    except ClientDisconnect:
        raise refuse(400, "disconnected", "the image broke off") from None
    if seen.error:
        raise refuse(422, seen.error.code, str(seen.error))
    return {"label": seen.label, "probability": seen.probability, "probabilities": seen.probabilities}


@contextmanager
def counted() -> Iterator[None]:
    """Count a request, and its time, by its outcome."""
    code = "internal"
    try:
        with SECONDS.time():
            yield
        code = "ok"
    except HTTPException as error:
        code = error.detail["code"]
        raise
    finally:
        REQUESTS.labels(code).inc()


def create_app(
    model: medinfer.Model, *, batch: int | None, wait_ms: float, queue: int, max_bytes: int, timeout: float
) -> FastAPI:
    """Return the application; `main` says what the limits mean."""
    batcher = Batcher(model, size=batch or model.default_chunk, wait=wait_ms / 1000, queue=queue)
    app = FastAPI(title="medinfer", lifespan=batcher.running, docs_url=None, redoc_url=None)
    places = asyncio.Semaphore(queue)

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        with counted():
            if not request.headers.get("content-type", TYPES[0]).startswith(TYPES):
                raise refuse(415, "unsupported_type", "send one image's bytes as the body, and its Content-Type")
            if places.locked():  # before the body is read: what waits is bounded, and so is memory
                raise refuse(503, "busy", f"{queue} requests are waiting", **{"Retry-After": "1"})
            async with places:
                with ADMITTED.track_inprogress():
                    return await answer(request, batcher, max_bytes, timeout)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        if batcher.failure:
            raise refuse(503, "model_failed", str(batcher.failure))
        return {"name": model.spec.name, "sha256": model.sha256, "classes": model.classes, "provider": model.provider}

    @app.get("/metrics")
    async def report() -> Response:
        return Response(metrics.generate_latest(), media_type=metrics.CONTENT_TYPE_LATEST)

    return app


@click.command(context_settings={"auto_envvar_prefix": "MEDINFER", "show_default": True})
@click.argument("model", envvar="MEDINFER_MODEL")
@click.option("--provider", default="auto")
@click.option("--host", default="127.0.0.1")
@click.option("--port", default=8000, help="0 takes a free one; the log names it.")
@click.option("--batch", type=click.IntRange(1), help="Images in one run; by default 1 on a CPU, 32 on a device.")
@click.option("--wait-ms", default=5.0, help="How long a batch that is not full waits for more.")
@click.option("--queue", default=64, help="Requests at once; others are told to come again (503).")
@click.option("--max-bytes", default=32 << 20, help="Of one body (413).")
@click.option("--max-pixels", default=100_000_000, help="Of one image (422).")
@click.option("--timeout", default=30.0, help="Seconds from a request's headers to its answer (408, 504).")
def main(model: str, provider: str, max_pixels: int, host: str, port: int, **limits: Any) -> None:
    """Serve until SIGTERM; what was admitted is answered first."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # uvicorn raises the signal again once all is answered
    patience = int(limits["timeout"]) + 1
    try:
        with medinfer.load(model, provider, threads=1, max_pixels=max_pixels) as opened:
            if not (found := medinfer.verify(opened)).passes:
                raise medinfer.DisagreementError(f"{model}: not what its export tells:\n{found.as_text()}")
            app = create_app(opened, **limits)
            uvicorn.run(app, host=host, port=port, access_log=False, timeout_graceful_shutdown=patience)
    except medinfer.MedonnxError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
