"""What a verdict is worth: assurance tiers."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ztrooted.appraisal_policy import AppraisalClass

# A0 unverified, A1 observed, A2 policy-constrained, A3 hardware-rooted boot, A4 hardware-rooted boot and runtime.
UNVERIFIED, OBSERVED, CONSTRAINED, BOOT, RUNTIME = range(5)


def tier(policy: "AppraisalClass", *, trusted: bool, virtual: bool) -> int:
    """The tier of an executor, 0 to 4.

    0. The verdict is not trusted.
    1. The evidence is genuine, and the class only observes.
    2. The evidence is as the class requires. A software TPM gets no further: it proves as much as whoever runs its
       process wants it to.
    3. Of a hardware TPM, and the firmware's event log was verified with Secure Boot on, and what was booted compared:
       by pinned PCRs or by event rules.
    4. That, and every file that the kernel measured since was compared.
    """
    if not trusted:
        return UNVERIFIED
    if policy.observe:
        return OBSERVED
    log = policy.event_log
    if virtual or log is None or not log.secure_boot or not (policy.pinned or log.rules()):
        return CONSTRAINED
    return RUNTIME if policy.ima is not None else BOOT


def tier_name(number: int) -> str:
    """As shown everywhere: A0 to A4."""
    return f"A{number}"
