"""Texts that picture and clip generators leave in their files: one row of a table a generator.

The texts are a stranger's. They are searched by fixed patterns within bounds and never run, parsed as a program or
believed as proof: anyone can write them, and most sites remove them. Not here: signed records
(``content_credentials``), what cameras and editors write (``camera``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from internvl_detect.media.provenance.found import Says, Strength, clean, observed
from internvl_detect.verdict import Evidence

MAX_SEARCHED = 2**16  # characters of one field
_MOST_FOUND = 8

Fields = Mapping[str, str]  # "text:parameters", "exif:Software", "xmp:CreatorTool", "iptc:Credit", "clip:comment", ...


@dataclass(frozen=True)
class Row:
    """``where`` is matched against the whole name of a field, ``pattern`` searched in its text."""

    name: str
    where: str
    pattern: str
    says: Says = "ai_generated"
    strength: Strength = "strong"


# Which program made the file: fields that name it.
_PROGRAM = (
    r"(text|exif|clip):(Software|software|Creator|generator|encoder)|xmp:CreatorTool|stEvt:softwareAgent"
    r"|iptc:OriginatingProgram"
)
_CREDIT = r"(iptc|text|photoshop):(Credit|Source)|text:Software|exif:(Software|Artist|Copyright)|xmp:CreatorTool"
_COMFY = r'"class_type"\s*:|"last_node_id"\s*:|"nodes"\s*:\s*\['
_A1111 = r"Steps:\s*\d+\s*,\s*(Sampler|CFG scale|Seed|Size|Schedule type):?"

TABLE = (
    Row("Stable Diffusion (A1111, Forge and kin)", r"text:parameters|exif:Exif\.UserComment|text:comment", _A1111),
    Row("SwarmUI", r"text:parameters|exif:Exif\.UserComment", r'"sui_image_params"'),
    Row("Fooocus", r"text:fooocus_scheme", r"\S"),
    Row("Fooocus", r"text:parameters|exif:Exif\.UserComment", r'"metadata_scheme"\s*:\s*"fooocus"'),
    Row("ComfyUI", r"(text|clip):(prompt|workflow|comment|parameters)", _COMFY),
    Row("ComfyUI", r"exif:(Make|Model|ImageDescription|Exif\.UserComment)", r"^\s*(prompt|workflow)\s*:\s*\{"),
    Row("NovelAI", r"text:(Software|Source)", r"NovelAI"),
    Row("InvokeAI", r"(text|clip):(invokeai_metadata|invokeai_graph|sd-metadata)", r"\{"),
    Row("InvokeAI (older)", r"text:Dream", r"-s\s?\d+"),
    Row("Easy Diffusion", r"text:use_stable_diffusion_model", r"\S"),
    Row("Draw Things", r"exif:(Exif\.)?UserComment", r'\{.*"sampler"\s*:'),
    Row("Midjourney", r"text:Description|dc:description|exif:ImageDescription|iptc:Caption",
        r"Job ID: [0-9a-fA-F-]{36}"),
    Row("Midjourney", _PROGRAM + r"|text:Author|exif:Make", r"\bMidjourney\b"),
    Row("OpenAI (DALL-E, ChatGPT)", _PROGRAM + "|" + _CREDIT,
        r"\bDALL[\s·.-]?E\b|\bOpenAI\b|\bChatGPT\b|\bgpt-image\b"),
    Row("Google AI", _CREDIT, r"\bMade with Google AI\b"),
    Row("Google AI, edited with", _CREDIT, r"\bEdited with Google AI\b", "tampered"),
    Row("Adobe Firefly", _PROGRAM, r"\bAdobe[ _]Firefly\b"),
    Row("Stable Diffusion", _PROGRAM, r"\bStable[ _-]?Diffusion\b|\bDreamStudio\b"),
    Row("Bing Image Creator, Microsoft Designer", _PROGRAM, r"\bBing Image Creator\b|\bMicrosoft Designer\b"),
    Row("Grok (xAI)", r"exif:ImageDescription", r"^Signature: ?[A-Za-z0-9+/=]{40,}\s*$", strength="weak"),
    Row("label of China's GB 45438 (AIGC)", r"TC260:AIGC|(text|clip|exif):AIGC", r"[\"']Label[\"']\s*:\s*[\"']?1"),
    Row("label of China's GB 45438 (AIGC: possibly)", r"TC260:AIGC|(text|clip|exif):AIGC",
        r"[\"']Label[\"']\s*:\s*[\"']?[23]", strength="weak"),
)  # fmt: skip
_COMPILED = tuple((row, re.compile(row.where), re.compile(row.pattern, re.S)) for row in TABLE)
_MODEL = re.compile(
    r'Model:\s*([^,\n]{1,80})|"(?:ckpt_name|unet_name|base_model|model_name|sd_model)"\s*:\s*"([^"]{1,80})"'
)


def generator_texts(fields: Fields) -> list[Evidence]:
    """One observation for each generator whose texts are there, with an excerpt."""
    found: dict[str, Evidence] = {}
    for row, field, text in _matches(fields):
        if row.name in found or len(found) == _MOST_FOUND:
            continue
        model = _MODEL.search(text)
        named = clean(next(filter(None, model.groups()), ""), 80) if model else ""
        place = clean(field.replace(":", " "), 60)
        made = {"ai_generated": "was generated", "tampered": "was changed by generative AI"}[row.says]
        likely = "says that it" if row.strength == "strong" else "may say that it"
        summary = (
            f"The file's own text ({place}) {likely} {made}: {row.name}{f', model {named}' if named else ''}. "
            "It is not signed, so it could have been added."
        )
        found[row.name] = observed(
            "generator_text",
            summary,
            row.strength,
            row.says,
            generator=row.name,
            field=place,
            model=named,
            excerpt=clean(text),
        )
    return list(found.values())


def names_generator(fields: Fields, field: str) -> bool:
    """Whether ``field`` holds a generator's text and so is not what its name promises."""
    return any(True for _ in _matches({field: fields[field]})) if field in fields else False


def _matches(fields: Fields) -> Iterator[tuple[Row, str, str]]:
    for name, value in fields.items():
        text = value[:MAX_SEARCHED]
        for row, where, pattern in _COMPILED:
            if where.fullmatch(name) and pattern.search(text):
                yield row, name, text
