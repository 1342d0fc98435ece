"""Open a clip from a stranger: a few exact frames with their times, upright RGB, within limits, decoding little.

FFmpeg (through PyAV) is given a file object and a container format told by content, so it opens no URL, no playlist and
no second file. The frames are those that decoding everything would give, by number, whatever way they are reached.
Not here: animated GIF and WebP (pictures, ``image.py``), sound, judging.

    clip = open_video("clip.mp4", frames=8)
    clip.frames, clip.times_s, clip.notes
"""

from __future__ import annotations

import io
import math
import time
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

import av
from PIL import Image as PILImage

from internvl_detect.errors import MediaError
from internvl_detect.media.clip_decode import Packets, pick_all_through, pick_by_index, read_packets
from internvl_detect.media.clip_facts import lacks_moov, upright
from internvl_detect.media.clip_time import Timed
from internvl_detect.media.sampling import frame_indices
from internvl_detect.media.source import (
    HEAD,
    Source,
    check_size,
    clip_format,
    describe,
    name_of,
    open_source,
    picture_format,
    read_source,
    sha256_of,
)

__all__ = ["Clip", "VideoLimits", "frame_indices", "open_video"]

BUFFER = 1 << 18
SEEKABLE = ("mov", "matroska")  # containers with an index of keyframes
ATTACHED_PICTURE = av.stream.Disposition.attached_pic


@dataclass(frozen=True)
class VideoLimits:
    """What a clip may cost: bytes, pixels of one frame, length, frames in the file, frames asked for, threads, and
    ``max_read_s`` seconds of reading and decoding."""

    max_bytes: int = 2 * 2**30
    max_pixels: int = 40_000_000
    max_duration_s: float = 3600.0
    max_total_frames: int = 500_000
    max_frames: int = 512
    threads: int = 2
    max_read_s: float = 300.0


@dataclass(frozen=True)
class Clip:
    """Frames of a clip. ``indices`` number them in the order of showing, from 0; ``times_s`` counts from frame 0.

    A frame asked for more than once (clips shorter than the number of frames asked for) is the same object each time.
    ``width`` and ``height`` are upright pixels, ``fps`` the mean rate, ``total_frames`` the frames that are shown.
    """

    frames: list[PILImage.Image]
    indices: list[int]
    times_s: list[float]
    width: int
    height: int
    fps: float
    duration_s: float
    total_frames: int
    codec: str
    n_bytes: int
    sha256: str
    notes: tuple[str, ...] = ()
    path: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    kind: Literal["video"] = field(default="video", init=False)


def open_video(
    source: Source,
    *,
    frames: int = 8,
    limits: VideoLimits | None = None,
    bound: tuple[float, float] | None = None,
    method: str = "index",
    allow_truncated: bool = False,
) -> Clip:
    """``frames`` frames of a clip, chosen by ``frame_indices``; ``bound`` = (from, to) in seconds.

    Raises ``MediaError`` for what is no clip, has no picture stream or no frames, breaks off, or exceeds ``limits``.
    With ``allow_truncated`` a clip that breaks off is taken as far as it decodes, and ``notes`` says so.
    """
    limits = limits or VideoLimits()
    if not 1 <= frames <= limits.max_frames:
        raise MediaError(f"{frames} frames asked for", expected=f"1 to {limits.max_frames}")
    name = name_of(source)
    file, path, ours = open_source(source)
    try:
        if path is None and not _seekable(file):
            file = io.BytesIO(read_source(file, limits.max_bytes)[0])
        size = file.seek(0, io.SEEK_END)
        check_size(size, limits.max_bytes, name)
        file.seek(0)
        head = file.read(HEAD)
        demuxer = _demuxer(head, name)
        digest = sha256_of(file)
        try:
            return _Reader(file, name, demuxer, limits, allow_truncated).clip(frames, bound, method, size, digest, path)
        except MediaError:
            raise
        except Exception as error:  # noqa: BLE001 - a decoder fed hostile bytes may raise anything at all
            raise MediaError(f"{name} is a broken clip: {_words(error)}", expected="a whole clip") from None
    finally:
        if ours:
            file.close()


class _Reader:
    """One open file on its way to a ``Clip``."""

    def __init__(self, file: BinaryIO, name: str, demuxer: str, limits: VideoLimits, allow_truncated: bool) -> None:
        self.file, self.name, self.demuxer, self.limits = file, name, demuxer, limits
        self.allow_truncated = allow_truncated
        self.notes: list[str] = []
        self.start: int | None = None  # timestamp of frame 0
        self.deadline = time.monotonic() + limits.max_read_s

    def clip(
        self, count: int, bound: tuple[float, float] | None, method: str, size: int, digest: str, path: str | None
    ) -> Clip:
        with self._open() as container:
            stream = self._stream(container)
            packets = read_packets(container, stream, self.limits.max_total_frames)
            self._check_packets(container, stream, packets)
            rate = _rate(stream, packets)
            total = len(packets)
            self.start = packets.first_pts
            picked: dict[int, av.VideoFrame] | None = None
            if packets.exact and not packets.broken:
                indices = frame_indices(total, count, fps=rate, bound=bound, method=method)
                picked = self._pick(container, stream, packets, indices)
            if picked is None:
                picked, indices, total = self._decode_everything(packets, count, bound, method, rate)
            shown = {i: self._picture(frame) for i, frame in sorted(picked.items())}
            times = self._times(stream, picked, indices, rate)
            first = shown[indices[0]]
            if len({picture.size for picture in shown.values()}) > 1:
                self.notes.append("the frame size changes within the clip")
            if total < count:
                self.notes.append(f"{total} frames for {count} asked: some are repeated")
            return Clip(
                frames=[shown[i] for i in indices],
                indices=indices,
                times_s=times,
                width=first.width,
                height=first.height,
                fps=rate,
                duration_s=packets.duration_s or total / rate,
                total_frames=total,
                codec=stream.codec_context.name,
                n_bytes=size,
                sha256=digest,
                notes=tuple(dict.fromkeys(self.notes)),
                path=path,
                metadata={
                    **_tags(container, stream),
                    "container": self.demuxer,
                    "pixel_format": stream.codec_context.pix_fmt,
                },
            )

    def _open(self) -> Any:
        self.file.seek(0)
        try:
            return av.open(
                Timed(self.file, self.deadline, f"{self.name} takes more than {self.limits.max_read_s:g} s to read"),
                mode="r",
                format=self.demuxer,
                options={"protocol_whitelist": "none", "format_whitelist": _whitelist(self.demuxer)},
                metadata_errors="ignore",
                buffer_size=BUFFER,
                io_open=_refuse,
            )
        except MediaError:
            raise
        except Exception as error:  # noqa: BLE001 - see open_video
            no_index = self.demuxer == "mov" and lacks_moov(self.file)
            words = "its index (moov) is missing, so it was cut short" if no_index else _words(error)
            raise MediaError(f"{self.name} is a broken {self.demuxer} clip: {words}", expected="a whole clip") from None

    def _stream(self, container: Any) -> Any:
        streams = [s for s in container.streams.video if not s.disposition & ATTACHED_PICTURE]
        if not streams:
            held = sorted({s.type for s in container.streams}) or ["nothing"]
            raise MediaError(f"{self.name} has no picture stream (it holds {', '.join(held)})", expected="a video")
        stream = max(streams, key=lambda s: (s.width or 0) * (s.height or 0))
        context = stream.codec_context
        if context is None:
            raise MediaError(
                f"{self.name} uses a codec that this build of FFmpeg cannot decode", do="Convert it to H.264"
            )
        width, height = context.width, context.height
        if width * height > self.limits.max_pixels:
            expected = f"at most {self.limits.max_pixels / 1e6:.6g} megapixels a frame"
            raise MediaError(f"{self.name} has frames of {width}x{height} px", expected=expected)
        context.options = {"max_pixels": str(self.limits.max_pixels)}
        context.thread_count = max(1, self.limits.threads)
        context.thread_type = "AUTO"
        return stream

    def _check_packets(self, container: Any, stream: Any, packets: Packets) -> None:
        if not len(packets):
            raise MediaError(f"{self.name} has a picture stream without frames", expected="at least one frame")
        limit = self.limits.max_duration_s
        stated = (container.duration or 0) / av.time_base
        for seconds in (packets.duration_s or 0.0, 0.0 if packets.duration_s else stated):
            if seconds > limit:
                raise MediaError(f"{self.name} lasts {seconds:.0f} s", expected=f"at most {limit:g} s")
        promised = stream.frames or 0
        if packets.broken or promised > packets.all_packets + 1:
            there = f"{len(packets)} of {promised} frames" if promised > len(packets) else f"{len(packets)} frames"
            self._broken(f"the file ends early or is damaged: it holds {there}" + _because(packets.broken))

    def _broken(self, what: str) -> None:
        if not self.allow_truncated:
            do = "Get the file again, or allow truncated files to use what is there"
            raise MediaError(f"{self.name}: {what}", expected="a whole clip", do=do)
        self.notes.append(f"{what}: taken as far as it decodes")

    def _pick(
        self, container: Any, stream: Any, packets: Packets, indices: list[int]
    ) -> dict[int, av.VideoFrame] | None:
        if self.demuxer in SEEKABLE:
            return pick_by_index(container, stream, packets, indices, seek=True)
        with self._open() as afresh:
            return pick_by_index(afresh, self._stream(afresh), packets, indices, seek=False)

    def _decode_everything(
        self, packets: Packets, count: int, bound: Any, method: str, rate: float
    ) -> tuple[dict[int, av.VideoFrame], list[int], int]:
        """Where packets do not tell the frames' numbers: guess, decode all, and once more if the count was another."""
        total, most = len(packets), self.limits.max_total_frames
        for _ in range(2):
            indices = frame_indices(total, count, fps=rate, bound=bound, method=method)
            with self._open() as container:
                stream = self._stream(container)
                picked, found, damaged, self.start = pick_all_through(container, stream, set(indices), most)
            if damaged:
                self._broken(f"{damaged} packets cannot be decoded")
            if not found:
                raise MediaError(f"{self.name} has a picture stream of which no frame decodes", expected="a whole clip")
            if found == total:
                return picked, indices, total
            total = found
        raise MediaError(f"{self.name} decodes to another number of frames each time", expected="a whole clip")

    def _picture(self, frame: av.VideoFrame) -> PILImage.Image:
        if frame.width * frame.height > self.limits.max_pixels:
            raise MediaError(f"{self.name} has frames of {frame.width}x{frame.height} px", expected="smaller frames")
        if frame.interlaced_frame:
            self.notes.append("interlaced; fields not separated")
        depth = max((part.bits for part in frame.format.components), default=8)
        if depth > 8:
            self.notes.append(f"{depth} bit converted to 8 bit")
        if frame.is_corrupt:
            self.notes.append("the decoder had to guess parts of a frame")
        picture = frame.to_image()
        turn, said = upright(frame)
        if said:
            self.notes.append(said)
        return picture if turn is None else picture.transpose(turn)

    def _times(self, stream: Any, picked: dict[int, Any], indices: list[int], rate: float) -> list[float]:
        start = self.start
        if start is None or any(frame.pts is None for frame in picked.values()):
            self.notes.append("no timestamps; times are frame number / frame rate")
            return [i / rate for i in indices]
        base = float(stream.time_base)
        return [max(0.0, (picked[i].pts - start) * base) for i in indices]


def _demuxer(head: bytes, name: str) -> str:
    found = clip_format(head)
    if found:
        return found
    picture = picture_format(head)
    if picture:
        raise MediaError(f"{name} is a picture ({picture})", expected="a clip", do="Open it as a picture")
    expected = "MP4/MOV, Matroska/WebM, AVI, MPEG-TS or PS, FLV, Ogg or ASF, told by content, not by the name"
    raise MediaError(f"{name} is {describe(head)}", expected=expected)


def _whitelist(demuxer: str) -> str:
    """The demuxer's full name, which FFmpeg compares as a whole."""
    return {"mov": "mov,mp4,m4a,3gp,3g2,mj2", "matroska": "matroska,webm"}.get(demuxer, demuxer)


def _refuse(url: str, flags: int, options: dict[str, str]) -> Any:
    raise PermissionError("a clip that refers to another file")


def _seekable(file: BinaryIO) -> bool:
    try:
        return bool(file.seekable())
    except Exception:  # noqa: BLE001 - a file-like object of any kind
        return False


def _rate(stream: Any, packets: Packets) -> float:
    """Mean frames per second: as the container says, else from the timestamps, else 25."""
    for rate in (stream.average_rate, packets.rate, stream.guessed_rate):
        if rate and math.isfinite(float(rate)) and 0 < float(rate) <= 10_000:
            return float(rate)
    return 25.0


def _tags(container: Any, stream: Any) -> dict[str, Any]:
    held = {"tags": container.metadata, "stream_tags": stream.metadata}
    return {name: {str(k)[:200]: str(v)[:4096] for k, v in list(tags.items())[:200]} for name, tags in held.items()}


def _because(words: str) -> str:
    return f" ({words})" if words else ""


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return text or type(error).__name__
