"""Streams and events of pretended GPUs: what a stream is to deliver to the host is there once it is waited for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Wait = Callable[[str], None]
"""Notes that the host waits for what is named."""


class Stream:
    """A stream of one GPU."""

    def __init__(self, device: torch.device, wait: Wait) -> None:
        self.device, self.wait = device, wait
        self.under_way: list[tuple[Tensor, Tensor]] = []  # what is not delivered yet: where to, and the values
        self.delivered = 0  # so many copies were

    def deliver(self, values: Tensor, target: Tensor) -> Tensor:
        """``target`` on the host, which will have the values; it is NaN until then, or 0 if of integers."""
        target.fill_(torch.nan if target.is_floating_point() else 0)
        self.under_way.append((target, values))
        return target

    def land(self, until: int | None = None) -> None:
        """Deliver what is under way, or as much of it as the stream had been given after ``until`` copies."""
        count = len(self.under_way) if until is None else max(until - self.delivered, 0)
        for target, values in self.under_way[:count]:
            target.copy_(values)
        del self.under_way[:count]
        self.delivered += count

    def synchronize(self) -> None:
        self.wait("stream")
        self.land()

    def record_event(self) -> "Event":
        event = Event(self.wait)
        event.record(self)
        return event


class Event:
    """What may be waited for: that a stream has delivered all it had been given when the event was recorded."""

    def __init__(self, wait: Wait) -> None:
        self.wait = wait
        self.stream: Stream | None = None
        self.until = 0

    def record(self, stream: Stream) -> None:
        self.stream, self.until = stream, stream.delivered + len(stream.under_way)

    def query(self) -> bool:
        """Whether it was all delivered; nobody waits for it."""
        return self.stream is None or self.stream.delivered >= self.until

    def synchronize(self) -> None:
        if self.stream is not None and not self.query():
            self.wait("event")
            self.stream.land(self.until)


class Streams:
    """All streams, and which is the current one of each GPU."""

    def __init__(self, wait: Wait) -> None:
        self.wait, self.device = wait, 0  # the current GPU
        self.known: list[Stream] = []
        self.chosen: dict[torch.device, Stream] = {}

    def kind(self, named: Callable[[Any], torch.device]) -> type[Stream]:
        """``torch.cuda.Stream``: a class, for it stands in annotations. ``named`` gives devices their full name."""

        class NewStream(Stream):
            def __init__(stream, device: Any = None, priority: int = 0) -> None:
                super().__init__(named(device), self.wait)
                self.known.append(stream)

        return NewStream

    def current(self, device: torch.device) -> Stream:
        """The stream on which a GPU computes now."""
        if device not in self.chosen:
            self.chosen[device] = Stream(device, self.wait)
            self.known.append(self.chosen[device])
        return self.chosen[device]

    def of(self, device: torch.device) -> list[Stream]:
        """All streams of a GPU."""
        return [stream for stream in self.known if stream.device == device]

    @contextmanager
    def on_device(self, index: int) -> Iterator[None]:
        """Another current GPU, while the context lasts."""
        before, self.device = self.device, index
        try:
            yield
        finally:
            self.device = before

    @contextmanager
    def on_stream(self, stream: Stream) -> Iterator[None]:
        """Another current stream of its GPU, which becomes the current GPU, while the context lasts."""
        before, self.chosen[stream.device] = self.current(stream.device), stream
        try:
            with self.on_device(stream.device.index):
                yield
        finally:
            self.chosen[stream.device] = before
