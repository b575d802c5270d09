"""Attestation results for other tools: an executor's last verdict as a signed EAR, and the keys that sign them."""

import re
from importlib.metadata import version
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.auth import Caller
from gateway.declaration import TEXT, Parameter, Route, bytes_of, json_of
from gateway.routes.route import PEOPLE, json_answer
from gateway.storage import retirements
from gateway.storage.executors import Executor
from ztrooted import ear
from ztrooted.appraisal_policy import NO_RULES
from ztrooted.ar4si import OURS, TrustVector, vector_of
from ztrooted.ear import Appraised, Profile
from ztrooted.errors import GateError, PolicyError
from ztrooted.reasons import GateReason
from ztrooted.results import tier, tier_name
from ztrooted.verdict import Verdict

if TYPE_CHECKING:
    from gateway.app import Gateway

MEDIA_TYPE = "application/eat+jwt"
NONCE = Parameter(
    "nonce", "8 to 88 printable characters, to come back in the result", {"type": "string", "pattern": "^[ -~]{8,88}$"}
)
KEY_SET = {
    "type": "object",
    "properties": {"keys": {"type": "array", "items": {"type": "object", "required": ["kty", "kid"]}}},
    "required": ["keys"],
}
LIFE_S = 300  # of a result that nobody has to renew: a no stays one until it is asked again


class ResultRoutes:
    """What RATS tools ask."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self.routes = (
            Route(
                "GET",
                "/v1/executors/{executor}/result",
                PEOPLE,
                self.result,
                bytes_of(MEDIA_TYPE, "A signed EAR.", TEXT),
                frozenset({406, 503}),
                query=(NONCE,),
            ),
            Route(
                "GET",
                "/v1/keys",
                PEOPLE,
                self.keys,
                json_of(KEY_SET, what="A JSON Web Key Set (RFC 7517)."),
                tagged=True,
            ),
        )

    async def keys(self, _request: web.Request, _caller: Caller) -> web.Response:
        """The issuing keys whose tokens may still be alive, as a JSON Web Key Set."""
        return json_answer(self._gateway.signer.jwks())

    async def result(self, request: web.Request, _caller: Caller) -> web.Response:
        """The last verdict, in the dialect that ``Accept`` asks for. Past its deadline a verdict affirms nothing."""
        self._gateway.require_ready()
        profile = wanted_profile(request.headers.get("Accept", "*/*"))
        nonce = request.query.get("nonce")
        executor = self._gateway.rounds.executor(request.match_info["executor"])
        now_ms = self._gateway.clock.now_ms()
        claims = self._claims(executor, profile, now_ms, nonce)
        epoch = self._gateway.signer.epoch
        token = ear.sign(claims, epoch.private, epoch.kid)
        headers = {"Cache-Control": "no-store", "Content-Type": f'{MEDIA_TYPE}; eat_profile="{profile}"'}
        return web.Response(body=token.encode(), headers=headers)

    def _claims(self, executor: Executor, profile: Profile, now_ms: int, nonce: str | None) -> dict[str, object]:
        gateway, verdict = self._gateway, Verdict.decode(executor.verdict)
        try:
            rules = gateway.rounds.policy_of(executor)
        except PolicyError:
            rules = NO_RULES
        retired = retirements.find(gateway.database.reading, executor.id) is not None
        fresh = (now_ms <= executor.proof_due or not executor.trusted) and not retired
        stale = GateReason.OPERATOR_RETIRED if retired else GateReason.ATTESTATION_OVERDUE
        trusted = executor.trusted and fresh
        vector = vector_of(verdict, rules, virtual=executor.virtual) if fresh else TrustVector()
        level = tier(rules, trusted=trusted, virtual=executor.virtual)
        ours = not fresh or verdict.reason in OURS
        now_s = now_ms // 1000
        appraised = Appraised(
            status=ear.status_of(vector.tier, trusted=trusted, ours=ours),
            vector=vector.encode(),
            policy_ids=(f"urn:sha256:{gateway.policies.current.appraisal.digest}",),
            extensions={
                "class": executor.executor_class,
                "tier": tier_name(level),
                "virtual": executor.virtual,
                "proved_at": executor.proved_at // 1000,
                "reason": verdict.reason if fresh else stale,
            },
        )
        expires_s = executor.proof_due // 1000 if trusted else now_s + LIFE_S
        return ear.build(
            profile,
            name=executor.id,
            result=appraised,
            build_id=f"ztrooted {version('ztrooted')}",
            issuer=gateway.config.issuer,
            now_s=now_s,
            expires_s=max(expires_s, now_s),
            nonce=nonce,
        )


def wanted_profile(accept: str) -> Profile:
    """The dialect that an ``Accept`` header asks for; today's by default. GateError ``ear.profile`` for any other."""
    for part in re.findall(r'(?:[^,"]|"[^"]*")+', accept):  # a profile has a comma in it
        media, *parameters = (one.strip() for one in part.split(";"))
        if media.lower() not in {MEDIA_TYPE, "application/*", "*/*"}:
            continue
        named = [one.partition("=")[2].strip('"') for one in parameters if one.lower().startswith("eat_profile=")]
        if not named:
            return Profile.VERAISON
        for profile in ear.WRITTEN:
            if named[0] == profile:
                return profile
    known = ", ".join(f'{MEDIA_TYPE}; eat_profile="{profile}"' for profile in ear.WRITTEN)
    raise GateError(GateReason.EAR_PROFILE, f"a result can be had as {known}")
