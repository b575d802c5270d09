"""The gateway's own TPM, and its refusals in the gate's own words."""

from tpm.device_secret import SecretDevice
from tpm.errors import DeviceError
from ztrooted.errors import EnvironmentProblem
from ztrooted.reasons import GateReason


def require_same_tpm(device: SecretDevice, ak_public: bytes) -> None:
    """EnvironmentProblem ``environment.tpm`` where this is not the TPM whose attestation key (TPM2B_PUBLIC) that is."""
    try:
        known = device.attestation_key() == ak_public
    except DeviceError as error:
        raise environment_problem(error) from error
    if not known:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_TPM,
            f"the TPM at {device.address} is not the one this gateway was initialised with, or it was cleared",
            "connect the right TPM; or initialise a new gateway, whose lineage will have another key: with a recovery"
            " export it keeps the old CAs ('ztrooted gateway init --recovery')",
        )


def open_device(address: str) -> SecretDevice:
    """The TPM at ``address``; EnvironmentProblem with what to do when it can't be used."""
    try:
        return SecretDevice.open(address)
    except DeviceError as error:
        raise environment_problem(error) from error


def environment_problem(error: DeviceError) -> EnvironmentProblem:
    """A TPM's refusal, in the gate's own words."""
    return EnvironmentProblem(GateReason.ENVIRONMENT_TPM, str(error), error.remedy)
