"""The HTTP service gives the library's answers, refuses what is bad with a code, keeps its limits, and ends well."""

import asyncio
import importlib.util
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import cv2
import httpx2
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import medinfer

SERVICE = Path(__file__).parents[2] / "examples/service.py"
MAX_BYTES = 200_000
LIMITS = ("--max-bytes", str(MAX_BYTES), "--max-pixels", "1000000", "--queue", "1000")
PNG = {"Content-Type": "image/png"}
SECRET = b"SECRET-NAME-OF-A-PATIENT " * 9


class Server:
    """The service as a process of its own, on a free port of this machine."""

    def __init__(self, model, *options, **environment):
        self.process = subprocess.Popen(
            [sys.executable, SERVICE, *map(str, model), "--provider", "cpu", "--port", "0", *options],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.log = ""
        for line in self.process.stdout:
            self.log += line
            if "running on" in line:
                self.port = int(line.split("127.0.0.1:")[1].split()[0])
                return
        raise AssertionError(self.log)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def metrics(self):
        families = text_string_to_metric_families(httpx2.get(f"{self.url}/metrics").text)
        samples = [sample for family in families for sample in family.samples]
        return {sample.name + "".join(sample.labels.values()): sample.value for sample in samples}

    def half_a_request(self, body):
        """Send the headers of a request and half of its body; returns the connection."""
        connection = socket.create_connection(("127.0.0.1", self.port))
        head = f"POST /predict?name=SECRET HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[: len(body) // 2])
        return connection

    def lets_nobody_in(self):
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except OSError:
            return True
        return False

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.log += self.process.communicate(timeout=60)[0]
        return self.process.returncode


@contextmanager
def running(model, *options, **environment):
    server = Server(model, *options, **environment)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="module")
def server(tiny_model):
    with running([tiny_model], *LIMITS) as server:
        yield server


def until(condition):
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came true")


def read_to_the_end(connection):
    """Return an answer's status and body, once the server has closed."""
    with connection, connection.makefile("rb") as stream:
        head, _, body = stream.read().partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def png_of(width, height):
    """Return the head of a PNG that promises so many pixels, and holds none."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def encoded(kind, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return cv2.imencode(kind, cv2.resize(pixels, (60, 50)))[1].tobytes()


def bodies(count):
    """Return so many images, a twentieth of them garbage of six kinds; at least one of each."""
    promises = png_of(50_000, 50_000), png_of(2000, 2000)  # over what medinfer takes by default, and over this limit
    garbage = [b"", SECRET, encoded(".jpg", 0)[:-400], *promises, bytes(MAX_BYTES + 1)]
    bad = max(count // 20, len(garbage))
    good = [encoded((".png", ".jpg", ".bmp")[i % 3], i) for i in range(count - bad)]
    mixed = [*good, *(garbage[i % len(garbage)] for i in range(bad))]
    return [mixed[i] for i in np.random.default_rng(0).permutation(count)]


def library(model, body):
    """Return the status and the content that the library's own answer makes."""
    if len(body) > MAX_BYTES:
        return 413, "body_too_large"
    (seen,) = model.predict_batch([body])
    if seen.error:
        return 422, seen.error.code
    return 200, {"label": seen.label, "probability": seen.probability, "probabilities": seen.probabilities}


def told(response):
    content = response.json()
    return response.status_code, content if response.status_code == 200 else content["detail"]["code"]


async def ask_at_once(url, bodies):
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=120) as client:
        asked = (client.post("/predict", content=body, headers=PNG) for body in bodies)
        return [told(response) for response in await asyncio.gather(*asked)]


@pytest.mark.parametrize("count", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_each_answer_under_load_is_the_librarys_and_each_bad_image_has_its_code(server, tiny_model, count):
    sent = bodies(count)
    before = server.metrics()
    found = asyncio.run(ask_at_once(server.url, sent))
    model = medinfer.load(tiny_model, "cpu", max_pixels=1_000_000)
    assert found == [library(model, body) for body in sent]
    codes = [content for status, content in found if status != 200]
    assert set(codes) == {"empty_file", "not_an_image", "truncated", "too_large", "body_too_large"}
    after = server.metrics()
    for code in (*set(codes), "ok"):
        name = f"medinfer_requests_total{code}"
        assert after[name] - before.get(name, 0) == (codes.count(code) or count - len(codes))
    assert after["medinfer_requests_in_progress"] == after["medinfer_queue_length"] == 0


@pytest.mark.slow
def test_memory_does_not_grow_with_requests(server):
    def resident(rounds):
        for _ in range(rounds):
            asyncio.run(ask_at_once(server.url, bodies(200)))
        return server.metrics()["process_resident_memory_bytes"] / 2**20

    warm = resident(5)
    later = resident(10)
    print(f"{warm:.1f} MB after 1,000 requests, {later:.1f} MB after 2,000 more")
    assert later - warm < 10


def test_a_body_is_refused_as_soon_as_it_is_too_long_and_not_once_it_is_there(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n")
        connection.sendall(b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(1 + MAX_BYTES // 4096):  # and no last chunk: the sender is not done
            connection.sendall(b"1000\r\n" + bytes(4096) + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")


def test_health_names_the_model_that_runs(server, tiny_model):
    assert httpx2.get(f"{server.url}/health").json() == {
        "name": "tiny",
        "sha256": medinfer.load(tiny_model, "cpu").sha256,
        "classes": ["red", "green", "blue"],
        "provider": "cpu",
    }


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain"])
def test_what_is_not_sent_as_an_image_is_refused(server, kind):
    response = httpx2.post(f"{server.url}/predict", content=encoded(".png", 1), headers={"Content-Type": kind})
    assert told(response) == (415, "unsupported_type")


def test_requests_in_flight_are_answered_after_sigterm_and_nothing_of_an_image_is_logged(tiny_model):
    images = [encoded(".png", seed) for seed in range(20)] + [SECRET]
    model = medinfer.load(tiny_model, "cpu")
    # Nothing on the command line but the model: the other settings are the environment's.
    with running([], MEDINFER_MODEL=str(tiny_model), MEDINFER_QUEUE=str(len(images))) as server:
        connections = [server.half_a_request(image) for image in images]
        until(lambda: server.metrics()["medinfer_requests_in_progress"] == len(images))
        one_more = httpx2.post(f"{server.url}/predict", content=images[0], headers=PNG)
        assert told(one_more) == (503, "busy")
        assert one_more.headers["Retry-After"] == "1"
        server.process.send_signal(signal.SIGTERM)
        until(server.lets_nobody_in)
        for connection, image in zip(connections, images, strict=True):
            connection.sendall(image[len(image) // 2 :])
        answers = [read_to_the_end(connection) for connection in connections]
        assert server.stop() == 143
    found = [told(httpx2.Response(status, content=body)) for status, body in answers]
    assert found == [library(model, image) for image in images]
    assert "SECRET" not in server.log


def test_the_port_stays_shut_where_the_golden_samples_do_not_replay(build_model, tmp_path):
    path = build_model(tmp_path / "other.onnx", golden=True, matrix=np.float32([[1, 2, 3], [3, 1, 2], [2, 3, 1]]))
    command = [sys.executable, SERVICE, path, "--provider", "cpu", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 6
    assert "golden samples" in done.stderr
    assert "running on" not in done.stderr


class Model:
    """Stands in for a model that can be held up and made to fail."""

    default_chunk = 1

    def __init__(self):
        self.free = threading.Event()
        self.failure = None
        self.batches = []

    def predict_many(self, images, batch_size):
        assert self.free.wait(60)
        if self.failure:
            raise self.failure
        self.batches.append(list(images))
        return (medinfer.Prediction(None, ("a", "b"), np.float32([0, len(image)])) for image in images)


@pytest.fixture(scope="module")
def service():
    spec = importlib.util.spec_from_file_location("service", SERVICE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def inside(app):
    """Run the application in this process; yields what posts a body."""
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://x") as client,
    ):
        yield client


def test_images_that_come_together_run_as_one_batch_and_each_gets_its_own_answer(service):
    model = Model()
    model.free.set()

    async def ask():
        # It would wait for an hour, but that it fills up.
        app = service.create_app(model, batch=4, wait_ms=3.6e6, queue=9, max_bytes=99, timeout=20)
        async with inside(app) as client:
            posts = []
            for count in (1, 2, 3, 4):
                posts.append(asyncio.create_task(client.post("/predict", content=b"x" * count)))
                await asyncio.sleep(0.01)  # together, and yet one after the other
            return await asyncio.gather(*posts)

    answers = asyncio.run(ask())
    assert [answer.json()["probability"] for answer in answers] == [1, 2, 3, 4]
    assert [len(batch) for batch in model.batches] == [4]


def test_a_batch_that_does_not_fill_up_runs_all_the_same(service):
    model = Model()
    model.free.set()

    async def ask():
        async with inside(service.create_app(model, batch=4, wait_ms=1, queue=9, max_bytes=9, timeout=60)) as client:
            return await client.post("/predict", content=b"xx")

    assert asyncio.run(ask()).json()["probability"] == 2


def test_an_answer_that_does_not_come_in_time_is_a_504_and_an_image_a_408(service):
    model = Model()

    async def slow_body():
        yield b"x"
        await asyncio.sleep(60)

    async def ask():
        async with inside(service.create_app(model, batch=1, wait_ms=1, queue=9, max_bytes=9, timeout=0.1)) as client:
            late = await client.post("/predict", content=b"x")
            never = await client.post("/predict", content=slow_body())
            model.free.set()
            return told(late), told(never)

    assert asyncio.run(ask()) == ((504, "timeout"), (408, "timeout"))


def test_nobody_waits_for_ever_when_the_model_fails_and_health_tells(service):
    model = Model()
    model.free.set()
    model.failure = medinfer.ProviderError("cuda: the device was lost")

    async def ask():
        async with inside(service.create_app(model, batch=1, wait_ms=1, queue=9, max_bytes=9, timeout=60)) as client:
            failed = await client.post("/predict", content=b"x")
            health = await client.get("/health")
            model.failure = None
            return failed.status_code, told(health), (await client.post("/predict", content=b"xxx")).status_code

    assert asyncio.run(ask()) == (500, (503, "model_failed"), 200)
