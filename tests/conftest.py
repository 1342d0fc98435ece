"""Shared fixtures: one thread for torch, and the folder of reference answers where a developer has it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# No deadline: these claims are about answers, not about time. In CI the examples are the same in every run.
settings.register_profile("house", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("house")

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the claims are made on a CPU, with tensors of its own
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def reference() -> Path:
    """The original code's answers; not in the repository, so the tests that need them say so when it is absent."""
    folder = os.environ.get("IVDETECT_REFERENCE", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("set IVDETECT_REFERENCE to the folder of the original code's answers to run this comparison")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A random model of some thousand parameters in the original format, 56 px tiles, with a tokenizer of its own."""
    from original_model import make_config, make_tensors, write_checkpoint

    from internvl_detect.model.nano_tokenizer import train_tokenizer

    pieces = 900
    folder = tmp_path_factory.mktemp("models") / "tiny"
    config = make_config(t_vocab_size=pieces + 9, t_max_position_embeddings=4096)
    write_checkpoint(folder, config, make_tensors(config))
    (folder / "tokenizer.model").write_bytes(
        train_tokenizer(["The picture was edited here. A photograph."], pieces=pieces)
    )
    return folder


@pytest.fixture
def photo(tmp_path):
    """``photo(name, size, seed)`` writes a picture that looks like nothing in particular and gives its path."""
    import numpy as np
    from PIL import Image

    def make(name: str = "photo.png", size: tuple[int, int] = (150, 90), seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        small = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        grain = rng.integers(-12, 12, (size[1], size[0], 3))
        smooth = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)).astype(int)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(path)
        return path

    return make


@pytest.fixture
def clip(tmp_path):
    """``clip(name, n_frames, fps)`` writes a small H.264 clip and gives its path."""
    import av
    import numpy as np

    def make(name: str = "clip.mp4", n_frames: int = 20, fps: int = 10, seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=fps)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            for i in range(n_frames):
                picture = np.roll(rng.integers(0, 255, (64, 96, 3), dtype=np.uint8) // 4 + 5 * (i % 30), i, 1)
                for packet in stream.encode(av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)
        return path

    return make
