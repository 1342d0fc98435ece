"""C2PA manifests ("Content Credentials"): who signed, what was done, is it valid, is the signer trusted.

Read by c2pa-python (extra ``provenance``) with its network off: no remote manifest and no revocation answer is fetched.
"Valid" means that the signature and the file's hash hold; "trusted" that the signer's certificate leads to an anchor of
the trust list that was given. Only a valid manifest decides, and what it says is the signer's word.

    content_credentials("image/jpeg", io.BytesIO(data))
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from internvl_detect.errors import ConfigError
from internvl_detect.files import read_text
from internvl_detect.media.provenance.found import Says, clean, observed
from internvl_detect.verdict import Evidence

MARK = b"jumb"  # the superbox in which every embedded manifest lies (ISO 19566-5)
BMFF_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")  # of the box that holds it in MP4, HEIF and AVIF
WITHOUT = (
    "the file seems to hold Content Credentials (C2PA), which were not read: "
    "pip install 'internvl2-8bdetect[provenance]'"
)
_MAX_JSON = 8 * 2**20
_MAX_MANIFESTS = 50
_SOURCES = {  # last part of IPTC's digital source type: (what it says, in words)
    "trainedAlgorithmicMedia": ("ai_generated", "made by a generative AI"),
    "compositeWithTrainedAlgorithmicMedia": ("tampered", "in part made or changed by a generative AI"),
    "digitalCapture": ("camera", "taken by a digital camera"),
    "computationalCapture": ("camera", "taken by a digital camera with computational processing"),
}
_SOURCE_FIELDS = ("digitalSourceType", "digital_source_type")
_MAKING = ("c2pa.created",)


def read_anchors(path: Path | None) -> str | None:
    """The PEM text of a trust list; None for none. Raises ConfigError for a file that holds no certificate."""
    if path is None:
        return None
    text = read_text(path, what="trust list")
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise ConfigError(f"the trust list {path} holds no certificate", expected="PEM: -----BEGIN CERTIFICATE-----")
    return text


def content_credentials(mime: str, file: BinaryIO, trust: str | None = None) -> tuple[Evidence | None, str]:
    """(the observation or None, a note or ""). ``trust``: PEM certificates of the signers' anchors.

    Never raises for what the file holds.
    """
    try:
        import c2pa
    except ImportError:
        return None, WITHOUT
    settings: dict[str, Any] = {
        "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_reading": True},
        "core": {"allowed_network_hosts": []},
    }
    if trust:
        settings["trust"] = {"user_anchors": trust}
    try:
        with c2pa.Context.from_dict(settings) as context, c2pa.Reader(mime, file, context=context) as reader:
            text = reader.json()
        if len(text) > _MAX_JSON:
            return None, f"the Content Credentials are larger than {_MAX_JSON // 2**20} MiB and were not read"
        return _observation(json.loads(text)), ""
    except Exception as error:  # noqa: BLE001 - a native parser fed hostile bytes; anything it says is about the file
        if type(error).__name__ == "_C2paManifestNotFound":
            return None, ""
        return None, f"the Content Credentials could not be read: {clean(error, 160)}"


def _observation(store: Mapping[str, Any]) -> Evidence | None:
    manifests = {k: v for k, v in _mapping(store.get("manifests")).items() if isinstance(v, Mapping)}
    active = manifests.get(str(store.get("active_manifest")))
    if active is None:
        return None
    state = str(store.get("validation_state") or "Invalid")
    valid = state in ("Valid", "Trusted")
    signed = _mapping(active.get("signature_info"))
    signer = clean(signed.get("common_name") or signed.get("issuer") or "an unnamed signer", 120)
    issuer = clean(signed.get("issuer") or "", 120)
    problems = [clean(p.get("code"), 80) for p in _list(store.get("validation_status")) if isinstance(p, Mapping)]
    actions = [clean(a.get("action"), 60) for a in _actions(active)]
    says, what, by = _statement(manifests, active)
    by = by or _tool(active)
    who = f"{signer} ({issuer})" if issuer and issuer != signer else signer
    trusted = "a trusted signer" if state == "Trusted" else "a signer on no trust list that was given"
    details: dict[str, Any] = {
        "state": state, "trusted": state == "Trusted", "signed_by": signer, "issuer": issuer,
        "signed_at": clean(signed.get("time") or "", 40), "tool": by, "title": clean(active.get("title") or "", 120),
        "actions": actions[:20], "problems": [p for p in problems if p != "signingCredential.untrusted"][:20],
        "manifests": len(manifests),
    }  # fmt: skip
    if not valid:
        summary = (
            f"The file carries Content Credentials signed by {who}, but they do not hold: the file was changed after "
            "signing, or the record is damaged or forged. What they say is not to be relied on."
        )
        return observed("c2pa", summary, "weak", "", claims=what, **details)
    tool = f" with {by}" if by else ""
    if says in ("ai_generated", "tampered"):
        summary = f"Valid Content Credentials, signed by {who}, {trusted}, say that this was {what}{tool}."
        return observed("c2pa", summary, "decides", says, **details)
    if says == "camera":
        summary = f"Valid Content Credentials, signed by {who}, {trusted}, say that this was {what}{tool}."
        return observed("c2pa", summary, "strong" if state == "Trusted" else "weak", says, **details)
    did = f": {', '.join(actions[:6])}" if actions else ""
    summary = f"Valid Content Credentials, signed by {who}, {trusted}, record what was done{tool}{did}."
    return observed("c2pa", summary, "weak", "", **details)


def _statement(manifests: Mapping[str, Any], active: Mapping[str, Any]) -> tuple[Says, str, str]:
    """(what is said, in words, by which tool) of the active manifest and of those that its picture comes from.

    A parent that was made by AI makes its child so; an AI-made part makes it a composite. What was only an input to a
    tool ("inputTo") says nothing of the result.
    """
    best: tuple[Says, str, str] = ("", "", "")
    waiting: list[tuple[Mapping[str, Any], bool]] = [(active, False)]
    seen: set[int] = set()
    while waiting and len(seen) < _MAX_MANIFESTS:
        manifest, is_part = waiting.pop(0)
        if id(manifest) in seen:
            continue
        seen.add(id(manifest))
        for action in _actions(manifest):
            says, what = _said(action)
            if says == "ai_generated" and (is_part or action.get("action") not in _MAKING):
                says, what = "tampered", _SOURCES["compositeWithTrainedAlgorithmicMedia"][1]
            if says == "camera" and (is_part or best[0]):
                continue
            if says and (best[0] in ("", "camera") or (says == "ai_generated" and best[0] == "tampered")):
                best = (says, what, _agent(action) or _tool(manifest))
        for ingredient in _list(manifest.get("ingredients")):
            ingredient = _mapping(ingredient)
            inner = manifests.get(str(ingredient.get("active_manifest")))
            relation = ingredient.get("relationship")
            if inner is not None and relation in ("parentOf", "componentOf"):
                waiting.append((inner, is_part or relation == "componentOf"))
    return best


def _said(action: Mapping[str, Any]) -> tuple[Says, str]:
    inside = _mapping(action.get("parameters"))
    for holder in (action, inside):
        for field in _SOURCE_FIELDS:
            name = str(holder.get(field) or "").rstrip("/").rsplit("/", 1)[-1]
            if name in _SOURCES:
                return _SOURCES[name]  # type: ignore[return-value]
    return "", ""


def _actions(manifest: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for assertion in _list(manifest.get("assertions")):
        assertion = _mapping(assertion)
        if str(assertion.get("label", "")).startswith("c2pa.actions"):
            for action in _list(_mapping(assertion.get("data")).get("actions")):
                if isinstance(action, Mapping):
                    yield action


def _agent(action: Mapping[str, Any]) -> str:
    agent = action.get("softwareAgent")
    return clean((agent.get("name") if isinstance(agent, Mapping) else agent) or "", 80)


def _tool(manifest: Mapping[str, Any]) -> str:
    named = [_mapping(info).get("name") for info in _list(manifest.get("claim_generator_info"))]
    return clean(next((n for n in named if n), None) or manifest.get("claim_generator") or "", 80)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value[:200] if isinstance(value, list) else []
