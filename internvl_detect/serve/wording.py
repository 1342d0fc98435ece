"""A row's verdict in a sentence, in English or Chinese: what ``POST /v1/detect?language=`` adds.

The English is ``report.words``'; the Chinese says the same. Not here: the page's own words (``page/words.js``).
"""

from __future__ import annotations

from typing import Any

from internvl_detect.report import words
from internvl_detect.verdict import Verdict, from_row

LANGUAGES = ("en", "zh")
_FAKE_ZH = {
    "ai_generated": ("很可能由 AI 生成", "模型发现了生成内容常有的痕迹。"),
    "tampered": ("很可能经过篡改", "模型发现有局部被改动的迹象。"),
    "deepfake": ("很可能是深度伪造", "模型发现有人脸被替换或合成的迹象。"),
}
_ZH = {
    "fake": ("很可能是伪造", "模型发现了生成或改动的迹象。"),
    "unsure": ("无法判断", "分数位于两个阈值之间，不支持任何一种结论。"),
    "authentic": ("未发现伪造迹象", "模型没有发现它所寻找的迹象，但这不能证明内容真实。"),
    "failed": ("无法检测", "文件不能读取，详见 error。"),
}


def in_language(row: dict[str, Any], language: str) -> dict[str, str]:
    """``headline`` and ``explanation`` of a row."""
    known = from_row(row)
    state = words.outcome(known)
    if language == "zh":
        headline, explanation = _ZH[state]
        if state == "fake" and isinstance(known, Verdict):
            headline, explanation = _FAKE_ZH.get(known.label, (headline, explanation))
        if state == "unsure" and isinstance(known, Verdict) and words.disagreement(known):
            explanation = "初步检查与 InternVL2 的结论不一致，不支持任何一种结论。"
        return {"headline": headline, "explanation": explanation}
    said = words.explanation(known) if isinstance(known, Verdict) else "The file could not be judged: see error."
    return {"headline": words.headline(known), "explanation": said}
