"""Provenance in verdicts: it is evidence beside the score, and only a valid signed record takes the decision over."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
from c2pa_makers import chain, created, manifest, signed
from picture_makers import encode

from internvl_detect.detect import Detector
from internvl_detect.media.image import open_image


@pytest.fixture(scope="module")
def detector():
    return Detector.from_pretrained("nano")


@pytest.fixture
def signed_photo(photo):
    path = photo("signed.jpg")
    record = manifest(created("trainedAlgorithmicMedia"))
    path.write_bytes(signed(encode(open_image(path).rgb, "JPEG"), "image/jpeg", record))
    return path


def test_a_valid_record_decides_and_leaves_the_score_as_it_is(detector, signed_photo):
    verdict = detector.detect(signed_photo)
    bare = Detector(detector.loaded, tagger=detector.looker.tagger, provenance=False).detect(signed_photo)
    assert (verdict.decision, verdict.label) == ("fake", "ai_generated")
    assert (verdict.score, verdict.probability) == (bare.score, bare.probability)
    assert any(note.startswith("decided by the file's valid Content Credentials") for note in verdict.notes)
    assert verdict.evidence[0].details["strength"] == "decides"
    assert {e.source for e in bare.evidence} == {"domain_tag", "internvl2"}
    assert "provenance_s" in verdict.timings and "provenance_s" not in bare.timings


def test_trusted_anchors_reach_the_record(detector, signed_photo):
    judged = Detector(detector.loaded, trust=chain().anchor).detect(signed_photo)
    assert judged.evidence[0].details["trusted"] is True


def test_a_broken_record_changes_nothing_but_the_evidence(detector, signed_photo):
    data = bytearray(signed_photo.read_bytes())
    data[-300] ^= 1
    verdict = detector.detect(bytes(data))
    assert verdict.decision == detector.calibration.decide(verdict.probability)
    assert verdict.evidence[0].details["state"] == "Invalid" and not any("decided by" in n for n in verdict.notes)


def test_paths_bytes_and_files_have_the_same_evidence(detector, signed_photo, clip):
    for path in (signed_photo, clip()):
        with open(path, "rb") as file:
            found = [detector.detect(source).evidence for source in (path, path.read_bytes(), file)]
        assert found[0] and found[0] == found[1] == found[2]


def test_a_batch_keeps_no_file_s_bytes(detector, signed_photo):
    job = detector._open(signed_photo, 8, False)
    assert job.media.data == b"" and job.origin.decides


def cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "internvl_detect.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_says_what_it_found_and_draws_the_error_level(signed_photo, tmp_path):
    done = cli("provenance", signed_photo, "--ela", tmp_path / "ela.png")
    assert done.returncode == 0 and "[decides] c2pa: Valid Content Credentials" in done.stdout
    assert open_image(tmp_path / "ela.png").width == 150
    (tmp_path / "text.jpg").write_text("hello")
    done = cli("provenance", signed_photo, tmp_path / "text.jpg", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1 and rows[0]["decides"] == "c2pa" and "error" in rows[1]
    done = cli("provenance", signed_photo, tmp_path / "text.jpg", "--ela", tmp_path / "x.png")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    (tmp_path / "anchors.pem").write_text("no certificate")
    done = cli("provenance", signed_photo, "--trust", tmp_path / "anchors.pem")
    assert done.returncode == 2 and "holds no certificate" in done.stderr


def test_evidence_survives_the_row(detector, signed_photo):
    from internvl_detect.detect.results_file import encode_row
    from internvl_detect.verdict import from_row

    verdict = detector.detect(signed_photo)
    assert from_row(json.loads(encode_row(verdict.to_dict()))) == dataclasses.replace(verdict)
