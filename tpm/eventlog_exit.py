"""The end of boot services where the log stops before it.

Firmware extends PCR 5 when boot services end (PFP 1.06 §8.2.4), after the boot loader has fetched the log; what is
measured from then on stands in the table of final events, which not every operating system reads. The digests are
known, so that a PCR 5 which is what the log and they add up to proves the end as well as a log that tells it.
"""

from dataclasses import replace

from tpm.algorithms import BANK_BY_NAME, digest
from tpm.eventlog_format import Event, EventLog
from tpm.eventlog_types import EventType

EXIT_PCR = 5
EXIT_INVOCATION = b"Exit Boot Services Invocation"
EXIT_SUCCESS = b"Exit Boot Services Returned with Success"
EXIT_FAILURE = b"Exit Boot Services Returned with Failure"

# An end at the first request, and the ways in which firmware tells one that was refused before.
_ENDS = (
    (EXIT_INVOCATION, EXIT_SUCCESS),
    (EXIT_FAILURE, EXIT_INVOCATION, EXIT_SUCCESS),
    (EXIT_INVOCATION, EXIT_FAILURE, EXIT_SUCCESS),
    (EXIT_INVOCATION, EXIT_FAILURE, EXIT_INVOCATION, EXIT_SUCCESS),
)


def with_unlogged_exit(log: EventLog, bank: str, quoted: bytes) -> EventLog | None:
    """``log`` with the events that are missing at its end, where they make PCR 5 in ``bank`` the ``quoted`` value.

    None where they do not, or where the log tells of the end itself.
    """
    if any(event.pcr == EXIT_PCR and event.data.rstrip(b"\x00") == EXIT_SUCCESS for event in log.events):
        return None
    start = log.replay(bank).get(EXIT_PCR)
    if start is None:
        return None
    alg = BANK_BY_NAME[bank]
    for texts in _ENDS:
        value = start
        for text in texts:
            value = digest(alg, value + digest(alg, text))
        if value == quoted:
            banks = [name for name in log.banks if name in BANK_BY_NAME]
            added = (
                Event(
                    len(log.events) + number,
                    EXIT_PCR,
                    EventType.EFI_ACTION,
                    {name: digest(BANK_BY_NAME[name], text) for name in banks},
                    text,
                )
                for number, text in enumerate(texts)
            )
            return replace(log, events=(*log.events, *added))
    return None
