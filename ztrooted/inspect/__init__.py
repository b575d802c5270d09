"""A window on TPM evidence: what bytes say, and, given something to compare them with, whether they may be believed.

One module for each kind of evidence. Each takes bytes and context and returns a report of plain values that JSON can
hold; what is refused raises the verifier's own error. Nothing here decides: the verifiers of ``tpm`` do.

A report says ``verified`` true only where a verifier was given everything its verdict needs.
"""

from ztrooted.inspect.akpub import inspect_ak_public
from ztrooted.inspect.attest import inspect_attest
from ztrooted.inspect.ear import MAX_EAR, inspect_ear
from ztrooted.inspect.ekcert import inspect_ek_certificate
from ztrooted.inspect.eventlog import inspect_event_log
from ztrooted.inspect.ima import inspect_ima
from ztrooted.inspect.plain import Report
from ztrooted.inspect.quote import inspect_quote

__all__ = [
    "MAX_EAR",
    "Report",
    "inspect_ak_public",
    "inspect_attest",
    "inspect_ear",
    "inspect_ek_certificate",
    "inspect_event_log",
    "inspect_ima",
    "inspect_quote",
]
