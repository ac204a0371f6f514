"""Who writes the log: a thread, so that no request waits for whoever reads it.

Lines that find the queue full are counted and given up. Knows nothing of what stands in a line.
"""

from __future__ import annotations

import os
import queue
import select
import threading
import time

QUEUED = 10_000  # lines
PIECE = 64 * 1024  # bytes that are written at once
PAUSE = 0.02  # seconds from a line to its writing


class Sink:
    """Writes lines to a file descriptor from a thread of its own; a full queue costs lines, never time.

    `size` is the most lines that wait.
    """

    def __init__(self, descriptor: int, size: int = QUEUED) -> None:
        self._descriptor = descriptor
        self._size = size
        self._thread: threading.Thread | None = None
        self.begin()

    def begin(self) -> None:
        """Write from a thread, nothing dropped so far."""
        self.dropped = 0
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Queue `line`, or count it as dropped."""
        if self._thread is None:
            self._write_now(line)
            return
        if self._lines.qsize() < self._size:
            self._lines.put(line)
        else:
            self.dropped += 1

    def close(self, seconds: float = 1.0) -> None:
        """Write what is queued, waiting at most `seconds` for a reader that is slow or gone; then without a thread."""
        if self._thread is None:
            return
        self._lines.put(None)
        self._thread.join(seconds)
        if not self._thread.is_alive():
            self._thread = None

    def _write_now(self, line: bytes) -> None:
        """Write as much as the reader takes at once: a process that forks has no thread, and waits for nobody."""
        waiting = select.poll()
        waiting.register(self._descriptor, select.POLLOUT)
        try:
            if waiting.poll(0):
                os.write(self._descriptor, line)
                return
        except OSError:
            pass
        self.dropped += 1

    def _run(self) -> None:
        more = True
        while more:
            lines, more = self._gathered()
            try:
                self._write_all(b"".join(lines))
            except OSError:
                self.dropped += len(lines)

    def _gathered(self) -> tuple[list[bytes], bool]:
        """Wait for a line and take what came with it; False where that was the last.

        Each turn that this thread takes of the interpreter is one that requests wait for: it takes fifty a second.
        """
        lines: list[bytes] = []
        size = 0
        line = self._lines.get()
        if line is not None:
            time.sleep(PAUSE)
        while line is not None:
            lines.append(line)
            size += len(line)
            if size >= PIECE or self._lines.empty():
                return lines, True
            line = self._lines.get()
        return lines, False

    def _write_all(self, text: bytes) -> None:
        rest = memoryview(text)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])
