// Keys, rules and permissions: checks 4, 7, 8, 12 and 13. Whose they were, and whether they held.
import { breathe } from "./breath.js";
import { Reader, Refusal, demand, equal, fromHex, hex, lengthPrefixed, refuse, utf8 } from "./bytes.js";
import { isObject, listOf, objectOf, same, textOf } from "./json.js";
import { thumbprint, verifyArtifact, verifyIntroduction, verifyRenewal } from "./artifact.js";
import { headAt, leafHash } from "./merkle.js";
import { linesOfType } from "./note.js";
import { latestEnd } from "./parents.js";
import { readEvidence } from "./rounds.js";
import { importP256Spki, p256Spki, sha256 } from "./signatures.js";
import { GRANTS } from "./story.js";
import { parseCounter, verifyCertify, verifyCounter } from "./tpm_attest.js";
import { acceptEndorsementKey, acceptLogKey, parsePublic } from "./tpm_public.js";

const MISMATCH = "bundle.mismatch", MALFORMED = "lineage.record_malformed";

// 4. The log key lives in the gateway's TPM and signs in the anchored state only, or in what its approver signs for; the
// counter there goes up under the same policy.
export async function checkLogKey(proof) {
  await proof.parse();
  const { anchors } = proof, started = proof.ofType("gateway.started")[0];
  demand(started !== undefined, "bundle.incomplete", "no record says with which keys the gateway started");
  const identity = objectOf(started.body.identity, "identity"), bytes = (name) => fromHex(identity[name], MALFORMED);
  const logKey = await acceptLogKey(parsePublic(bytes("log_key_public"), "ak"), anchors.sealingPolicy);
  const qualifying = await sha256(lengthPrefixed(utf8("ztrooted/log-key/v1"), utf8(anchors.origin)));
  await verifyCertify(bytes("certify_attest"), bytes("certify_signature"), anchors.gatewayAk, qualifying, logKey.name);
  demand(equal(p256Spki(logKey.key), anchors.logKey.material), "checkpoint.key", "the certified log key is not the anchored one");
  const counter = await parseCounter(bytes("counter_public"));
  const start = await verifyCounter(bytes("counter_attest"), bytes("counter_signature"), anchors.gatewayAk, qualifying, counter);
  const bound = equal(counter.policy, logKey.area.policy) && String(start) === identity.counter_start;
  demand(bound, "checkpoint.seal", "the counter is not bound to the anchored state, or began elsewhere");
  await readCounterLine(proof, counter);
}

/** Where the checkpoint is an anchor, what the TPM's counter was, as its line of type 0xff says. */
async function readCounterLine({ note, checkpoint, anchors, facts }, counter) {
  const bad = "checkpoint.seal", lines = await linesOfType(note, checkpoint.origin, "ztrooted.tpm-counter/v1", anchors.gatewayAk.name);
  demand(lines.length <= 1, bad, `${lines.length} lines say what the counter was`);
  for (const line of lines) {
    const reader = new Reader(line, bad), attest = reader.sized(512, "attestation"), signature = reader.sized(1024, "signature");
    reader.done("what the TPM says of its counter");
    try {
      facts.counter = Number(await verifyCounter(attest, signature, anchors.gatewayAk, await sha256(utf8(checkpoint.text)), counter));
    } catch (error) {
      if (error instanceof Refusal) refuse(bad, error.message);
      throw error;
    }
  }
}

// 7. The executor's keys are what they should be, its id follows from them, and one enrollment stands behind all rounds.
export async function checkExecutor(proof) {
  const { rounds } = proof, enrollments = [...new Set(rounds.map((one) => one.enrollment))];
  demand(enrollments.length <= 1, MISMATCH, "the evidence is of more than one enrollment");
  for (const index of enrollments) { // none where the dispatch was denied before anybody was asked
    const record = proof.at(index), { body } = record;
    demand(record.type === "executor.enrolled" && index <= rounds[0].index, MISMATCH, `record ${index} is not an enrollment before the rounds under it`);
    await checkKeys(proof, body);
    await checkEnrollmentRound(proof, record);
    demand(rounds.every((one) => one.body.executor === body.executor), MISMATCH, "a round is of another executor than was enrolled");
    demand(proof.story[0].body.executor === body.executor, MISMATCH, "the evidence is of another executor than the dispatch was for");
    proof.facts.executor = body.executor;
    proof.leave("the EK certificate up to an anchored root, and with it the TPM's maker and whether it is virtual");
    proof.leave("credential activation: its secret is in no bundle");
  }
}

async function checkKeys(proof, body) {
  const ek = parsePublic(proof.blob(textOf(body.ek_public, "ek_public")), "ek");
  await acceptEndorsementKey(ek);
  const chain = listOf(body.ek_chain, "ek_chain").map((digest) => proof.blob(textOf(digest, "ek_chain")));
  demand(chain.length > 0, MALFORMED, "there is no EK certificate");
  const ak = await proof.attestationKey(proof.rounds[0].enrollment);
  await importP256Spki(proof.blob(textOf(body.session_key, "session_key")), "enroll.session_key");
  const id = `ex-${hex(await sha256(ek.raw)).slice(0, 32)}`;
  demand(hex(ak.name) === body.ak && id === body.executor, MISMATCH, "the executor's id or the Name of its key does not follow from its keys");
}

/** The quote of an enrollment was made for its session key, and the transcript is of what is here. */
async function checkEnrollmentRound(proof, record) {
  const { body } = record, round = objectOf(body.round, "the round of the enrollment"), session = proof.blob(body.session_key);
  const bound = round.purpose === "enroll" && same(round.bindings, [hex(session)]);
  demand(bound, MISMATCH, "the quote of the enrollment was not made for its session key");
  const named = round.executor === body.executor && round.class === body.class && round.now === record.at;
  demand(named, MISMATCH, "the round of the enrollment is of another executor, class or time");
  await readEvidence(proof, { index: record.index, body: round });
  const parts = [utf8("ztrooted/enroll/v1"), utf8(textOf(body.enrollment, "enrollment")), fromHex(round.nonce, MALFORMED),
    proof.blob(body.ek_public), proof.blob(body.ak_public), session];
  const transcript = hex(await sha256(lengthPrefixed(...parts)));
  demand(transcript === body.transcript, MISMATCH, "the transcript of the enrollment is not that of what was said");
}

function decisions(proof) {
  proof.decided ??= proof.story.filter((one) => Object.hasOwn(one.body, "decision"));
  return proof.decided;
}

// 8. The policies and baselines that were applied had been activated and approved before.
export async function checkPolicies(proof) {
  const activated = (index, which, digest) => {
    proof.blob(textOf(digest, which));
    const found = proof.ofType("policy.activated").some((one) => one.index < index && one.body[which] === digest);
    demand(found, MISMATCH, `the ${which} policy ${digest} had not been activated when record ${index} was written`);
  };
  for (const { index, body, enrollment } of proof.rounds) {
    activated(index, "appraisal", body.appraisal_policy);
    await breathe();
    const { executor } = proof.at(enrollment).body;
    const labelled = proof.ofType("executor.labelled").filter((one) => one.index < index && one.body.executor === executor);
    const given = labelled.length > 0 ? labelled[labelled.length - 1].body.labels : {};
    demand(same(body.labels, given), MISMATCH, `record ${index} says other labels than an operator had given`);
    if (body.baseline === null) continue;
    const approvals = proof.ofType("baseline.approved").filter((one) => one.index < index && one.body.baseline === body.baseline && one.body.class === body.class);
    demand(approvals.length > 0, MISMATCH, `baseline ${body.baseline} had not been approved when record ${index} was written`);
    proof.facts.baseline_approved_by = textOf(approvals[approvals.length - 1].body.operator, "operator");
  }
  for (const { index, body } of decisions(proof)) {
    activated(index, "dispatch", body.dispatch_policy);
    activated(index, "entities", body.entities);
  }
  if (proof.rounds.length > 0) proof.leave("the class that the appraisal policy finds for the executor");
}

// 12. The dispatch policy was asked about this, and its decision was followed. What it decides is not computed here.
export async function checkDecisions(proof) {
  const { story } = proof, asked = story[0].body;
  for (const round of proof.rounds) {
    const at = story.findIndex((one) => one.index === round.index), { body } = story[at], next = story[at + 1]?.type ?? "";
    if (!Object.hasOwn(body, "decision")) {
      demand(!round.trusted, MISMATCH, `record ${round.index} goes on without asking the dispatch policy`);
      continue;
    }
    const request = objectOf(body.request, "request"), context = objectOf(request.context, "context");
    const action = round.type !== "policy.evaluated" ? "renew" : proof.chain === null ? "dispatch" : "delegate";
    const about = request.action === action && request.executor === asked.executor && request.orchestrator === asked.orchestrator &&
      same(request.labels, round.body.labels) && context.trusted === round.trusted && context.job === asked.job_digest &&
      ["workflow", "run", "step", "attempt", "env"].every((name) => context[name] === asked.job[name]);
    demand(about, MISMATCH, `the policy was asked about something else in record ${round.index}`);
    const permitted = objectOf(body.decision, "decision").permitted === true && round.trusted;
    const went = GRANTS.has(next) || next === "authorization.activated", noTimeLeft = permitted && next === "authorization.revoked";
    demand(permitted === went || noTimeLeft, MISMATCH, `what followed record ${round.index} is not what was decided`);
  }
  if (decisions(proof).length > 0) proof.leave("the dispatch policy itself (Cedar), and the tier, risk and trust vector it was told");
}

// 13. The artifacts are those that were recorded, signed by keys that the log key introduced, in one chain.
export async function checkArtifacts(proof) {
  const { anchors, bundle } = proof, issuers = new Map(), introduced = new Map();
  for (const one of proof.ofType("key.introduced")) {
    const signature = fromHex(one.body.signature, MALFORMED);
    const issuer = await verifyIntroduction(textOf(one.body.statement, "statement"), signature, anchors.logKey.key, anchors.origin);
    issuers.set(issuer.kid, issuer);
    if (!introduced.has(issuer.kid)) introduced.set(issuer.kid, one.index);
  }
  const grants = proof.story.filter((one) => GRANTS.has(one.type));
  demand(grants.length === bundle.artifacts.length, MISMATCH, `${bundle.artifacts.length} artifacts are here, and ${grants.length} were issued`);
  let previous = null;
  for (const [number, one] of grants.entries()) {
    const artifact = await verifyArtifact(proof.blob(bundle.artifacts[number]), issuers, anchors, Math.floor(one.at / 1000));
    const known = artifact.kid === one.body.kid && introduced.get(artifact.kid) <= one.index;
    demand(known, "lineage.key", `record ${one.index} uses another key, or one that was introduced later`);
    demand(artifact.claims.ren.n === number, MISMATCH, `the artifact of record ${one.index} is not number ${number} of its chain`);
    await checkClaims(proof, one, artifact.claims);
    if (previous !== null) verifyRenewal(previous, artifact);
    previous = artifact;
    await breathe();
  }
  proof.facts.artifacts = grants.length;
  if (grants.length > 0) proof.leave("the tier of the artifacts, and the longest lease that the appraisal policy allows");
}

/** The artifact says what its record says, stands in the lineage where it says, and rests on the round before it. */
async function checkClaims(proof, one, claims) {
  const { lin, ...stated } = claims, { checkpoint } = proof;
  demand(isObject(one.body.claims) && same(stated, one.body.claims), MISMATCH, `the artifact says something else than record ${one.index}`);
  const root = hex(await headAt(await leafHash(one.bytes), one.index, checkpoint.size, one.proof));
  const place = { origin: checkpoint.origin, index: one.index, size: one.index + 1, root };
  demand(same(lin, place), MISMATCH, `the artifact of record ${one.index} names another place in the lineage, or another lineage`);
  const basis = proof.rounds.filter((round) => round.index < one.index).pop();
  demand(basis?.trusted === true, MISMATCH, `record ${one.index} does not rest on a round of proof`);
  const { exp, ren, tier, ...rest } = stated, expected = await expectedClaims(proof, basis);
  const differing = Object.keys({ ...expected, ...rest }).filter((name) => !same(rest[name], expected[name]));
  demand(differing.length === 0, MISMATCH, `the artifact of record ${one.index} says what was not verified: ${differing.join(", ")}`);
  const activated = proof.story.find((other) => other.type === "authorization.activated");
  const began = activated !== undefined && activated.index < one.index ? activated.at : basis.now;
  let last = began + maxRuntime(proof) * 1000;
  if (proof.chain !== null) last = Math.min(last, latestEnd(proof.chain.above, one.index, basis.now));
  demand(exp <= Math.ceil(last / 1000), MISMATCH, `the lease of record ${one.index} is longer than its job may run`);
}

function maxRuntime(proof) {
  return proof.chain === null ? proof.story[0].body.max_runtime_s : proof.chain.maxRuntime;
}

/** Everything in an artifact that follows from intent, enrollment, parent, and the round it rests on; but tier and end. */
async function expectedClaims(proof, basis) {
  const asked = proof.story[0].body, enrolled = proof.at(basis.enrollment).body, { job } = asked;
  const decided = decisions(proof).filter((one) => one.index <= basis.index).pop().body; // check 12 found one
  const session = await importP256Spki(proof.blob(textOf(enrolled.session_key, "session_key")), "enroll.session_key");
  const at = Math.floor(basis.now / 1000);
  const expected = {
    iss: proof.anchors.issuer, aud: proof.anchors.audience, sub: asked.executor, jti: proof.bundle.authorization, iat: at, nbf: at,
    cnf: { jkt: await thumbprint(session) }, ak: enrolled.ak, job: asked.job_digest,
    act: { workflow: job.workflow, run: job.run, step: job.step }, lim: { max_runtime_s: maxRuntime(proof) },
    pol: { appraisal: basis.body.appraisal_policy, dispatch: decided.dispatch_policy, entities: decided.entities },
    ev: basis.body.evidence,
  };
  return proof.chain === null ? expected : { ...expected, par: asked.parent };
}
