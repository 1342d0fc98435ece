"""Signed files for the tests of C2PA: a certificate chain made on the spot, and manifests signed with it."""

from __future__ import annotations

import datetime as dt
import io
from dataclasses import dataclass
from functools import cache
from typing import Any

SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/"


@dataclass(frozen=True)
class Chain:
    """PEM texts: the signer's certificate followed by its issuer's, its key, and the issuer's alone (the anchor)."""

    certificates: bytes
    key: bytes
    anchor: str


@cache
def chain(signer: str = "Test Signer") -> Chain:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(name: str) -> x509.Name:
        parts = ((NameOID.COMMON_NAME, name), (NameOID.ORGANIZATION_NAME, "Test <b>Org</b>"))
        return x509.Name([x509.NameAttribute(oid, text) for oid, text in parts])

    def usage(leaf: bool) -> x509.KeyUsage:
        return x509.KeyUsage(leaf, False, False, False, False, not leaf, not leaf, False, False)

    now = dt.datetime.now(dt.UTC)
    issuer_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def made(name: str, public: Any, leaf: bool) -> x509.Certificate:
        builder = x509.CertificateBuilder().subject_name(named(name)).issuer_name(named("Test Root"))
        builder = builder.public_key(public).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=30))
        builder = builder.add_extension(x509.BasicConstraints(not leaf, None), True).add_extension(usage(leaf), True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        if leaf:
            builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
            issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
            builder = builder.add_extension(issuer, False)
        return builder.sign(issuer_key, hashes.SHA256())

    pem = serialization.Encoding.PEM
    root = made("Test Root", issuer_key.public_key(), False).public_bytes(pem)
    leaf = made(signer, key.public_key(), True).public_bytes(pem)
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Chain(leaf + root, private, root.decode())


def manifest(*actions: dict[str, Any], **more: Any) -> dict[str, Any]:
    said = {"label": "c2pa.actions", "data": {"actions": list(actions)}}
    return {"claim_generator_info": [{"name": "test program", "version": "1"}], "assertions": [said], **more}


def created(source: str, agent: str = "GenNet") -> dict[str, Any]:
    return {"action": "c2pa.created", "digitalSourceType": SOURCE + source, "softwareAgent": {"name": agent}}


def signed(data: bytes, mime: str, what: dict[str, Any], parents: tuple[tuple[str, bytes], ...] = ()) -> bytes:
    """``data`` with a manifest; ``parents`` are (relationship, signed file of the same kind)."""
    import c2pa

    keys = chain()
    info = c2pa.C2paSignerInfo(b"es256", keys.certificates, keys.key, None)
    settings = {"builder": {"thumbnail": {"enabled": False}}, "verify": {"remote_manifest_fetch": False}}
    out = io.BytesIO()
    with c2pa.Context.from_dict(settings) as context, c2pa.Builder(what, context=context) as builder:
        for relationship, parent in parents:
            builder.add_ingredient(
                {"title": "parent", "relationship": relationship, "label": "parent"}, mime, io.BytesIO(parent)
            )
        builder.sign(c2pa.Signer.from_info(info), mime, io.BytesIO(data), out)
    return out.getvalue()
