"""Where a file says it comes from: signed records, metadata, generators' texts, JPEG history, containers. No model.

from internvl_detect.media.provenance import provenance_of
found = provenance_of("photo.jpg")
found.summary, found.decides, [e.summary for e in found.evidence]
"""

from __future__ import annotations

from internvl_detect.media.provenance.content_credentials import read_anchors
from internvl_detect.media.provenance.found import Provenance
from internvl_detect.media.provenance.gather import provenance_of

__all__ = ["Provenance", "provenance_of", "read_anchors"]
