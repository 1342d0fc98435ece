"""OpenCV, wherever forging needs it: imported late, on one thread, or an error that names the package.

One thread, because a pool has a process a core already.
"""

from __future__ import annotations

from typing import Any

from internvl_detect.errors import ConfigError


def need_cv2(what: str) -> Any:
    """The module cv2; ``what`` names in the error what cannot be done without it. Raises ConfigError."""
    try:
        import cv2
    except ImportError:
        do = "pip install opencv-python-headless"
        raise ConfigError(f"{what} needs OpenCV, which is not installed", do=do) from None
    cv2.setNumThreads(1)
    return cv2
