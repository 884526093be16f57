"""Makes authorities, certificates and lists of revoked ones: X.509 with keys on P-256, which every TLS library takes.

A certificate says what it is for. One for a server lets nobody in as a client, and one for a client can't stand in for
the broker, so a stolen board's certificate doesn't deceive other boards.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 3650
_EARLIER = timedelta(days=1)  # a board's clock may be slow
_CURVE = ec.SECP256R1()


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key.

    Attributes:
        certificate: PEM.
        key: PEM, not encrypted.
        serial: the certificate's number.
        until: seconds since 1970 at which it ends.
    """

    certificate: str
    key: str
    serial: int
    until: int


@dataclass(frozen=True, slots=True)
class Authority:
    """Who signs certificates.

    Attributes:
        certificate: its own.
        key: its secret.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def new(cls, name: str, now: datetime) -> Authority:
        """An authority that begins now."""
        key = ec.generate_private_key(_CURVE)
        subject = _name(name)
        usage = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        certificate = (
            _begun(subject, subject, key.public_key(), now, AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def read(cls, certificate: str, key: str) -> Authority:
        """An authority from its PEM.

        Raises:
            ValueError: it is none.
        """
        secret = serialization.load_pem_private_key(key.encode(), password=None)
        if not isinstance(secret, ec.EllipticCurvePrivateKey):
            raise ValueError("its key is of another kind")
        return cls(x509.load_pem_x509_certificate(certificate.encode()), secret)

    @property
    def pem(self) -> str:
        """The certificate as PEM."""
        return _pem(self.certificate)

    @property
    def der(self) -> bytes:
        """The certificate as DER: fingerprints are of these bytes."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def key_pem(self) -> str:
        """The secret key as PEM."""
        return _key_pem(self.key)

    def issue(self, name: str, now: datetime, days: int, hosts: Sequence[str] = ()) -> Issued:
        """A certificate for a client, or, with the names and addresses that it has, for a server.

        Args:
            name: of whose it is; the broker takes it for the user's.
            now: when it begins.
            days: for how long it is good; never longer than the authority.
            hosts: of a server; empty for a client.
        """
        key = ec.generate_private_key(_CURVE)
        use = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        left = (self.certificate.not_valid_after_utc - now).days
        builder = (
            _begun(_name(name), self.certificate.subject, key.public_key(), now, min(days, left))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=True)
            .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts or [name]]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        certificate = builder.sign(self.key, hashes.SHA256())
        return Issued(
            _pem(certificate),
            _key_pem(key),
            certificate.serial_number,
            int(certificate.not_valid_after_utc.timestamp()),
        )

    def revocations(self, serials: Sequence[int], now: datetime) -> str:
        """The list of revoked certificates, PEM. It never goes out of date: an old list would shut out everybody."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - _EARLIER)
            .next_update(self.certificate.not_valid_after_utc)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .add_extension(x509.CRLNumber(int(now.timestamp() * 10**6)), critical=False)
        )
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(revoked)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + timedelta(days=days))
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def utc_now() -> datetime:
    """The present time."""
    return datetime.now(UTC)
