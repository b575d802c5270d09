"""The machine that an executor or a gateway runs on, as ``ztrooted doctor`` finds it."""

from collections.abc import Mapping
from types import MappingProxyType

from ztrooted.explanations.explanation import Explanation
from ztrooted.reasons import GateReason, Reason

MACHINE: Mapping[Reason, Explanation] = MappingProxyType(
    {
        GateReason.MACHINE_CGROUPS: Explanation(
            503,
            "Limits of jobs can't all be kept here, so jobs that ask for them don't start.",
            "Give the agent a control group that it may divide: in its systemd unit, Delegate=yes.",
        ),
        GateReason.MACHINE_CLOCK: Explanation(
            503,
            "This machine's clock is wrong, or nothing keeps it right; records, leases and certificates depend on it.",
            "Start a time service such as systemd-timesyncd or chrony, and wait until it has set the clock.",
        ),
        GateReason.MACHINE_DISK: Explanation(
            503,
            "There is little space left where the gateway writes; on a full disk nothing can be recorded or issued.",
            "Make room, or move the data folder to a larger disk.",
        ),
        GateReason.MACHINE_EK_CERTIFICATE: Explanation(
            503,
            "The TPM keeps no EK certificate that can be read, so no maker vouches for it.",
            "Use a machine whose TPM holds one; an EK without a certificate can't enroll.",
        ),
        GateReason.MACHINE_EVENT_LOG: Explanation(
            503,
            "The firmware's event log can't be used, so it can't be shown what was booted.",
            "Boot with measured boot and a kernel that keeps the log, and run as root or with read access to securityfs.",
        ),
        GateReason.MACHINE_IMA_LIST: Explanation(
            503,
            "The kernel's measurement list can't be used, so it can't be shown what was loaded.",
            "Boot a kernel with CONFIG_IMA, and run as root or with read access to securityfs.",
        ),
        GateReason.MACHINE_IMA_POLICY: Explanation(
            503,
            "The kernel is not told to measure what is loaded, so the list says little.",
            "Boot with ima_policy=tcb, or load a policy early, and keep ima_hash=sha256.",
        ),
        GateReason.MACHINE_PID_NAMESPACE: Explanation(
            503,
            "No PID namespace can be made, so the agent refuses to run jobs that it could not kill for certain.",
            "Run the agent as root, or allow user namespaces (kernel.unprivileged_userns_clone, user.max_user_namespaces).",
        ),
        GateReason.MACHINE_PORT: Explanation(
            503,
            "The gateway can't listen where its configuration says.",
            "Stop what uses the port, or set listen_host and listen_port.",
        ),
        GateReason.MACHINE_SOCKET: Explanation(
            503,
            "The agent can't make its socket there, so nobody could ask it to run a job.",
            "Create the folder for the agent's user, or name another path with --socket.",
        ),
        GateReason.MACHINE_TLS_ENDS: Explanation(
            503,
            "The gateway's TLS certificate ends soon or is over; then nobody can connect any more.",
            "Replace tls/cert.pem, and put its key into tls/key.pem, and hand out the new CA file.",
        ),
        GateReason.MACHINE_TPM_ABSENT: Explanation(
            503,
            "There is no TPM at that address.",
            "Switch the TPM on in the firmware's setup, load its driver, and check the address.",
        ),
        GateReason.MACHINE_TPM_BANK: Explanation(
            503,
            "The TPM has no active SHA-256 bank, so its PCRs can't be quoted as policies demand.",
            "Activate the SHA-256 bank in the firmware's setup (or with tpm2_pcrallocate), then reboot.",
        ),
        GateReason.MACHINE_TPM_FAILING: Explanation(
            503,
            "The TPM is there and does not do what is asked of it.",
            "Look at the TPM's answer; restart the machine, and replace a TPM that stays in failure mode.",
        ),
        GateReason.MACHINE_TPM_HIERARCHY: Explanation(
            503,
            "A hierarchy that holds our keys is closed.",
            "Clear its password (tpm2_changeauth), or switch it on in the firmware's setup.",
        ),
        GateReason.MACHINE_TPM_LOCKOUT: Explanation(
            503,
            "The TPM has seen wrong passwords and refuses some commands, or soon will.",
            "Find out who tries passwords; wait, or reset the lockout (tpm2_dictionarylockout --clear-lockout).",
        ),
        GateReason.MACHINE_TPM_NOT_RUNNING: Explanation(
            503,
            "This software TPM is not running, and starting it would change it, so it was not looked at.",
            "Start what runs it, and look again with the address socket:/path of the running one.",
        ),
        GateReason.MACHINE_TPM_OTHER: Explanation(
            503,
            "This is another TPM than the one that the gateway was made with, or it was cleared.",
            "Connect the right TPM, or initialise a new gateway; its lineage will have another key.",
        ),
        GateReason.MACHINE_TPM_PERMISSION: Explanation(
            503,
            "This user may not use the TPM.",
            "Add the user to the group that owns the device (usually tss), and log in again.",
        ),
        GateReason.MACHINE_TPM_RAW: Explanation(
            503,
            "The TPM is used without the kernel's resource manager, so programs can take each other's slots.",
            "Use the device /dev/tpmrm0.",
        ),
        GateReason.MACHINE_TPM_VIRTUAL: Explanation(
            503,
            "This TPM is a program; whatever it signs proves nothing about hardware.",
            "For more than trials use a machine with a hardware TPM.",
        ),
    }
)
