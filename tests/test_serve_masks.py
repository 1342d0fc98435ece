"""Claims about the server with a domain tagger: rows, masks and pages are those of detection in one process."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from plain_nano import plain_adapter
from server_fixtures import SAMPLES, Gate, finished, live, part
from test_domain_tag import lively

from internvl_detect.detect.detector import Detector
from internvl_detect.model.checkpoint import load_base
from internvl_detect.model.domain_tag import DomainTagger

COFFEE, CLIP = (SAMPLES / "coffee.jpg").read_bytes(), (SAMPLES / "clip.mp4").read_bytes()


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    tagger = DomainTagger(lively())
    tagger.map_threshold = float(np.median(tagger.look(Image.open(io.BytesIO(COFFEE))).map))
    adapter = plain_adapter(tmp_path_factory.mktemp("plain") / "adapter")
    return Detector(load_base("nano", adapter=adapter), tagger=tagger)


@pytest.fixture(scope="module")
def client(tmp_path_factory, detector):
    gate = Gate(detector)
    gate.open.set()
    with live(tmp_path_factory.mktemp("masks") / "data", gate, rate_per_min=100_000) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_kept(client):
    with client.server.store.transaction() as db:
        for table in ("cache", "pictures"):
            db.execute(f"DELETE FROM {table}")


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_rows_and_masks_are_those_of_detection_here(client, detector):
    files = [part("a.jpg", COFFEE), part("a.mp4", CLIP)]
    rows = client.post("/v1/detect?explain=true&mask=true&frames=4", files=files).json()["results"]
    for row, data in zip(rows, (COFFEE, CLIP), strict=True):
        alone = detector.detect(data, explain=True, mask=True, frames=4)
        told = json.loads(json.dumps(alone.to_dict()))
        for key in ("decision", "label", "words", "domain_tag", "reasons", "notes", "mask_threshold"):
            assert row[key] == told[key], key
        assert row["tag_probabilities"] == pytest.approx(told["tag_probabilities"], abs=1e-5)
        assert [r["box_xyxy"] for r in row["regions"]] == [list(r.box_xyxy) for r in alone.regions]
        assert [f["mask_share"] for f in row["frames"]] == pytest.approx([f.mask_share for f in alone.frames])
    drawn = detector.detect(COFFEE, mask=True)
    mask = opened(base64.b64decode(rows[0]["mask_png"]))
    assert np.array_equal(mask > 0, drawn.mask / 255 >= drawn.mask_threshold)


def test_a_job_keeps_its_mask_for_mask_overlay_and_report_and_forgets_it(client, detector):
    job = client.post("/v1/jobs?mask=true", files=[part("a.jpg", COFFEE), part("a.mp4", CLIP)]).json()["id"]
    assert finished(client, job)["state"] == "done"
    base = f"/v1/jobs/{job}"
    drawn = detector.detect(COFFEE, mask=True)
    mask = opened(client.get(f"{base}/mask?file=0").content)
    assert np.array_equal(mask > 0, drawn.mask / 255 >= drawn.mask_threshold) and 0 < mask.mean() < 255
    plain = opened(client.get(f"{base}/preview?file=0").content).astype(int)
    overlay = opened(client.get(f"{base}/overlay?file=0").content).astype(int)
    assert overlay.shape == plain.shape and (overlay != plain).any()
    assert client.get(f"{base}/preview?file=0&frame=1").status_code == 404  # a mask is no frame
    assert 'class="layer"' in client.get(f"{base}/report").text
    assert client.delete(base).status_code == 204
    assert client.server.store.read("SELECT 1 FROM pictures") == []


def test_words_and_masks_of_one_batch_do_not_mix(client):
    for query in ("explain=true", "mask=true", "explain=true&mask=true", ""):
        (row,) = client.post(f"/v1/detect?{query}", files=[part("a.jpg", COFFEE)]).json()["results"]
        assert (row["words"] is not None) == ("explain" in query)
        assert (row["mask_share"] is not None) == ("mask=" in query) == ("mask_png" in row)
        assert row["domain_tag"] and any(e["source"] == "domain_tag" for e in row["evidence"])
