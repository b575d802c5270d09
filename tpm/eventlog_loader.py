"""What boot loaders and operating systems log: labelled texts, names of files, tagged events.

None of these formats is in the profile. Labels, names and tag descriptions are remarks: the digest is of the text or
the file alone.
"""

import struct
from dataclasses import dataclass

# Windows nests three levels; one more for safety.
MAX_TAG_DEPTH = 4
# The longest Windows container seen has some 1,100 entries.
MAX_TAGS = 4096

# Labels a boot loader puts before the text it measured: GRUB (two generations), then the registered tags of systemd,
# Linux and Windows. Labels and tag descriptions are not part of the digest.
LOADER_LABELS = ("grub_cmd", "kernel_cmdline", "module_cmdline", "grub_kernel_cmdline", "grub_cmdline")
INITRD_TAG, LOAD_OPTIONS_TAG = 0x8F3B22EC, 0x8F3B22ED
TAG_NAMES: dict[int, str] = {
    INITRD_TAG: "initrd",
    LOAD_OPTIONS_TAG: "load_options",
    0xF5BC582A: "loader_conf",
    0x6C46F751: "devicetree_addon",
    0x49DFFE0F: "initrd_addon",
    0xDAC08E1A: "ucode_addon",
    0x13AED6DB: "uki_profile",
    0x40010001: "trust_boundary",
    0x40010002: "elam_aggregation",
    0x40010003: "loaded_module",
    0xC0010004: "trust_point",
    0x40010005: "ksr_aggregation",
    0x00020002: "boot_counter",
    0x00020005: "bitlocker_unlock",
    0x00020006: "event_counter",
    0x00040001: "boot_debugging",
    0x00040002: "boot_revocation_list",
    0x00050001: "os_kernel_debug",
    0x00050002: "code_integrity",
    0x00050003: "test_signing",
    0x00050004: "data_execution_prevention",
    0x00050005: "safe_mode",
    0x00050006: "winpe",
    0x0005000A: "hypervisor_launch_type",
    0x0005000E: "driver_load_policy",
    0x0005000F: "si_policy",
    0x00050012: "vsm_launch_type",
    0x00070001: "file_path",
    0x00070002: "image_size",
    0x00070003: "hash_algorithm",
    0x00070004: "authenticode_hash",
    0x00070005: "authority_issuer",
    0x00070008: "authority_publisher",
    0x0007000A: "image_validated",
}


@dataclass(frozen=True, slots=True)
class LoaderEntry:
    """EV_IPL: ``label`` is one of ``LOADER_LABELS`` before a measured text, or None before the name of something."""

    label: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Tag:
    """A tagged event: its id, its name where it is a known one, and its data, or the tags it contains."""

    id: int
    data: bytes
    children: tuple["Tag", ...] = ()

    @property
    def name(self) -> str:
        """A name of ``TAG_NAMES``, or the id in hexadecimal."""
        return TAG_NAMES.get(self.id) or f"0x{self.id:08x}"


def plain_text(data: bytes) -> str:
    """UTF-8 or UTF-16LE text without closing NULs; other bytes stand as their code points, so nothing is lost."""
    # Half a closing NUL is none: older systemd-boot logs one.
    wide = data[:-1] if len(data) % 2 and data.endswith(b"\x00") else data
    if len(wide) >= 2 and not len(wide) % 2 and not any(wide[1::2]):
        return wide.decode("utf-16-le", "replace").rstrip("\x00")
    try:
        return data.rstrip(b"\x00").decode()
    except UnicodeDecodeError:
        return data.rstrip(b"\x00").decode("latin-1")


def split_label(data: bytes) -> tuple[str, bytes] | None:
    """The label of a loader entry and what follows it, up to the first NUL; None where there is no known label."""
    label, colon, text = data.partition(b": ")
    if not colon or label.decode("latin-1") not in LOADER_LABELS:
        label, _, text = data.partition(b" ")
    name = label.decode("latin-1")
    return (name, text.split(b"\x00")[0]) if name in LOADER_LABELS else None


def parse_tags(data: bytes, depth: int = 1) -> tuple[Tag, ...] | None:
    """Tagged events (PFP §10.2.8) that fill ``data`` exactly, or None where it is no such thing."""
    found: list[Tag] = []
    at = 0
    while at < len(data):
        if len(data) - at < 8 or len(found) >= MAX_TAGS:
            return None
        number, size = struct.unpack_from("<II", data, at)
        body = data[at + 8 : at + 8 + size]
        if len(body) != size:
            return None
        nested = parse_tags(body, depth + 1) if number & 0x40000000 and depth < MAX_TAG_DEPTH else None
        found.append(Tag(number, body, nested or ()))
        at += 8 + size
    return tuple(found)
