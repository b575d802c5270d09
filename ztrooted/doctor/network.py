"""A gateway, from the machine of an executor: does it answer, is it the right one, and do both clocks agree."""

import http.client
import json
import ssl
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from ztrooted import limits
from ztrooted.doctor.finding import Finding, failed, passed, warned
from ztrooted.reasons import GateReason

ANSWER_S = 5.0
_ANSWER = 64 << 10  # bytes; what /readyz answers has a few hundred


def look_at_gateway(url: str, ca: Path) -> Iterator[Finding]:
    """What a gateway answers to /readyz, for anybody."""
    check = "gateway"
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        yield failed(check, GateReason.CONFIG_INVALID, f"{url} is not https://host:port")
        return
    try:
        context = ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        yield failed(check, GateReason.ENVIRONMENT_TLS, f"the CA file {ca} can't be used: {error}")
        return
    connection = http.client.HTTPSConnection(parts.hostname, parts.port or 443, timeout=ANSWER_S, context=context)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        data, status, date = answer.read(_ANSWER), answer.status, answer.headers.get("Date")
        said = json.loads(data)
        failing = said["failing"]
    except ssl.SSLError as error:
        yield failed(check, GateReason.ENVIRONMENT_TLS, f"{url} is not the gateway of {ca}: {error}")
        return
    except OSError as error:
        yield failed(check, GateReason.ENVIRONMENT_GATEWAY_UNREACHABLE, f"{url}: {error.strerror or error}")
        return
    except (http.client.HTTPException, ValueError, KeyError, TypeError):
        yield failed(check, GateReason.ENVIRONMENT_NOT_A_GATEWAY, f"{url} answers, and not as a gateway does")
        return
    finally:
        connection.close()
    if status == 200 and not failing:
        yield passed(check, f"{url} is ready")
    else:
        named = ", ".join(str(one)[:80] for one in failing) if isinstance(failing, list) else "unknown"
        yield warned(check, GateReason.SERVICE_NOT_READY, f"{url} issues nothing now: {named}", "ask its operator")
    yield from _clocks(date)


def _clocks(date: str | None) -> Iterator[Finding]:
    try:
        apart = abs(parsedate_to_datetime(date or "").timestamp() - time.time())
    except ValueError:
        return
    # A date in a header has whole seconds.
    if apart > limits.CLOCK_LEEWAY_S + 1:
        yield failed("clocks", GateReason.MACHINE_CLOCK, f"the gateway's clock and this one are {apart:.0f} s apart")
    else:
        yield passed("clocks", "the gateway's clock and this one agree")
