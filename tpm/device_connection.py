"""The connection to a TPM of our own, and what needs no key: properties, PCRs, NV, sessions. Imports tpm2_pytss.

``tpm.device.Device`` is what others use. Each public method holds one lock; whatever goes wrong is a DeviceError with a
remedy. The binding's rule that shapes these lines: no two attribute levels on a temporary, since the child view does
not keep its parent alive.
"""

import importlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tpm.algorithms import BANK_BY_NAME, BANKS, Alg
from tpm.codec import Reader
from tpm.errors import DeviceError
from tpm.observation import observed
from tpm.pcr import PcrSelection, parse_pcr_selection
from tpm.reasons import EvidenceReason
from tpm.response_codes import connection_lost, remedy
from tpm.software import SoftwareTpm

# The TSS writes each failed probe to stderr; what concerns a person is in our DeviceError. Set TSS2_LOG to see it all.
os.environ.setdefault("TSS2_LOG", "all+none")

try:
    # The binding is generated and untyped: all of it is Any here.
    tss: Any = importlib.import_module("tpm2_pytss")
except ImportError as absent:
    raise DeviceError(
        f"tpm2_pytss cannot be imported: {absent}",
        "pip install 'ztrooted[executor]' or 'ztrooted[gateway]' (needs libtss2-dev to build)",
    ) from absent

# TPM2_PT_MANUFACTURER of TPMs that are programs: libtpms and IBM's simulator, Microsoft's, and those of clouds and
# hypervisors. Whatever such a TPM says of itself, its seeds were in some host's memory.
VIRTUAL_MANUFACTURERS = frozenset({"IBM", "MSFT", "GOOG", "AMZN", "VMW", "QEMU", "XCG", "SW"})

# A read races with extends: each loses one in a few, never many.
MAX_RACES = 32
# EK certificates and all that belongs to them lie in this range (EK Credential Profile §2.2.1).
_NV_EK = range(0x01C00000, 0x01C08000)
# TPM_PT_NV_BUFFER_MAX, and what each TPM supports where it does not say.
_PT_NV_BUFFER_MAX, _NV_BUFFER = 0x12C, 512


Selection = PcrSelection | Mapping[str, Iterable[int]]


class Connection:
    """An open TPM without keys. Closing it stops the software TPM that was started for it."""

    def __init__(self, tcti: str, address: str, software: SoftwareTpm | None = None) -> None:
        self.address = address
        self.kind = address.partition(":")[0]
        self._lock = threading.RLock()
        self._software = software
        self._closed = False
        self._socket = Path(tcti.partition("path=")[2]) if tcti.startswith("swtpm:") else None
        self._tcti = tcti
        self._broken = False
        with self._doing("open the TPM"):
            self._esapi = tss.ESAPI(tcti)
        with self._doing("read the TPM's properties"):
            self._properties = self._read_properties()
        software_kind = self.kind in {"swtpm", "socket"}
        self.virtual = software_kind or self._properties["manufacturer"].upper() in VIRTUAL_MANUFACTURERS

    @classmethod
    def open(cls, address: str) -> Self:
        """Open ``device:/dev/tpmrm0``, ``socket:/path`` (a running swtpm), or ``swtpm:/state`` (one started for us)."""
        kind, _, path = address.partition(":")
        if kind not in {"device", "socket", "swtpm"} or not path.startswith("/"):
            raise DeviceError(
                f"{address!r} is not the address of a TPM", "use device:/dev/tpmrm0, swtpm:/state/dir or socket:/path"
            )
        if kind == "swtpm":
            with ExitStack() as failed:
                software = SoftwareTpm(Path(path))
                failed.callback(software.close)
                opened = cls(f"swtpm:path={software.path}", address, software)
                failed.pop_all()
                return opened
        if not Path(path).exists():
            what = "TPM device" if kind == "device" else "socket of a software TPM"
            raise DeviceError(
                f"there is no {what} at {path}", "check the address, and that the TPM is enabled or started"
            )
        if not os.access(path, os.R_OK | os.W_OK):
            raise DeviceError(
                f"permission denied on {path}", "add this user to the device's group (usually tss), or use its owner"
            )
        return cls(f"device:{path}" if kind == "device" else f"swtpm:path={path}", address)

    def close(self) -> None:
        """Close the connection, and stop the software TPM that was started for it. May be called twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._esapi.close()
                if self._software is not None:
                    self._software.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        """Hold the lock; turn what the TSS raises into a DeviceError that says what we were doing."""
        with observed("TPM", what=what), self._lock:
            if self._closed:
                raise DeviceError(f"cannot {what}: the TPM was closed", "open it again")
            try:
                if self._broken:
                    self._reconnect()
                yield
            except tss.TSS2_Exception as failed:
                self._broken = self._broken or connection_lost(int(failed.rc))
                raise DeviceError(
                    f"cannot {what}: {failed}", remedy(int(failed.rc), int(failed.error), self.address)
                ) from failed

    def _reconnect(self) -> None:
        """Replace the connection: after a failure of the transport the TSS's context answers nothing any more."""
        self._esapi.close()
        self._esapi = tss.ESAPI(self._tcti)
        self._broken = False

    # Properties and PCRs

    def properties(self) -> dict[str, str]:
        """``manufacturer``, ``vendor``, ``firmware`` (16 hexadecimal digits) and ``specification``."""
        return dict(self._properties)

    def _read_properties(self) -> dict[str, str]:
        _, capability = self._esapi.get_capability(tss.TPM2_CAP.TPM_PROPERTIES, 0x100, 64)
        data = capability.data
        listed = data.tpmProperties
        found: dict[int, int] = {}
        for position in range(listed.count):
            entry = listed[position]
            found[int(entry.property)] = int(entry.value)
        self._nv_buffer = found.get(_PT_NV_BUFFER_MAX, _NV_BUFFER)
        text = {tag: _ascii(found.get(tag, 0)) for tag in (0x100, 0x105, 0x106, 0x107, 0x108, 0x109)}
        revision = found.get(0x102, 0)
        return {
            "manufacturer": text[0x105].strip(),
            "vendor": "".join(text[tag] for tag in (0x106, 0x107, 0x108, 0x109)).strip(),
            "firmware": f"{found.get(0x10B, 0):08x}{found.get(0x10C, 0):08x}",
            "specification": f"{text[0x100].strip()} rev {revision // 100}.{revision % 100:02d}",
        }

    def banks(self) -> tuple[str, ...]:
        """The active PCR banks we can compute, by ascending algorithm identifier."""
        with self._doing("list PCR banks"):
            _, capability = self._esapi.get_capability(tss.TPM2_CAP.PCRS, 0, 1)
            data = capability.data
            assigned = data.assignedPCR
            active = []
            for index in range(assigned.count):
                bank = assigned[index]
                bits = bytes(bank.pcrSelect)[: int(bank.sizeofSelect)]
                if any(bits) and int(bank.hash) in BANKS:
                    active.append(Alg(int(bank.hash)))
            return tuple(BANKS[alg] for alg in sorted(active))

    def read_pcrs(self, selection: Selection) -> dict[str, dict[int, bytes]]:
        """Values of the selected PCRs, all read between two extends."""
        wanted = as_selection(selection)
        with self._doing("read PCRs"):
            for _ in range(MAX_RACES):
                counters, values = self._read_once(wanted)
                if len(counters) <= 1:
                    return values
        raise DeviceError("PCRs changed at each attempt to read them", "find what extends PCRs without pause")

    def _read_once(self, wanted: PcrSelection) -> tuple[set[int], dict[str, dict[int, bytes]]]:
        """Read ``wanted`` in as few commands as it takes; the update counters seen, and the values."""
        values: dict[str, dict[int, bytes]] = {name: {} for name, _ in wanted.banks}
        counters = set()
        missing = dict(wanted.as_dict())
        while any(missing.values()):
            asked = PcrSelection.of({name: indices for name, indices in missing.items() if indices})
            counter, returned, digests = self._esapi.pcr_read(tss_selection(asked))
            got = _selected(returned)
            if not got:
                raise DeviceError(
                    f"the TPM has no PCRs {asked.as_dict()}", f"its active banks are {', '.join(self.banks())}"
                )
            counters.add(int(counter))
            for position, (name, index) in enumerate(got):
                value = digests[position]
                values[name][index] = bytes(value)
                missing[name].remove(index)
        return counters, values

    def extend(self, index: int, digests: Mapping[str, bytes]) -> None:
        """Extend PCR ``index`` in each bank of ``digests``; a bank that is not active is ignored by the TPM."""
        listed = [
            tss.TPMT_HA(hashAlg=BANK_BY_NAME[name], digest=tss.TPMU_HA(**{name: value}))
            for name, value in digests.items()
        ]
        with self._doing(f"extend PCR {index}"):
            self._esapi.pcr_extend(tss.ESYS_TR.PCR0 + index, tss.TPML_DIGEST_VALUES(listed))

    def get_random(self, count: int) -> bytes:
        """``count`` bytes of the TPM's random number generator."""
        with self._doing("read random bytes"):
            collected = b""
            while len(collected) < count:
                chunk = self._esapi.get_random(min(32, count - len(collected)))
                collected += bytes(chunk)
            return collected

    # Capabilities and NV

    def _handles(self, wanted: range) -> frozenset[int]:
        """Which handles of ``wanted`` exist."""
        found: set[int] = set()
        first = wanted.start
        while first in wanted:
            more, capability = self._esapi.get_capability(tss.TPM2_CAP.HANDLES, first, 64)
            data = capability.data
            page = data.handles
            listed = [int(page[position]) for position in range(page.count)]
            found.update(listed)
            if not more or not listed:
                break
            first = listed[-1] + 1
        return frozenset(found.intersection(wanted))

    def _nv_indices(self) -> frozenset[int]:
        return self._handles(_NV_EK)

    def _nv_read(self, index: int) -> bytes:
        handle = self._esapi.tr_from_tpmpublic(index)
        try:
            area, _ = self._esapi.nv_read_public(handle)
            public = area.nvPublic
            size, read = int(public.dataSize), b""
            while len(read) < size:
                chunk = self._esapi.nv_read(handle, min(self._nv_buffer, size - len(read)), len(read))
                read += bytes(chunk)
            return read
        finally:
            self._esapi.tr_close(handle)

    @contextmanager
    def _policy_session(self) -> Iterator[Any]:
        none = tss.TPMT_SYM_DEF(algorithm=tss.TPM2_ALG.NULL)
        session = self._esapi.start_auth_session(
            tss.ESYS_TR.NONE, tss.ESYS_TR.NONE, tss.TPM2_SE.POLICY, none, tss.TPM2_ALG.SHA256
        )
        try:
            yield session
        finally:
            self._esapi.flush_context(session)


def as_selection(selection: Selection) -> PcrSelection:
    """A selection given as a mapping, made canonical."""
    return selection if isinstance(selection, PcrSelection) else PcrSelection.of(selection)


def tss_selection(selection: PcrSelection) -> Any:
    """The TSS's own TPML_PCR_SELECTION."""
    return unmarshal(tss.TPML_PCR_SELECTION, selection.marshal())


def _selected(returned: Any) -> list[tuple[str, int]]:
    """The (bank, PCR) pairs of a TPML_PCR_SELECTION of the TSS, in the order of the digests returned with it."""
    reader = Reader(returned.marshal(), EvidenceReason.PCR_MALFORMED)
    selection = parse_pcr_selection(reader)
    return [(name, index) for name, indices in selection.banks for index in indices]


def unmarshal(kind: Any, data: bytes) -> Any:
    """One TSS structure of exactly ``data``."""
    try:
        structure, used = kind.unmarshal(data)
    except tss.TSS2_Exception as malformed:
        raise DeviceError(
            f"these are not the bytes of a {kind.__name__}: {malformed}", "ask for them again"
        ) from malformed
    if used != len(data):
        raise DeviceError(f"{len(data) - used} bytes follow a {kind.__name__}", "ask for them again")
    return structure


def _ascii(value: int) -> str:
    """Four characters of a property, without the NULs that pad them (Part 2 §6.13)."""
    return value.to_bytes(4, "big").rstrip(b"\0").decode("ascii", "replace")
