"""Asking an identity provider: by TLS with the CA that is pinned, no proxy, no redirect, bounded in time and size."""

import ssl
from collections.abc import Mapping

import aiohttp

from gateway.config import GatewayConfig, read_file
from gateway.provider_config import ProviderConfig
from ztrooted.errors import EnvironmentProblem
from ztrooted.reasons import GateReason

FETCH_S = 5.0


def provider_tls(config: ProviderConfig, gateway: GatewayConfig) -> ssl.SSLContext:
    """For connections to it. EnvironmentProblem where the file of its CA holds none."""
    if config.jwks_ca is None:
        return ssl.create_default_context()
    path = gateway.path(config.jwks_ca)
    pem = read_file(path, f"CA of identity provider {config.name}").decode("ascii", "replace")
    try:
        return ssl.create_default_context(cadata=pem)
    except (ssl.SSLError, ValueError) as error:
        raise EnvironmentProblem(
            GateReason.CONFIG_INVALID,
            f"{path} holds no CA certificates: {error}",
            f"name a PEM file of the CA of identity provider {config.name} with 'jwks_ca'",
        ) from error


async def ask_provider(
    url: str,
    tls: ssl.SSLContext,
    most: int,
    *,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """(status, at most ``most + 1`` bytes of the answer) to a GET, or to a form that is posted.

    aiohttp.ClientError, TimeoutError or OSError where no answer came within ``FETCH_S``.
    """
    timeout = aiohttp.ClientTimeout(total=FETCH_S)
    async with (
        aiohttp.ClientSession(timeout=timeout, trust_env=False) as http,
        http.request(
            "GET" if form is None else "POST", url, data=form, headers=headers, ssl=tls, allow_redirects=False
        ) as answer,
    ):
        data = await answer.content.read(most + 1)
        while len(data) <= most and (more := await answer.content.read(most + 1 - len(data))):
            data += more
        return answer.status, data
