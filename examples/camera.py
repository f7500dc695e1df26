"""A camera, live: what the model says of the newest frame, one line each.

    pip install "medonnx[cpu]"
    python camera.py ckpt.onnx 0                      # the first camera
    python camera.py ckpt.onnx rtsp://camera/stream   # a stream
    python camera.py ckpt.onnx film.avi               # a file: every frame, as fast as it goes

A frame that comes while another is being classified waits, and is dropped when a newer one comes: the answers never
lag, however slow the model is. Research use only; not a medical device.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import click
import cv2

import medinfer


class Newest:
    """Frames of a camera, read by a thread as they come; iterating yields (number, frame), the newest each time.

    The camera's own buffer stays empty, which is why the thread reads what nobody will look at.
    """

    def __init__(self, capture: Any) -> None:
        self.capture = capture
        self.number, self.frame, self.ended = 0, None, False
        self.change = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        going = True
        while going:
            going, frame = self.capture.read()
            with self.change:
                if going:
                    self.number, self.frame = self.number + 1, frame
                self.ended = not going
                self.change.notify()

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        seen = 0
        while True:
            with self.change:
                self.change.wait_for(lambda seen=seen: self.number > seen or self.ended)
                if self.number == seen:
                    return
                seen, frame = self.number, self.frame
            yield seen, frame


def every(capture: Any) -> Iterator[tuple[int, Any]]:
    """Yield (number, frame) for each frame of a file."""
    number = 0
    while (read := capture.read())[0]:
        number += 1
        yield number, read[1]


def watch(model: medinfer.Model, frames: Iterator[tuple[int, Any]]) -> int:
    """Print what the model says of each frame; returns how many there were."""
    count = 0
    for number, frame in frames:
        count += 1
        try:
            seen = model.predict(frame, color="bgr")  # OpenCV's order: without these words the answer would be wrong
            print(f"{number}\t{seen.label}\t{seen.probability:.4f}", flush=True)
        except medinfer.ImageError as error:
            print(f"{number}\terror\t{error.code}", flush=True)
    return count


@click.command()
@click.argument("model")
@click.argument("source")
@click.option("--provider", default="auto", show_default=True)
def main(model: str, source: str, provider: str) -> None:
    """Classify SOURCE, a camera's number, a stream's address or a video file, until it ends or Ctrl-C."""
    live = source.isdecimal() or "://" in source
    try:
        # All cores for one image: its answer comes sooner.
        with medinfer.load(model, provider, latency=True) as opened:
            capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
            count = watch(opened, iter(Newest(capture)) if live else every(capture))
            if live or not count:
                raise medinfer.UsageError(f"{source}: no {'more frames' if count else 'frame'} can be read from it")
    except medinfer.MedonnxError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
