"""Reach frames by number with as little decoding as the file allows.

First the packets are read without decoding: their timestamps, sorted, number the frames. Then each wanted frame is
reached from the keyframe before it, by a seek where that saves decoding, and frames that nothing else refers to are
skipped. Where timestamps do not number the frames (missing, repeated, or a frame that never comes), everything is
decoded.

Works on PyAV's containers and streams; limits and messages are ``video.py``'s.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av

from internvl_detect.errors import MediaError

SEEK_WORTH = 12  # packets of decoding that a seek must save
# Codecs whose FFmpeg decoder leaves out, exactly and at once, frames that no other frame refers to.
SKIPPING = {"h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video", "vp9"}


@dataclass(frozen=True)
class Packets:
    """What reading all packets of the picture stream told, in order of decoding.

    ``pts`` and ``dts`` are in the stream's time base; ``exact`` says that each packet has its own timestamp, so that
    the k-th smallest is frame k. ``all_packets`` counts those too that are decoded but not shown. ``broken``: why
    reading ended early, or empty.
    """

    pts: list[int]
    dts: list[int]
    keys: list[int]
    order: list[int]
    exact: bool
    all_packets: int
    duration_s: float | None
    rate: float | None
    broken: str

    def __len__(self) -> int:
        return self.all_packets if not self.order else len(self.order)

    @property
    def first_pts(self) -> int | None:
        return self.order[0] if self.order else None


def read_packets(container: Any, stream: Any, most: int) -> Packets:
    """Read, without decoding, every packet of ``stream``. Raises ``MediaError`` beyond ``most``."""
    pts: list[int] = []
    dts: list[int] = []
    keys: list[int] = []
    shown: list[int] = []
    exact, count, last, broken = True, 0, 0, ""
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            count += 1
            if count > most:
                raise MediaError(f"a clip of more than {most} frames", expected=f"at most {most} frames")
            if packet.is_corrupt:
                broken = broken or f"packet {count} is damaged"
            if packet.pts is None:
                exact = False
                continue
            if packet.is_keyframe:
                keys.append(len(pts))
            pts.append(packet.pts)
            dts.append(packet.pts if packet.dts is None else packet.dts)
            last = packet.duration or last
            if not packet.is_discard:
                shown.append(packet.pts)
    except av.FFmpegError as error:
        broken = f"reading stops after {count} packets: {error.strerror or error}"
    order = sorted(shown)
    exact = exact and bool(keys) and keys[0] == 0 and len(set(pts)) == len(pts) and bool(order)
    base = float(stream.time_base)
    duration = rate = None
    if len(order) > 1 and order[-1] > order[0]:
        mean = (order[-1] - order[0]) / (len(order) - 1)
        duration, rate = (order[-1] - order[0] + (last or mean)) * base, 1 / (mean * base)
    return Packets(pts, dts, keys, order if exact else [], exact, count, duration, rate, broken)


def pick_by_index(
    container: Any, stream: Any, packets: Packets, indices: list[int], *, seek: bool
) -> dict[int, av.VideoFrame] | None:
    """{index: frame} for the wanted indices; None when a frame did not come as its timestamp promised.

    Without ``seek`` the container must be freshly opened; it is read from its start as far as needed.
    """
    wanted = {packets.order[i]: i for i in indices}
    key_pts = [packets.pts[k] for k in packets.keys]
    rising = all(a < b for a, b in zip(key_pts, key_pts[1:], strict=False))
    picked: dict[int, av.VideoFrame] = {}
    walk = _Walk(container, stream, packets, wanted)
    try:
        for pts in sorted(wanted):
            if wanted[pts] in picked:
                continue
            key = packets.keys[bisect_right(key_pts, pts) - 1] if rising and pts >= key_pts[0] else 0
            if seek and (walk.at is None or key - walk.at >= SEEK_WORTH):
                walk.seek(key)
            elif walk.at is None or key > walk.at:
                walk.drop_until(key)
            for frame in walk.until(pts):
                if frame.pts in wanted:
                    picked[wanted[frame.pts]] = frame
            if wanted[pts] not in picked:
                return None
    except (av.FFmpegError, LookupError):
        return None
    return picked


class _Walk:
    """Feeds packets to the decoder from some keyframe on. ``at`` is the number of the next packet, None before any."""

    def __init__(self, container: Any, stream: Any, packets: Packets, wanted: dict[int, int]) -> None:
        self.container, self.stream, self.packets, self.wanted = container, stream, packets, wanted
        self.context = stream.codec_context
        self.skipping = self.context.name in SKIPPING
        self.number = {pts: n for n, pts in enumerate(packets.pts)}
        self.at: int | None = None
        self.read: Iterator[Any] = container.demux(stream)
        self.feed: Iterator[Any] = iter(())

    def seek(self, key: int) -> None:
        """Go on from packet ``key`` by a seek; ``until`` raises ``LookupError`` when the container landed behind it."""
        by_dts = self.container.format.name.startswith("mov")  # what each container's index is sorted by
        where = self.packets.dts[key] if by_dts else self.packets.pts[key]
        self.container.seek(where, stream=self.stream, backward=True)
        self.read = self.container.demux(self.stream)
        self.drop_until(key)

    def drop_until(self, key: int) -> None:
        """Go on from packet ``key``, reading those before it without decoding them."""
        self.context.flush_buffers()
        self.feed, self.at = self._packets_from(key), key

    def until(self, pts: int) -> Iterator[av.VideoFrame]:
        """Frames in order of showing, up to and including the one of this timestamp, or to the end of the clip."""
        there = False
        for packet in self.feed:
            if packet.size and self.skipping:
                self.context.skip_frame = "DEFAULT" if packet.pts in self.wanted else "NONREF"
            for frame in self.context.decode(packet if packet.size else None):
                yield frame
                there = there or frame.pts == pts
            if there:
                return

    def _packets_from(self, key: int) -> Iterator[Any]:
        waiting = True
        for packet in self.read:
            if waiting:
                number = self.number.get(packet.pts, -1) if packet.size else len(self.number)
                if number > key:
                    raise LookupError("landed behind the keyframe")
                if number < key:
                    continue
                waiting = False
            if packet.size:
                self.at = self.number[packet.pts] + 1
            yield packet


def pick_all_through(
    container: Any, stream: Any, wanted: set[int], most: int
) -> tuple[dict[int, av.VideoFrame], int, int, int | None]:
    """Decode a freshly opened container to its end.

    ({index: frame}, frames in all, packets after the first frame that could not be decoded, first frame's timestamp).
    """
    context = stream.codec_context
    picked: dict[int, av.VideoFrame] = {}
    count = damaged = 0
    first: int | None = None
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except av.FFmpegError:
            damaged += 1
            break
        try:
            frames = context.decode(packet if packet.size else None)
        except av.EOFError:
            break
        except av.FFmpegError:
            damaged += count > 0
            continue
        for frame in frames:
            first = frame.pts if count == 0 else first
            if count in wanted:
                picked[count] = frame
            count += 1
            if count > most:
                raise MediaError(f"a clip of more than {most} frames", expected=f"at most {most} frames")
    return picked, count, damaged, first
