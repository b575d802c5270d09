"""Writes the anchors file that the gateway's operator hands to auditors and executors, out of band."""

from gateway.config import GatewayConfig, read_file
from gateway.identity import Identity
from gateway.plain_key import public_key
from tpm.pcr import PcrValues
from ztrooted.anchors import FORMAT
from ztrooted.note_keys import ecdsa_key


def anchors_file(config: GatewayConfig) -> str:
    """The TOML text."""
    identity = Identity.load(config.data)
    folder = config.path(config.ek_roots)
    roots = "\n".join(
        read_file(path, "EK root").decode().strip() for path in sorted(folder.iterdir()) if path.suffix == ".pem"
    )
    vendors = ", ".join(f'"{vendor}"' for vendor in config.ek_vendors)
    lines = [
        f'format = "{FORMAT}"',
        f'trust_domain = "{config.trust_domain}"',
        "# The TPM-backed key that signs the lineage's checkpoints.",
        f'log_key = "{ecdsa_key(config.origin, identity.log_key()).vkey}"',
        "# The gateway's attestation key (TPM2B_PUBLIC), whose quotes seal them.",
        f'gateway_ak = "{identity.ak_public.hex()}"',
        "# Whose TPMs executors may have, and the roots that vouch for them.",
        f"ek_vendors = [{vendors}]",
        f"ek_roots = '''\n{roots}\n'''",
    ]
    plain = public_key(config)
    if plain is not None:
        lines += [
            "# A key that is not in the TPM and signs them, too, for tools that know no other. It is never enough.",
            f'additional_log_key = "{plain.vkey}"',
        ]
    if config.witnesses:
        listed = ", ".join(f'"{one.vkey}"' for one in config.witnesses)
        lines += [
            "# Whose cosignatures count, and how many a checkpoint must have. Whoever verifies may demand more.",
            f"witnesses = [{listed}]",
            f"witness_quorum = {config.witness_quorum}",
        ]
    if identity.approver_key is not None:
        lines += ["# Who approves another state of the gateway.", f'approver = "{identity.approver_key.hex()}"']
    lines.append("\n# The gateway's own state: a gateway in any other state can't sign.")
    lines += _tables("gateway_pcrs", identity.pcrs)
    for until, pcrs in identity.former.items():
        lines.append(f"\n# The state before, in which it sealed up to {until} records.")
        lines += _tables(f"former_gateway_pcrs.{until}", pcrs)
    return "\n".join(lines) + "\n"


def _tables(name: str, pcrs: PcrValues) -> list[str]:
    lines = []
    for bank, values in pcrs.items():
        lines.append(f"[{name}.{bank}]")
        lines += [f'{index} = "{value.hex()}"' for index, value in sorted(values.items())]
    return lines
