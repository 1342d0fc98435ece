"""XMP packets from strangers, as a flat table of names and texts.

XMP is XML (ISO 16684-1). A document type declaration is refused before anything is parsed, so there are no entities to
expand; size, entries and text are bounded. Not here: what the values mean.

    read_xmp(text)  # {"xmp:CreatorTool": ["..."], "Iptc4xmpExt:DigitalSourceType": ["..."]}
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

MAX_VALUES = 400
MAX_TEXT = 2000
_PREFIXES = {
    "http://ns.adobe.com/xap/1.0/": "xmp",
    "http://ns.adobe.com/xap/1.0/mm/": "xmpMM",
    "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#": "stEvt",
    "http://ns.adobe.com/photoshop/1.0/": "photoshop",
    "http://ns.adobe.com/tiff/1.0/": "tiff",
    "http://ns.adobe.com/exif/1.0/": "exif",
    "http://ns.adobe.com/camera-raw-settings/1.0/": "crs",
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://purl.org/dc/terms/": "dcterms",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/": "Iptc4xmpExt",
    "http://www.tc260.org.cn/ns/AIGC/1.0/": "TC260",
}
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_NAME = re.compile(r"\{([^}]*)\}(.*)", re.S)


class BadXmp(Exception):
    """Why a packet was not read, in words."""


def read_xmp(text: str) -> dict[str, list[str]]:
    """Every text by the property that holds it; names of unknown namespaces without a prefix.

    Raises BadXmp for a packet with a document type declaration, and for what is no XML.
    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise BadXmp("it declares a document type, which XMP never needs and which can be used for attacks")
    text = text.encode("utf-8", "replace").decode("utf-8").strip("\0\ufeff \t\r\n")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise BadXmp(f"it is no well-formed XML ({type(error).__name__})") from None
    found: dict[str, list[str]] = {}
    left = MAX_VALUES
    holder = "?"  # the property around an rdf:li, by document order
    for element in root.iter():
        name = _name(element.tag)
        if not name.startswith("rdf:"):
            holder = name
        pairs = [(_name(key), value) for key, value in element.attrib.items()]
        if element.text and element.text.strip():
            pairs.append(("rdf:resource", element.text))
        for key, value in pairs:
            if key.startswith("rdf:") and key != "rdf:resource":
                continue
            key = holder if key == "rdf:resource" else key
            found.setdefault(key[:80], []).append(value.strip()[:MAX_TEXT])
            left -= 1
            if not left:
                return found
    return found


def _name(tag: object) -> str:
    if not isinstance(tag, str):  # a comment
        return "?"
    parts = _NAME.fullmatch(tag)
    if parts is None:
        return tag
    space, local = parts.groups()
    prefix = "rdf" if space == _RDF else _PREFIXES.get(space, "")
    return f"{prefix}:{local}" if prefix else local
