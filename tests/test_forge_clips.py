"""Claims about forged clips, and about the autoencoder that travels to the processes."""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_forge import photograph
from test_forge_folder import records_of, save_photographs

from internvl_detect.data.forge import clips, facts_of, facts_of_record, forge_clip, forge_folder, words_of
from internvl_detect.data.forge.clips import read_frames, shifted, track
from internvl_detect.data.manifest import read_manifest
from internvl_detect.data.samples.sample_clip import make_clip
from internvl_detect.errors import CheckpointError, ConfigError, MediaError
from internvl_detect.media.video import open_video
from internvl_detect.train.rebuild import Rebuilder, load_autoencoder, rebuild


def small_autoencoder(folder: Path) -> tuple[str, str]:
    def conv(name: str, out: int, inp: int, bias: bool = True) -> dict[str, torch.Tensor]:
        weight = {f"{name}.weight": torch.randn(out, inp, 3, 3) * 0.1}
        return weight | ({f"{name}.bias": torch.full((out,), 0.1)} if bias else {})

    torch.manual_seed(0)
    encoder = conv("0", 8, 3) | conv("1", 8, 8, bias=False) | conv("2", 4, 8)
    decoder = conv("1", 8, 4) | conv("3", 8, 8) | conv("5", 8, 8, bias=False) | conv("6", 3, 8)
    for name, state in (("e", encoder), ("d", decoder)):
        save_file(state, str(folder / name))
    return str(folder / "e"), str(folder / "d")


def test_an_autoencoder_travels_as_two_paths_and_marks_what_it_made(tmp_path):
    paths = small_autoencoder(tmp_path)
    net = Rebuilder(*paths).checked()
    assert len(ForkingPickler.dumps(net)) < 1000
    threads = torch.get_num_threads()
    assert np.array_equal(net(photograph()), rebuild(load_autoencoder(*paths), photograph()))
    assert torch.get_num_threads() == threads
    methods = ["rebuild", "decoder_removal", "rebuild_whole"]
    options = {"methods": methods, "rebuild": net, "per_photo": 4, "size": 160, "workers": 1}
    result = forge_folder([save_photographs(tmp_path / "mine", 2)], tmp_path / "out", **options)
    tags = {row.generator: (row.label, row.domain_tag, bool(row.mask)) for row in read_manifest(result.manifest)}
    assert tags["rebuild"] == tags["decoder_removal"] == ("tampered", "aigc_editing", True)
    assert tags["rebuild_whole"] == ("ai_generated", "ai_generated", False)
    with pytest.raises(CheckpointError, match="nowhere"):
        Rebuilder(str(tmp_path / "nowhere"), paths[1]).checked()


def test_a_clip_differs_from_its_twin_in_the_stretch_that_its_words_name_and_nowhere_else(tmp_path):
    source = make_clip(photograph(200, 300), tmp_path / "pan.mp4", seconds=2, size_wh=(160, 128), edited_s=(9, 9))
    for method in ("splice", "rebuild_whole"):
        paths = [tmp_path / f"{method}_{name}.mp4" for name in ("fake", "real")]
        options = {"method": method, "donor": photograph(150, 150, 3), "rebuild": lambda rgb: 255 - rgb}
        record, mask = forge_clip(source, *paths, np.random.default_rng(1), **options)
        fake, real = (open_video(path, frames=24, method="middle") for path in paths)
        assert fake.times_s == real.times_s and fake.total_frames == 24 and (fake.width, fake.height) == (160, 128)
        begin, end = record["stretch_s"]
        assert [f["time_s"] for f in record["frames"]] == [
            round(t, 4) for t in fake.times_s if begin - 0.01 <= t < end - 0.01
        ]
        for time_s, a, b in zip(fake.times_s, fake.frames, real.frames, strict=True):
            differs = np.abs(np.asarray(a, int) - np.asarray(b, int)).mean() > 3
            assert differs == (begin - 0.01 <= time_s < end - 0.01)
        assert (mask is None) == (method == "rebuild_whole")


def test_a_region_in_a_clip_moves_with_the_scene():
    scene = np.asarray(Image.fromarray(photograph(40, 60, 7)).resize((300, 200)))
    frames = [scene[20 + i : 148 + i, 100 - 3 * i : 260 - 3 * i] for i in range(8)]
    mask = np.zeros((128, 160), bool)
    mask[40:80, 50:100] = True
    shifts = track(frames, mask)
    assert shifts[0] == (0, 0)
    assert np.abs(np.array(shifts) - [(3 * i, -i) for i in range(8)]).max() <= 1
    assert np.array_equal(shifted(mask, 5, -7), np.roll(mask, (-7, 5), (0, 1)))
    assert not shifted(mask, 500, 0).any()


def test_of_a_long_clip_the_middle_is_used_frame_by_frame(tmp_path, monkeypatch):
    source = make_clip(photograph(200, 300), tmp_path / "pan.mp4", seconds=4, size_wh=(160, 128), edited_s=(9, 9))
    whole = read_frames(source, 512)
    assert (len(whole.pictures), whole.first, whole.fps) == (48, 0, 12)
    monkeypatch.setattr(clips, "MOST_FRAMES", 20)
    part = read_frames(source, 512)
    assert (len(part.pictures), part.first) == (20, 14)
    assert all(np.array_equal(a, b) for a, b in zip(part.pictures, whole.pictures[14:34], strict=True))
    assert read_frames(source, 90).pictures[0].shape == (72, 90, 3)


def test_a_clip_that_cannot_be_used_is_told_and_the_photographs_go_on(tmp_path, clip):
    (tmp_path / "clips").mkdir()
    clip("clips/short.mp4", n_frames=5)
    clip("clips/good.mp4", n_frames=16)
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(100))
    mine = save_photographs(tmp_path / "mine", 1)
    options = {"methods": ["removal"], "workers": 1, "size": 160, "per_photo": 1}
    result = forge_folder([mine], tmp_path / "out", clips=[tmp_path / "clips"], **options)
    told = {Path(finding.file).name: finding.problem for finding in result.problems}
    assert set(told) == {"short.mp4", "broken.mp4"} and "too few frames" in told["short.mp4"]
    record = next(r for r in records_of(tmp_path / "out") if r["kind"] == "video")
    assert facts_of(record["words"]) == facts_of_record(record) and " s " in record["words"]
    rows = [row for row in read_manifest(result.manifest) if row.is_video]
    assert [row.label for row in rows] == ["real", "tampered"]
    with pytest.raises(MediaError, match="too few"):
        read_frames(tmp_path / "clips" / "short.mp4", 512)


def test_a_face_swap_is_not_for_clips_and_the_words_of_one_name_its_seconds(tmp_path):
    with pytest.raises(ConfigError, match="face_swap"):
        forge_clip("a.mp4", tmp_path / "f", tmp_path / "a", np.random.default_rng(0), method="face_swap")
    record = {"method": "removal", "label": "tampered", "place": "left", "size": "small", "what": "clip"}
    text = words_of(record | {"stretch_s": [1.25, 2.0]}, np.random.default_rng(0))
    assert facts_of(text).stretch_s == (1.2, 2.0)
