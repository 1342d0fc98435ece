"""Clips: the frames asked for are those of a full decode, by number, in time and upright; everything else is an error.

Run: ``python -m pytest tests/test_video.py``. Clips are made here with PyAV.
"""

from __future__ import annotations

import io
import json
import os
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from internvl_detect.errors import MediaError
from internvl_detect.media import video
from internvl_detect.media.video import VideoLimits, frame_indices, open_video

FAST = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def picture(i: int, width: int, height: int) -> np.ndarray:
    """A moving ramp with a block that tells the frame's number."""
    y, x = np.mgrid[:height, :width]
    frame = np.stack([(x * 3 + i * 5) % 256, (y * 2 + i * 3) % 256, (x + y + i * 11) % 256], -1).astype(np.uint8)
    frame[8:24, 8:24] = (i * 37) % 256
    return frame


def make_clip(
    frames: int = 30,
    *,
    container: str = "mp4",
    codec: str = "libx264",
    size: tuple[int, int] = (96, 64),
    gop: int = 12,
    options: dict[str, str] | None = None,
    pts: list[int] | None = None,
    rotation: int | None = None,
    pix_fmt: str = "yuv420p",
) -> bytes:
    """A clip of ``frames`` frames at 25 per second; ``pts`` in units of 1/1000 s instead of a constant rate."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.gop_size = gop
        stream.codec_context.thread_count = 1
        if pts is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(i, *size), format="rgb24")
            frame.pts = i if pts is None else pts[i]
            frame.time_base = Fraction(1, 25) if pts is None else Fraction(1, 1000)
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return buffer.getvalue()


def full_decode(data: bytes) -> tuple[list[np.ndarray], list[float]]:
    """Every frame as PyAV gives it when it simply reads on, and its time from the first."""
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(video=0))
    times = [float((frame.pts - frames[0].pts) * frame.time_base) for frame in frames]
    return [np.asarray(frame.to_image()) for frame in frames], times


VFR = [0, 40, 50, 61, 200, 240, 700, 701, 733, 900, 1300, 1310, 1320, 1400, 2000, 2100, 2150, 2201, 2300, 2350]
CLIPS = {
    "b_frames": {"options": {"bf": "3"}},
    "no_b_frames": {"options": {"bf": "0"}},
    "long_gop": {"frames": 90, "gop": 250},
    "many_gops": {"frames": 90, "gop": 15, "options": {"bf": "2", "sc_threshold": "0"}},
    "open_gop": {"frames": 90, "gop": 15, "options": {"x264-params": "open-gop=1:scenecut=0:bframes=3"}},
    "intra_refresh": {"frames": 60, "gop": 20, "options": {"x264-params": "intra-refresh=1:bframes=0"}},
    "all_intra": {"gop": 1},
    "variable_rate": {"frames": 20, "pts": VFR, "options": {"bf": "2"}},
    "late_start": {"frames": 20, "pts": [5000 + t for t in VFR], "container": "matroska"},
    "mkv_gops": {"frames": 90, "gop": 15, "container": "matroska", "options": {"bf": "3", "sc_threshold": "0"}},
    "hevc": {"codec": "libx265", "options": {"x265-params": "log-level=none:bframes=3:keyint=20:pools=1"}},
    "hevc_open": {
        "codec": "libx265",
        "frames": 70,
        "options": {"x265-params": "log-level=none:bframes=4:keyint=16:open-gop=1:pools=1"},
    },
    "vp9": {"container": "webm", "codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "vp8_hidden_frames": {
        "container": "webm",
        "codec": "libvpx",
        "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "5"},
    },
    "mpeg_ts": {"container": "mpegts", "options": {"bf": "2"}},
    "avi_mpeg4": {"container": "avi", "codec": "mpeg4", "options": {"bf": "2"}},
    "mov_mjpeg": {"container": "mov", "codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "flv": {"container": "flv"},
}


@pytest.fixture(scope="module")
def made() -> dict[str, bytes]:
    return {name: make_clip(**how) for name, how in CLIPS.items()}


@pytest.mark.parametrize("name", CLIPS)
def test_every_frame_asked_for_is_the_one_of_a_full_decode(name: str, made: dict[str, bytes]) -> None:
    frames, times = full_decode(made[name])
    for count in (1, 3, 8, len(frames)):
        clip = open_video(made[name], frames=count)
        assert clip.total_frames == len(frames)
        assert clip.indices == frame_indices(len(frames), count)
        for index, got, time in zip(clip.indices, clip.frames, clip.times_s, strict=True):
            assert np.array_equal(np.asarray(got), frames[index]), (name, count, index)
            assert time == pytest.approx(times[index], abs=2e-3)


@pytest.mark.parametrize("name", ["many_gops", "open_gop", "mkv_gops", "long_gop", "hevc_open"])
def test_any_single_frame_can_be_reached_alone(name: str, made: dict[str, bytes]) -> None:
    frames, times = full_decode(made[name])
    for index in range(0, len(frames), 7):
        begin = index / 25
        clip = open_video(made[name], frames=1, bound=(begin, begin + 0.001))
        assert np.array_equal(np.asarray(clip.frames[0]), frames[clip.indices[0]])


def test_a_clip_with_an_index_is_not_decoded_whole(made: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("decoded everything")

    monkeypatch.setattr(video, "pick_all_through", never)
    for name in ("b_frames", "many_gops", "mkv_gops", "hevc", "vp9", "variable_rate", "late_start", "mov_mjpeg"):
        open_video(made[name], frames=4)


def test_threads_do_not_change_frames(made: dict[str, bytes]) -> None:
    one = open_video(made["many_gops"], limits=VideoLimits(threads=1))
    four = open_video(made["many_gops"], limits=VideoLimits(threads=4))
    assert [f.tobytes() for f in one.frames] == [f.tobytes() for f in four.frames]


def test_indices_are_the_originals(reference: Path) -> None:
    rows = json.loads((reference / "video_index.json").read_text())
    assert len(rows) == 327
    for row in rows:
        how = {"fps": row["fps"], "bound": row["bound"]}
        assert frame_indices(row["total_frames"], row["num_segments"], **how) == row["get_index"]
        if row["bound"] is None:
            middle = frame_indices(row["total_frames"], row["num_segments"], method="middle")
            assert middle == row["train_middle"]


def test_indices_of_known_clips() -> None:
    assert frame_indices(100, 8) == [6, 18, 31, 43, 56, 68, 80, 93]
    assert frame_indices(100, 8, method="middle") == [5, 18, 30, 43, 55, 68, 80, 93]
    assert frame_indices(3, 8) == [0, 0, 0, 1, 1, 1, 2, 2]
    assert frame_indices(300, 8, fps=25.0, bound=(0.5, 2.5)) == [15, 21, 27, 34, 40, 46, 53, 59]


@given(st.integers(1, 10_000), st.integers(1, 200), st.sampled_from(["index", "middle"]))
@FAST
def test_indices_lie_in_the_clip_and_do_not_fall(total: int, segments: int, method: str) -> None:
    indices = frame_indices(total, segments, method=method)
    assert len(indices) == segments
    assert all(0 <= a <= b < total for a, b in zip(indices, [*indices[1:], total - 1], strict=True))


@pytest.mark.parametrize("bound", [(5, 5), (3, 1), (-1, 2), (float("nan"), 2), (400, 500)])
def test_a_bound_that_is_no_stretch_of_the_clip_is_refused(bound: tuple[float, float]) -> None:
    with pytest.raises(MediaError, match="bound"):
        frame_indices(100, 8, fps=25.0, bound=bound)


def test_short_clips_repeat_frames_and_say_so() -> None:
    clip = open_video(make_clip(3), frames=8)
    assert clip.indices == [0, 0, 0, 1, 1, 1, 2, 2]
    assert clip.frames[0] is clip.frames[2]
    assert any("repeated" in note for note in clip.notes)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_applied(rotation: int) -> None:
    data = make_clip(4, rotation=rotation)
    clip = open_video(data, frames=4)
    with av.open(io.BytesIO(data)) as container:
        frame = next(container.decode(video=0))
        expected = frame.to_image().rotate(frame.rotation, expand=True)
    assert clip.indices[0] == 0 and clip.frames[0].tobytes() == expected.tobytes()
    assert (clip.width, clip.height) == ((96, 64) if rotation == 180 else (64, 96))
    assert any("display matrix" in note for note in clip.notes)


def test_ten_bits_are_stated() -> None:
    clip = open_video(make_clip(4, codec="ffv1", container="matroska", pix_fmt="yuv420p10le"), frames=1)
    assert "10 bit converted to 8 bit" in clip.notes


def test_path_bytes_and_file_give_the_same_clip(tmp_path: Path) -> None:
    data = make_clip(10)
    (tmp_path / "clip.jpg").write_bytes(data)  # the name does not matter
    from_path, from_bytes = open_video(tmp_path / "clip.jpg"), open_video(data)
    from_file = open_video(io.BytesIO(data))
    read_end, write_end = os.pipe()  # a file object that cannot seek
    os.write(write_end, data)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        from_pipe = open_video(pipe)
    assert from_path.path == str(tmp_path / "clip.jpg") and from_bytes.path is None
    for clip in (from_bytes, from_file, from_pipe):
        assert clip.sha256 == from_path.sha256 and clip.n_bytes == len(data)
        assert [f.tobytes() for f in clip.frames] == [f.tobytes() for f in from_path.frames]


def sound_only() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        for packet in [*stream.encode(frame), *stream.encode()]:
            out.mux(packet)
    return buffer.getvalue()


def test_a_clip_without_pictures_says_what_it_holds() -> None:
    with pytest.raises(MediaError, match="no picture stream.*audio"):
        open_video(sound_only())


def test_a_picture_stream_without_frames_is_refused() -> None:
    data = make_clip(1, container="matroska")
    cluster = data.find(b"\x1f\x43\xb6\x75")
    with pytest.raises(MediaError):
        open_video(data[:cluster])


def test_a_clip_cut_before_its_index_says_that_the_index_is_missing() -> None:
    data = make_clip(40)
    with pytest.raises(MediaError, match="moov"):
        open_video(data[: len(data) // 2])


def test_a_clip_cut_within_its_frames_is_refused_unless_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "front.mp4"
    source = av.open(io.BytesIO(make_clip(40)))  # the index goes to the front, so that the cut takes frames alone
    with source, av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as out:
        copy = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copy
                out.mux(packet)
    data = path.read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")
    cut = data[: int(len(data) * 0.7)]
    with pytest.raises(MediaError, match="ends early or is damaged.* of 40 frames"):
        open_video(cut)
    clip = open_video(cut, frames=4, allow_truncated=True)
    assert 1 <= clip.total_frames < 40 and any("as far as it decodes" in note for note in clip.notes)
    whole, _ = full_decode(data)
    assert np.array_equal(np.asarray(clip.frames[0]), whole[clip.indices[0]])


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (VideoLimits(max_bytes=1000), "larger than"),
        (VideoLimits(max_pixels=1000), "96x64"),
        (VideoLimits(max_duration_s=1.0), "lasts"),
        (VideoLimits(max_total_frames=10), "more than 10 frames"),
        (VideoLimits(max_frames=4), "frames asked for"),
    ],
)
def test_limits_are_kept(limits: VideoLimits, words: str) -> None:
    with pytest.raises(MediaError, match=words):
        open_video(make_clip(60), frames=8, limits=limits)


def test_what_is_no_clip_says_so(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    PILImage.new("RGB", (8, 8)).save(buffer, "PNG")
    sound = io.BytesIO()
    with wave.open(sound, "wb") as out:
        out.setnchannels(1), out.setsampwidth(2), out.setframerate(8000), out.writeframes(b"\0" * 800)
    cases = {
        b"": "empty",
        b"just words\n" * 20: "text",
        buffer.getvalue(): "picture",
        sound.getvalue(): "does not know",
        b"#EXTM3U\n#EXTINF:1,\nhttp://localhost/a.ts\n": "playlist",
        b"ffconcat version 1.0\nfile /etc/passwd\n": "text",
    }
    for data, words in cases.items():
        with pytest.raises(MediaError, match=words):
            open_video(data)
    os.mkfifo(tmp_path / "pipe.mp4")
    for path, words in ((tmp_path, "folder"), (tmp_path / "none.mp4", "not exist"), (tmp_path / "pipe.mp4", "pipe")):
        with pytest.raises(MediaError, match=words):
            open_video(path)


SMALL = {"mp4": make_clip(6, size=(32, 32)), "mkv": make_clip(6, size=(32, 32), container="matroska")}


@given(st.sampled_from(sorted(SMALL)), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=12))
@FAST
def test_damaged_clips_end_as_a_clip_or_as_a_media_error(kind: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(SMALL[kind])
    for at, value in changes:
        data[at % len(data)] = value
    try:
        clip = open_video(bytes(data), frames=3, limits=VideoLimits(threads=1))
    except MediaError:
        return
    assert len(clip.frames) == 3 and all(frame.mode == "RGB" for frame in clip.frames)


@given(st.sampled_from(sorted(SMALL)), st.floats(0, 0.999))
@FAST
def test_clips_cut_anywhere_end_as_a_clip_or_as_a_media_error(kind: str, share: float) -> None:
    data = SMALL[kind][: int(len(SMALL[kind]) * share)]
    for allow in (False, True):
        try:
            open_video(data, frames=2, allow_truncated=allow)
        except MediaError:
            continue


def test_random_bytes_behind_a_clips_first_bytes_are_a_media_error() -> None:
    rng = np.random.default_rng(0)
    for head in (SMALL["mp4"][:32], SMALL["mkv"][:48], b"RIFF\0\0\0\0AVI ", b"FLV\x01", b"OggS", b"\0\0\x01\xba"):
        with pytest.raises(MediaError):
            open_video(head + rng.bytes(3000))


def test_a_clip_that_takes_too_long_is_given_up(clip):
    path = clip(n_frames=60)
    with pytest.raises(MediaError, match="takes more than 0 s"):
        open_video(path, frames=8, limits=VideoLimits(max_read_s=0.0))
    assert len(open_video(path, frames=8, limits=VideoLimits(max_read_s=60)).frames) == 8
