"""The gateway as a service: who may call it, executors and their channel, baselines, and what it stands on."""

from collections.abc import Mapping
from types import MappingProxyType

from ztrooted.explanations.explanation import Explanation
from ztrooted.reasons import GateReason, Reason

SERVICE: Mapping[Reason, Explanation] = MappingProxyType(
    {
        GateReason.ATTESTATION_DRIFT: Explanation(
            403,
            "The machine proved a state that is not the approved one.",
            "Find out what changed; restore it or approve a new baseline, then reboot and enroll again.",
        ),
        GateReason.ATTESTATION_GATEWAY_KEY: Explanation(
            403,
            "The gateway's attestation key or log key is not the one in the anchors.",
            "Check that it is the gateway that is meant; if it has a new TPM, get its anchors again from the operator.",
        ),
        GateReason.ATTESTATION_GATEWAY_QUOTE: Explanation(
            403,
            "The gateway did not prove the state of its machine.",
            "Have nothing to do with it until it does; ask its operator.",
        ),
        GateReason.ATTESTATION_GATEWAY_STATE: Explanation(
            403,
            "The gateway's machine has booted something else than the anchors allow.",
            "Have nothing to do with it until its operator has explained that, and has handed out new anchors.",
        ),
        GateReason.ATTESTATION_NO_BASELINE: Explanation(
            403,
            "No baseline is approved for this class of executors, so there is no state to compare with.",
            "Capture a baseline on a machine you trust, and approve it.",
        ),
        GateReason.ATTESTATION_OVERDUE: Explanation(
            403,
            "The executor did not prove itself before its deadline, so it is not trusted.",
            "Check that the agent runs, reaches the gateway and has a responsive TPM.",
        ),
        GateReason.ATTESTATION_POLICY: Explanation(
            403,
            "A check that the appraisal policy requires did not run and pass.",
            "Check the executor's class in the appraisal policy, and that its evidence is complete.",
        ),
        GateReason.ATTESTATION_TIER: Explanation(
            403,
            "The machine's evidence can't reach the assurance tier that its class asks for.",
            "Use a machine with a hardware TPM, or put it into a class with a lower 'min_tier'.",
        ),
        GateReason.AUTH_CREDENTIAL_INVALID: Explanation(
            401,
            "The token or certificate is unknown, expired or replaced.",
            "Get a new token from the operator; an executor starts its agent again.",
        ),
        GateReason.AUTH_CREDENTIAL_MISSING: Explanation(
            401,
            "The request carries no credential, and this address needs one.",
            "Send a bearer token, or an executor's session certificate.",
        ),
        GateReason.AUTH_CROSS_SITE: Explanation(
            403,
            "A form was sent that the gateway's own page did not give to this browser.",
            "Open the page again in the console, and send the form from there.",
        ),
        GateReason.AUTH_PROVIDER_UNAVAILABLE: Explanation(
            503,
            "The identity provider could not be asked, or its keys could not be had, so nobody is known by it.",
            "Check that the gateway reaches the provider; the gateway's log says what went wrong.",
        ),
        GateReason.AUTH_ROLE: Explanation(
            403,
            "The credential is genuine, and its role may not do this.",
            "Use a credential of the role that is named.",
        ),
        GateReason.BASELINE_EXPIRED: Explanation(
            403,
            "The approved baseline is past its end, so it vouches for nothing.",
            "Capture a new baseline, and approve it.",
        ),
        GateReason.BASELINE_MALFORMED: Explanation(
            400,
            "The baseline cannot be read or has values that can't be right.",
            "Capture the baseline again instead of editing it.",
        ),
        GateReason.BASELINE_SOURCE: Explanation(
            400,
            "A baseline can't be computed from these files.",
            "Correct what the detail names, and compute it again; nothing was written.",
        ),
        GateReason.BASELINE_NOT_APPROVED: Explanation(
            403,
            "The baseline exists and no operator has approved it.",
            "Review the baseline, then approve it.",
        ),
        GateReason.BASELINE_UNKNOWN: Explanation(
            404,
            "There is no baseline of this digest.",
            "Check the digest, which the capture of a baseline returns.",
        ),
        GateReason.CHALLENGE_EXPIRED: Explanation(
            410,
            "The challenge was answered after its deadline.",
            "Ask for a new challenge, and answer it at once.",
        ),
        GateReason.CHALLENGE_UNKNOWN: Explanation(
            404,
            "The gateway is not waiting for an answer to this challenge.",
            "Answer only the newest challenge, within its deadline.",
        ),
        GateReason.CHALLENGE_USED: Explanation(
            409,
            "The challenge was answered before, and each is good for one answer.",
            "Ask for a new challenge.",
        ),
        GateReason.CHALLENGE_WRONG_EXECUTOR: Explanation(
            403,
            "The challenge was given to another executor.",
            "Answer only challenges of one's own channel; if the agent did, look for a relay.",
        ),
        GateReason.CHALLENGE_WRONG_PURPOSE: Explanation(
            403,
            "The challenge was given for another step of the protocol.",
            "Answer each challenge with a quote for its own purpose.",
        ),
        GateReason.CHANNEL_CLOSED: Explanation(
            503,
            "The executor's channel to the gateway is closed.",
            "Check the network and that the agent runs; it connects again by itself.",
        ),
        GateReason.CHANNEL_MALFORMED: Explanation(
            400,
            "A message on the executor's channel is not one of the protocol.",
            "Run agent and gateway of matching versions.",
        ),
        GateReason.CHANNEL_SUPERSEDED: Explanation(
            409,
            "A newer connection or enrollment of this executor has taken the channel's place.",
            "Run one agent per machine; if only one runs, look for a copy of its identity.",
        ),
        GateReason.CLOCK_UNTRUSTED: Explanation(
            503,
            "The gateway's clock jumped or is behind its own records, so nothing can be dated.",
            "Set the gateway's clock right, then start it again.",
        ),
        GateReason.CONFIG_INVALID: Explanation(
            500,
            "The configuration has a value that cannot be used.",
            "Correct the setting that is named, then start again.",
        ),
        GateReason.CONFIG_MISSING: Explanation(
            500,
            "A configuration file or setting that is needed is not there.",
            "Create the file or setting that is named, then start again.",
        ),
        GateReason.CONFIG_UNKNOWN_KEY: Explanation(
            500,
            "The configuration has a key that nothing reads, perhaps misspelt.",
            "Correct or remove the key that is named, then start again.",
        ),
        GateReason.DATABASE_CORRUPT: Explanation(
            503,
            "The database is damaged or is not one of this program.",
            "Keep the file as evidence, and restore a backup.",
        ),
        GateReason.DATABASE_IN_USE: Explanation(
            503,
            "Another gateway has the database open.",
            "Stop the other gateway; one database serves one.",
        ),
        GateReason.DATABASE_NEWER: Explanation(
            503,
            "A newer version of this program has changed the schema of the database.",
            "Start that version again, or restore a backup of before the update.",
        ),
        GateReason.DATABASE_UNAVAILABLE: Explanation(
            503,
            "The database can't be opened or written, so nothing may be issued.",
            "Check disk space, permissions and the disk itself; then try again.",
        ),
        GateReason.ENROLL_ACTIVATION_FAILED: Explanation(
            403,
            "Endorsement and attestation key were not proved to be in one TPM.",
            "Start the enrollment over with both keys of the same TPM.",
        ),
        GateReason.ENROLL_CHALLENGE_EXPIRED: Explanation(
            410,
            "The enrollment was not finished in time.",
            "Start the enrollment over.",
        ),
        GateReason.ENROLL_CHALLENGE_USED: Explanation(
            409,
            "There is no such enrollment, or it was answered before; each takes one answer.",
            "Start the enrollment over.",
        ),
        GateReason.ENROLL_CHANGED: Explanation(
            409,
            "Keys changed between the beginning and the end of the enrollment.",
            "Start the enrollment over, and keep to the same keys.",
        ),
        GateReason.ENROLL_IDENTITY_CONFLICT: Explanation(
            409,
            "This identity belongs to another TPM or key already.",
            "Let an operator retire the old identity first, if the change was intended.",
        ),
        GateReason.ENROLL_RETIRED: Explanation(
            403,
            "An operator retired this executor, and it may not come back by itself.",
            "Use a machine with another TPM: a retirement is for good.",
        ),
        GateReason.ENROLL_SESSION_KEY: Explanation(
            400,
            "The session key is not a P-256 public key in its one DER form.",
            "Send the key as SubjectPublicKeyInfo with a named curve and an uncompressed point.",
        ),
        GateReason.ENVIRONMENT_ADDRESS_IN_USE: Explanation(
            503,
            "Another program listens on the address.",
            "Stop that program or configure another address.",
        ),
        GateReason.ENVIRONMENT_DATA_FOLDER: Explanation(
            503,
            "The data folder is missing, not writable or damaged.",
            "Check its path and permissions; restore it from a backup if files are damaged.",
        ),
        GateReason.ENVIRONMENT_GATEWAY_UNREACHABLE: Explanation(
            503,
            "The gateway can't be reached.",
            "Check the address, the network and that the gateway runs.",
        ),
        GateReason.ENVIRONMENT_KEY_FILE: Explanation(
            503,
            "A key file is unreadable, damaged or open to others than its owner.",
            "Restore the file or set its permissions to 600; replace the key if others may have read it.",
        ),
        GateReason.ENVIRONMENT_NOT_A_GATEWAY: Explanation(
            503,
            "What answers at the gateway's address does not talk as a gateway of this version does.",
            "Check the address, and that nothing on the way answers for the gateway.",
        ),
        GateReason.ENVIRONMENT_OUTPUT: Explanation(
            503,
            "A file that was to be written can't be.",
            "Name another file, or make its folder and allow writing there.",
        ),
        GateReason.ENVIRONMENT_TLS: Explanation(
            503,
            "The TLS certificate and key can't be used.",
            "Check that both exist, belong together and have not expired.",
        ),
        GateReason.ENVIRONMENT_TPM: Explanation(
            503,
            "A TPM of our own can't be opened or used.",
            "Check that /dev/tpmrm0 exists and that this user may open it.",
        ),
        GateReason.ID_INVALID: Explanation(
            400,
            "An id or a name is not in the form that it has to have.",
            "Use an id exactly as it was returned; an executor's is 'ex-' and 32 lower-case hexadecimal digits.",
        ),
        GateReason.INTERNAL_ERROR: Explanation(
            500,
            "The gateway met a defect of its own, and denied the request.",
            "Look up the instance id in the gateway's log, and report the defect.",
        ),
        GateReason.REQUEST_CONTENT_TYPE: Explanation(
            415,
            "The body is not plain JSON.",
            "Send Content-Type: application/json, without Content-Encoding.",
        ),
        GateReason.REQUEST_KEY_IN_USE: Explanation(
            409,
            "A request under this Idempotency-Key is still being answered.",
            "Wait for that answer, or send the same request again in a moment.",
        ),
        GateReason.REQUEST_KEY_LIMIT: Explanation(
            429,
            "As many answers are kept under your Idempotency-Keys as may be.",
            "Wait until the oldest have gone, or send it without a key and see yourself that it is done once.",
        ),
        GateReason.REQUEST_KEY_REUSED: Explanation(
            422,
            "This Idempotency-Key was used for another request.",
            "Make a new random key for each request, and keep it only to send that same request again.",
        ),
        GateReason.REQUEST_MALFORMED: Explanation(
            400,
            "The request does not fit its description.",
            "Correct the field that is named.",
        ),
        GateReason.REQUEST_METHOD: Explanation(
            405,
            "This address does not take this method.",
            "Use the method that the API has for this address.",
        ),
        GateReason.REQUEST_NOT_FOUND: Explanation(
            404,
            "There is nothing at this address.",
            "Check the path, and the id in it.",
        ),
        GateReason.REQUEST_RATE: Explanation(
            429,
            "More was asked in a short time than one address or one caller may ask.",
            "Wait for as many seconds as Retry-After says, then go on more slowly.",
        ),
        GateReason.REQUEST_TIMEOUT: Explanation(
            408,
            "The body of the request did not arrive in time.",
            "Send it in one piece; if the connection is that slow, mend it first.",
        ),
        GateReason.REQUEST_TOO_LARGE: Explanation(
            413,
            "The request is larger than this address takes.",
            "Send less: only what was asked for, and evidence in the parts that are new.",
        ),
        GateReason.SERVICE_BUSY: Explanation(
            503,
            "Too many ask the gateway's TPM for the same thing at once.",
            "Try again in a few seconds.",
        ),
        GateReason.SERVICE_LATE: Explanation(
            503,
            "The gateway is late with what has to happen by its time, such as the end of leases.",
            "Give it more processor time, or fewer executors; if that lasts, restart it.",
        ),
        GateReason.SERVICE_NOT_READY: Explanation(
            503,
            "The gateway can't authorize correctly at the moment, so it authorizes nothing.",
            "Try again in a minute; if it stays, read /readyz and the gateway's log.",
        ),
        GateReason.SERVICE_STOPPING: Explanation(
            503,
            "The gateway is shutting down.",
            "Try again when it has started.",
        ),
        GateReason.SESSION_CONFLICT: Explanation(
            409,
            "Two machines hold the session of one executor and both answer, so one of them is a copy of the other.",
            "Find and stop the copy (a cloned virtual machine, a restored snapshot), then release the executor.",
        ),
        GateReason.WEBHOOK_SECRET: Explanation(
            400,
            "A webhook's secret is not one, or there is one already.",
            "Create it with 'ztrooted gateway webhook', and give the receiver the same text.",
        ),
        GateReason.WEBHOOK_SIGNATURE: Explanation(
            403,
            "A webhook's message is not what the gateway sent, or not from now.",
            "Drop the message, and check that receiver and gateway have the same secret and right clocks.",
        ),
    }
)
