"""Who is trusted on the other end of a link: the TLS context of a broker's address."""

from __future__ import annotations

import ssl

from lamina.broker.link.address import BrokerAddress
from lamina.models.errors import ConfigError


class _TlsSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails; paho would leave it open."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def tls_context(address: BrokerAddress) -> ssl.SSLContext | None:
    """The context to connect with; ``None`` for a connection that isn't encrypted.

    Without ``ca_file`` the authorities are those that the system trusts.

    Raises:
        ConfigError: a certificate or key file is missing or no such thing.
    """
    if not address.is_encrypted:
        return None
    try:
        context = ssl.create_default_context(cafile=address.ca_file or None)
        context.sslsocket_class = _TlsSocket
        if address.cert_file:
            context.load_cert_chain(address.cert_file, address.key_file)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(filter(None, (address.ca_file, address.cert_file, address.key_file)))
        raise ConfigError(f"broker.ca_file, cert_file, key_file ({files}): {error}") from error
    return context


def untrusted(address: BrokerAddress, error: ssl.SSLCertVerificationError) -> str:
    """What a person can do about a broker's certificate that did not verify."""
    if address.ca_file:
        against = f"the authorities in {address.ca_file} (broker.ca_file)"
    else:
        against = "the system's authorities; name the broker's own in broker.ca_file"
    return f"broker {address}: certificate verify failed: {error.verify_message}; it was checked against {against}"
