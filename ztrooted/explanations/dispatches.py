"""What an orchestrator asks for and an executor runs: dispatches, policy, artifacts, jobs."""

from collections.abc import Mapping
from types import MappingProxyType

from ztrooted.explanations.explanation import Explanation
from ztrooted.reasons import GateReason, Reason

DISPATCHES: Mapping[Reason, Explanation] = MappingProxyType(
    {
        GateReason.ARTIFACT_UNKNOWN: Explanation(
            404,
            "There is no such authorization, or it belongs to another executor.",
            "Check the authorization's id; ask for a new dispatch if it is lost.",
        ),
        GateReason.ARTIFACT_USED: Explanation(
            409,
            "The artifact was used already or its authorization has ended, and each works only once.",
            "Ask for a new authorization; every attempt needs its own.",
        ),
        GateReason.DECISION_UNKNOWN: Explanation(
            404,
            "There is no such recorded decision, or it concerns somebody else's authorization.",
            "Name an authorization, the number of a record, or an executor.",
        ),
        GateReason.DISPATCH_EXECUTOR_UNKNOWN: Explanation(
            404,
            "No executor of this id is enrolled.",
            "Check the id, or enroll the machine first.",
        ),
        GateReason.DISPATCH_EXECUTOR_UNREACHABLE: Explanation(
            503,
            "The executor is not connected, so it can't be asked for proof.",
            "Start the executor's agent, check its network, and dispatch again.",
        ),
        GateReason.EXECUTION_ABANDONED: Explanation(
            409,
            "The client that had the job run went away, so the job was stopped.",
            "Keep the client running until the job ends, and ask for a new authorization.",
        ),
        GateReason.EXECUTION_AGENT_LOST: Explanation(
            409,
            "The executor's agent or session ended while the job ran, and the job ended with it.",
            "Start the agent again, and ask for a new authorization.",
        ),
        GateReason.EXECUTION_EXITED: Explanation(
            409,
            "The job has ended by itself.",
            "Ask for a new authorization to run it again.",
        ),
        GateReason.EXECUTION_MAX_RUNTIME: Explanation(
            403,
            "The job ran for as long as it was authorized to, and was stopped.",
            "Make the job shorter, or ask for more time in a new dispatch.",
        ),
        GateReason.EXECUTION_START_FAILED: Explanation(
            409,
            "The job could not be started on the executor.",
            "Correct what is named, then ask for a new authorization.",
        ),
        GateReason.JOB_FILE_MISMATCH: Explanation(
            403,
            "A file on the executor is not the one the job names by its digest.",
            "Install the authorized version of the file, or have this one authorized.",
        ),
        GateReason.JOB_MALFORMED: Explanation(
            400,
            "The job's description can't be used.",
            "Correct the field that is named.",
        ),
        GateReason.JOB_MISMATCH: Explanation(
            403,
            "The job to be run is not the one that was authorized.",
            "Run exactly the authorized job, or ask for a new authorization.",
        ),
        GateReason.JWS_ALG_NOT_ALLOWED: Explanation(
            403,
            "The artifact names another signature algorithm than ES256.",
            "Present the artifact as the gateway issued it.",
        ),
        GateReason.JWS_AUDIENCE: Explanation(
            403,
            "The artifact was issued for another audience.",
            "Present it to the installation it names, or set the expected audience right.",
        ),
        GateReason.JWS_BINDING: Explanation(
            403,
            "The artifact is bound to another session key than the presenter's.",
            "Use it on the executor session it was issued for, or ask for a new authorization.",
        ),
        GateReason.JWS_CLAIMS: Explanation(
            400,
            "A claim of the artifact is missing, of a wrong type or contradicts another.",
            "Present the artifact as the gateway issued it.",
        ),
        GateReason.JWS_EXECUTOR: Explanation(
            403,
            "The artifact was issued for another executor.",
            "Run the job on the executor it names, or ask for an authorization for this one.",
        ),
        GateReason.JWS_EXPIRED: Explanation(
            403,
            "The artifact's lease has ended.",
            "Use its newest renewal, or ask for a new authorization.",
        ),
        GateReason.JWS_HEADER: Explanation(
            403,
            "The artifact's header has members that are not accepted, such as an embedded key.",
            "Present the artifact as the gateway issued it.",
        ),
        GateReason.JWS_ISSUER: Explanation(
            403,
            "The artifact was issued by another gateway.",
            "Use an artifact of the gateway in the anchors, or correct the anchors.",
        ),
        GateReason.JWS_JOB: Explanation(
            403,
            "The artifact was issued for another job.",
            "Run exactly the authorized job, or ask for a new authorization.",
        ),
        GateReason.JWS_JSON: Explanation(
            400,
            "The artifact's JSON is invalid or ambiguous.",
            "Present the artifact as the gateway issued it.",
        ),
        GateReason.JWS_KEY_EXPIRED: Explanation(
            403,
            "The artifact was issued outside the time in which its key was in use.",
            "Ask for a new authorization; if the artifact is new, check both clocks.",
        ),
        GateReason.JWS_KID: Explanation(
            403,
            "The artifact names no key, or one that is not known as an issuing key.",
            "Update the issuer keys from the gateway; if it stays unknown, reject the artifact.",
        ),
        GateReason.JWS_LIFETIME: Explanation(
            403,
            "The artifact is valid for longer than any lease may be.",
            "Lower the lease length in the appraisal policy, and ask for a new authorization.",
        ),
        GateReason.JWS_MALFORMED: Explanation(
            400,
            "The artifact is not three segments of canonical base64url.",
            "Copy it in full, without added or changed characters.",
        ),
        GateReason.JWS_NOT_YET_VALID: Explanation(
            403,
            "The artifact is not valid yet.",
            "Compare the clocks of gateway and executor, and set the wrong one right.",
        ),
        GateReason.JWS_RENEWAL: Explanation(
            403,
            "The renewal does not continue the artifact that it claims to renew.",
            "Keep the renewals in order, as the gateway sent them.",
        ),
        GateReason.JWS_SCOPE: Explanation(
            403,
            "The artifact allows other work than this, or a renewal changes what it allows.",
            "Ask for an authorization for exactly this work.",
        ),
        GateReason.JWS_SIGNATURE: Explanation(
            403,
            "The artifact's signature is not that of the key it names.",
            "Present the artifact as the gateway issued it; if it is unchanged, it is forged.",
        ),
        GateReason.JWS_STALE_EPOCH: Explanation(
            403,
            "The artifact is from before the executor's TPM was reset.",
            "Ask for a new authorization after the executor has enrolled again.",
        ),
        GateReason.JWS_TOO_LARGE: Explanation(
            413,
            "The artifact is longer than any that the gateway issues.",
            "Present the artifact alone, as the gateway issued it.",
        ),
        GateReason.JWS_TYP: Explanation(
            403,
            "The token is of another type than was expected here.",
            "Present an authorization artifact, not another token.",
        ),
        GateReason.LEASE_EXPIRED: Explanation(
            410,
            "The lease ended before it was renewed or used.",
            "Ask for a new authorization; if it repeats, look for a slow network or TPM.",
        ),
        GateReason.LIFECYCLE_TRANSITION: Explanation(
            409,
            "The authorization's state does not allow this step.",
            "Look up its state; what has ended needs a new authorization.",
        ),
        GateReason.OPERATOR_NOT_QUARANTINED: Explanation(
            409,
            "What is to be released is not in quarantine.",
            "See 'ztrooted quarantined' for what is.",
        ),
        GateReason.OPERATOR_QUARANTINED: Explanation(
            403,
            "An operator put the executor, its class or the orchestrator into quarantine.",
            "Ask the operator why; nothing is authorized there until it is released.",
        ),
        GateReason.OPERATOR_RETIRED: Explanation(
            403,
            "An operator took the executor out of service for good, and with it what it ran.",
            "Dispatch to another executor; 'ztrooted executors' lists them.",
        ),
        GateReason.OPERATOR_REVOKED: Explanation(
            403,
            "An operator revoked the authorization, or everything of its executor, class or orchestrator.",
            "Ask the operator why, before asking for a new one.",
        ),
        GateReason.OPERATOR_SUBJECT: Explanation(
            404,
            "There is nothing of that name to be ordered about.",
            "Check the kind and the id: executors go by id, orchestrators by their token's name, classes as in the policy.",
        ),
        GateReason.OPERATOR_SUCCESSOR: Explanation(
            409,
            "That executor can't come in the place of the one that is to be retired.",
            "Check both ids: a place is taken once, by an executor that is not retired itself.",
        ),
        GateReason.PARENT_CHILDREN: Explanation(
            403,
            "The parent authorization has been given as many children as it may have.",
            "Ask for more children when the parent is authorized, or dispatch without a parent.",
        ),
        GateReason.PARENT_DELEGATION: Explanation(
            403,
            "The child asks to hand on more than its parent may.",
            "Ask for fewer levels and children, and name only steps and executors of the parent's delegation.",
        ),
        GateReason.PARENT_DEPTH: Explanation(
            403,
            "The parent authorization may have no level below it.",
            "Ask for a delegation when the parent is authorized, or name an authorization further up.",
        ),
        GateReason.PARENT_ENDED: Explanation(
            409,
            "The parent authorization is not live any more, and a child does not outlive its parent.",
            "Authorize the parent again, then ask for its children.",
        ),
        GateReason.PARENT_LIFETIME: Explanation(
            403,
            "The child would run longer than its parent, and everything above it, may.",
            "Ask for no more time than is named, or leave the maximum runtime out.",
        ),
        GateReason.PARENT_SCOPE: Explanation(
            403,
            "The child's workflow, run, step or executor is outside of what its parent may hand on to.",
            "Keep to the parent's run and its delegation, or dispatch without a parent.",
        ),
        GateReason.PARENT_UNKNOWN: Explanation(
            404,
            "There is no such parent authorization, or you may not delegate under it.",
            "Check the parent's id, and whether the dispatch policy permits you to delegate under it.",
        ),
        GateReason.POLICY_DENIED: Explanation(
            403,
            "The dispatch policy does not permit this dispatch.",
            "Read the decision's record in the lineage; change the request, or the policy if it is wrong.",
        ),
        GateReason.POLICY_EMPTY: Explanation(
            400,
            "The policy has no rule, so it could only deny.",
            "Write at least one rule; to deny everything, say so with a forbid.",
        ),
        GateReason.POLICY_ERROR: Explanation(
            403,
            "A rule of the dispatch policy failed while it was evaluated, so the answer is no.",
            "Correct the rule that is named.",
        ),
        GateReason.POLICY_INVALID: Explanation(
            400,
            "The policy cannot be read or does not fit its schema.",
            "Correct the line or key that is named, then load the policy again.",
        ),
        GateReason.POLICY_CHANGED: Explanation(
            409,
            "The policies changed while this was being decided, so the decision was dropped.",
            "Ask again; the answer will be one of the policies in force now.",
        ),
        GateReason.POLICY_PERMITS_ALL: Explanation(
            403,
            "A policy permits everything, on machines that proved nothing too, and does not say that this is meant.",
            "Add a condition; or, if it is meant, the annotation that says so.",
        ),
        GateReason.POLICY_ROLLBACK: Explanation(
            409,
            "These policies were in force before, and were replaced since.",
            "If going back is meant, activate them with --allow-rollback; the record will show it.",
        ),
        GateReason.POLICY_NO_CLASS: Explanation(
            403,
            "No class of the appraisal policy is for this executor, so nothing says when to trust it.",
            "Label the executor, or add a class that matches it; 'ztrooted policy test' tries that out.",
        ),
        GateReason.POLICY_MISMATCH: Explanation(
            403,
            "The policy is not the one that the decision names.",
            "Supply the policy of that digest, or decide again under the current one.",
        ),
        GateReason.SUPERVISION_UNAVAILABLE: Explanation(
            503,
            "The executor can't guarantee that a job is stopped, so it runs none.",
            "Run the agent as root or allow user namespaces for its user.",
        ),
    }
)
