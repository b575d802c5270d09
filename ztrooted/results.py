"""What a verdict is worth: assurance tiers."""

from ztrooted.appraisal_policy import AppraisalClass

# A0 unverified, A1 observed, A2 policy-constrained, A3 hardware-rooted boot, A4 hardware-rooted boot and runtime.
UNVERIFIED, OBSERVED, CONSTRAINED, BOOT, RUNTIME = range(5)


def tier(policy: AppraisalClass, *, trusted: bool, virtual: bool) -> int:
    """The tier of an executor, 0 to 4.

    A software TPM proves as much as whoever runs its process wants it to, so it never gets above A2.
    """
    if not trusted:
        return UNVERIFIED
    if virtual:
        return CONSTRAINED
    if policy.event_log is None or not policy.pinned:
        return OBSERVED
    return RUNTIME if policy.ima is not None else BOOT


def tier_name(number: int) -> str:
    """As shown everywhere: A0 to A4."""
    return f"A{number}"
