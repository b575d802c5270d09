"""TCG measured boot event logs: parse, decode, replay, verify.

For most uses: ``parse_event_log`` the bytes, then ``verify_event_log`` them against quoted PCR values and use the
claims of the ``VerifiedEventLog``. A replay or a decoded event alone proves nothing.
"""

from tpm.eventlog_claims import Claims, Finding, FindingCode
from tpm.eventlog_content import (
    Authority,
    Content,
    FirmwareBlob,
    HandoffTables,
    ImageLoad,
    Informational,
    Raw,
    Separator,
    StartupLocality,
    Text,
    VariableEvent,
    decode,
)
from tpm.eventlog_digests import Coverage
from tpm.eventlog_format import (
    MAX_EVENTS,
    MAX_LOG_BYTES,
    NO_PCR,
    Event,
    EventLog,
    Format,
    SpecId,
    append_events,
    parse_event,
    parse_event_log,
    parse_spec_id,
    startup_locality,
)
from tpm.eventlog_loader import LoaderEntry, Tag
from tpm.eventlog_quirks import Quirk
from tpm.eventlog_rules import DEFAULT_TYPES, EventLogRules
from tpm.eventlog_types import EventType, type_name
from tpm.eventlog_uefi import BootOption, Partition, PartitionTable, SignatureDatabase, SignatureList, Variable
from tpm.eventlog_verify import VerifiedEventLog, verify_event_log

__all__ = [
    "DEFAULT_TYPES",
    "MAX_EVENTS",
    "MAX_LOG_BYTES",
    "NO_PCR",
    "Authority",
    "BootOption",
    "Claims",
    "Content",
    "Coverage",
    "Event",
    "EventLog",
    "EventLogRules",
    "EventType",
    "Finding",
    "FindingCode",
    "FirmwareBlob",
    "Format",
    "HandoffTables",
    "ImageLoad",
    "Informational",
    "LoaderEntry",
    "Partition",
    "PartitionTable",
    "Quirk",
    "Raw",
    "Separator",
    "SignatureDatabase",
    "SignatureList",
    "SpecId",
    "StartupLocality",
    "Tag",
    "Text",
    "Variable",
    "VariableEvent",
    "VerifiedEventLog",
    "append_events",
    "decode",
    "parse_event",
    "parse_event_log",
    "parse_spec_id",
    "startup_locality",
    "type_name",
    "verify_event_log",
]
