// The course of events: checks 6, 14 and 15. One transition table says what may follow what.
import { breathe } from "./breath.js";
import { demand, equal, fromHex, isDigest } from "./bytes.js";
import { canonicalBytes, countOf, isObject, objectOf, textOf } from "./json.js";
import { leafHash } from "./merkle.js";
import { sha256Hex } from "./signatures.js";

const LIFECYCLE = "bundle.lifecycle", MISMATCH = "bundle.mismatch", CONTINUITY = "bundle.continuity";
const REPORT_MS = 5000; // a report of a job's end takes this long at most to be written down
export const REFUSALS = new Set(["attestation.failed", "attestation.overdue"]);
export const LIVE = new Set(["authorized", "activated", "running"]);
const FINAL = new Set(["denied", "closed"]);
export const GRANTS = new Set(["authorization.issued", "authorization.renewed"]);

// State and record to state. attestation.failed and attestation.overdue move nothing; the revocation behind them does.
const TRANSITIONS = {
  requested: { "policy.evaluated": "requested", "authorization.issued": "authorized", "authorization.denied": "denied" },
  authorized: {
    "attestation.passed": "authorized", "authorization.activated": "activated", "authorization.delegated": "authorized",
    "authorization.revoked": "revoked",
  },
  activated: {
    "attestation.passed": "activated", "execution.started": "running", "authorization.renewed": "activated",
    "authorization.delegated": "activated", "authorization.revoked": "revoked",
  },
  running: {
    "attestation.passed": "running", "authorization.renewed": "running", "authorization.delegated": "running",
    "authorization.revoked": "revoked", "execution.closed": "closed",
  },
  revoked: { "execution.interrupted": "interrupted", "execution.closed": "closed" },
  interrupted: { "execution.closed": "closed" },
  denied: {},
  closed: {},
};
const STEPS = new Set(Object.values(TRANSITIONS).flatMap(Object.keys));
// What is written in one transaction stands side by side.
const FOLLOWED_BY = {
  "dispatch.requested": ["policy.evaluated", "authorization.denied"],
  "policy.evaluated": ["authorization.issued", "authorization.denied"],
  "attestation.passed": ["authorization.activated", "authorization.renewed", "authorization.revoked"],
  "authorization.activated": ["authorization.renewed"],
  "attestation.failed": ["authorization.revoked"],
  "attestation.overdue": ["authorization.revoked"],
};
const PRECEDED_BY = {
  "authorization.issued": ["policy.evaluated"],
  "authorization.activated": ["attestation.passed"],
  "authorization.renewed": ["attestation.passed", "authorization.activated"],
};

const NAME = /^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}$/;
const isText = (value) => typeof value === "string" && [...value].length <= 4096;
const within = (value, least, most) => Number.isSafeInteger(value) && value >= least && value <= most;
const isUser = (value) => typeof value === "string" && /^(0|[1-9][0-9]{0,9}):(0|[1-9][0-9]{0,9})$/.test(value) &&
  value.split(":").every((number) => Number(number) <= 4294967294);
const JOB = {
  workflow: (value) => NAME.test(value), run: (value) => NAME.test(value), step: (value) => NAME.test(value),
  attempt: (value) => within(value, 1, 1_000_000), env: isDigest, cwd: isText,
  argv: (value) => Array.isArray(value) && within(value.length, 1, 256) && value.every(isText),
  files: (value) => isObject(value) && Object.keys(value).length <= 256 &&
    Object.entries(value).every(([path, digest]) => /^\/[ -~]*$/.test(path) && path.length <= 4096 && isDigest(digest)),
};
const JOB_OPTIONS = {
  user: isUser, memory: (value) => within(value, 1 << 20, 2 ** 50), pids: (value) => within(value, 1, 1 << 22),
  cpu: (value) => within(value, 1, 819200),
};

function isJob(job) {
  const allowed = { ...JOB, ...JOB_OPTIONS };
  return isObject(job) && Object.keys(JOB).every((name) => Object.hasOwn(job, name)) &&
    Object.entries(job).every(([name, value]) => Object.hasOwn(allowed, name) && allowed[name](value)) &&
    ["workflow", "run", "step"].every((name) => typeof job[name] === "string");
}

/** A story begins with what was asked for, and the job has its digest. */
export async function checkIntent(authorization, story) {
  const first = story[0];
  const begins = first !== undefined && first.type === "dispatch.requested" && first.prev === null;
  demand(begins, LIFECYCLE, `the story of ${authorization} does not begin with the intent`);
  const { job, job_digest: digest } = first.body;
  demand(isJob(job), "lineage.record_malformed", "the job is not described as a job is");
  demand((await sha256Hex(canonicalBytes(job))) === digest, MISMATCH, "the job is not the one its digest names");
}

/** The trace that the request was part of, where one is told: the same in every record that does, in one form. */
function checkTrace(story) {
  const told = story.filter((one) => Object.hasOwn(one.body, "trace")).map((one) => one.body.trace);
  for (const one of told) {
    const fits = typeof one === "string" && /^(?!0{32})[0-9a-f]{32}$/.test(one) && one === told[0];
    demand(fits, MISMATCH, "what the records say of a trace is not one trace");
  }
  return told[0];
}

/** The state after one more record, which must name the one before it and be possible there. */
export async function follow(state, before, one) {
  const linked = one.prev !== null && one.prev.index === before.index &&
    equal(fromHex(one.prev.leaf, LIFECYCLE), await leafHash(before.bytes));
  demand(linked, LIFECYCLE, `record ${one.index} does not name the record before it: something is missing`);
  let next = state;
  if (STEPS.has(one.type)) {
    next = TRANSITIONS[state][one.type];
    demand(next !== undefined, "lifecycle.transition", `record ${one.index}: what is ${state} has no ${one.type}`);
  } else {
    const place = REFUSALS.has(one.type) && !FINAL.has(state);
    demand(place, LIFECYCLE, `record ${one.index} of type ${one.type} has no place in the story of an authorization`);
  }
  const after = FOLLOWED_BY[before.type], needed = PRECEDED_BY[one.type];
  demand(after === undefined || after.includes(one.type), LIFECYCLE, `record ${one.index} is not what ${before.type} can lead to`);
  demand(needed === undefined || needed.includes(before.type), LIFECYCLE, `record ${one.index} can't follow from ${before.type}`);
  return next;
}

/** The rounds of proof of the story, in order. A lease that ended without any challenge is none. */
function readRounds(story) {
  const rounds = [];
  for (const one of story) {
    const evaluated = one.type === "policy.evaluated";
    if (!evaluated && one.type !== "attestation.passed" && !REFUSALS.has(one.type)) continue;
    if (one.type === "attestation.overdue" && one.body.verdict === null) continue;
    const body = evaluated ? objectOf(one.body.round, "the round") : one.body;
    const verdict = objectOf(body.verdict, "the verdict"), trusted = verdict.trusted === true;
    const now = countOf(body.now, "now"), { enrollment } = body;
    demand(Number.isSafeInteger(enrollment) && now === one.at, MISMATCH, `record ${one.index} does not say when and of whom its round was`);
    demand(evaluated || trusted === (one.type === "attestation.passed"), MISMATCH, `record ${one.index} has another verdict`);
    rounds.push({ index: one.index, type: one.type, now, enrollment, body, trusted });
  }
  return rounds;
}

// 6. The authorization's records are one unbroken, legal course from intent to end.
export async function checkStory(proof) {
  const { story, bundle } = proof;
  await checkIntent(bundle.authorization, story);
  const trace = checkTrace(story);
  let state = "requested";
  for (let at = 1; at < story.length; at++) {
    state = await follow(state, story[at - 1], story[at]);
    await breathe();
  }
  demand(FINAL.has(state), LIFECYCLE, `the story ends while the authorization is ${state}: export the bundle again after its end`);
  proof.rounds = readRounds(story);
  const first = story[0], last = story[story.length - 1], { job } = first.body;
  const { workflow, run, step, attempt, argv } = job;
  Object.assign(proof.facts, {
    authorization: bundle.authorization, orchestrator: textOf(first.body.orchestrator, "orchestrator"),
    requested_at: first.at, ended_at: last.at, workflow, run, step, attempt, argv, job: first.body.job_digest,
    final_state: state, outcome: last.body.outcome ?? "denied", ...(trace === undefined ? {} : { trace }),
  });
}

// 14. Between two good quotes no more time passed than the lease allowed; nothing was renewed without one.
export async function checkContinuity(proof) {
  const judged = new Map(proof.rounds.map((one) => [one.index, one]));
  let good = 0, lastGood = null, leasedUntil = null, largest = 0, allowed = 0;
  for (const one of proof.story) {
    const round = judged.get(one.index);
    if (round?.trusted === true) {
      demand(leasedUntil === null || round.now <= leasedUntil, CONTINUITY, `record ${one.index} came after the lease had ended`);
      demand(lastGood === null || round.now >= lastGood, CONTINUITY, `record ${one.index} is earlier than the round before it`);
      if (lastGood !== null) largest = Math.max(largest, round.now - lastGood);
      lastGood = round.now;
      good++;
    } else if (GRANTS.has(one.type)) {
      demand(lastGood !== null, CONTINUITY, `record ${one.index} grants a lease without a good quote`);
      leasedUntil = countOf(objectOf(one.body.claims, "claims").exp, "exp") * 1000;
      allowed = Math.max(allowed, leasedUntil - lastGood);
    } else if (one.type === "authorization.revoked") {
      leasedUntil = null; // what may happen now is an end, however late it is reported
    } else if (one.type === "execution.closed" && leasedUntil !== null) {
      demand(one.at <= leasedUntil + REPORT_MS, CONTINUITY, `record ${one.index} closes the execution after its lease had ended, and nothing revoked it`);
    }
  }
  demand(largest <= allowed, CONTINUITY, `${largest} ms passed between two good quotes, ${allowed} were allowed`);
  Object.assign(proof.facts, { rounds: proof.rounds.length, good_quotes: good, largest_gap_ms: largest, allowed_gap_ms: allowed });
}

// 15. What ended it is recorded, and if trust failed, the job was stopped.
export async function checkOutcome(proof) {
  const { story, facts, rounds } = proof, first = (type) => story.find((one) => one.type === type);
  checkReasons(story);
  const denied = first("authorization.denied"), closed = first("execution.closed"), revoked = first("authorization.revoked");
  if (denied !== undefined) {
    facts.reason = textOf(denied.body.reason, "reason");
    return;
  }
  const { outcome } = closed.body; // check 6: a story ends as denied or closed
  demand(outcome !== undefined, "lineage.record_malformed", "it is not said how the execution ended");
  facts.intent_to_authorization_ms = first("authorization.issued").at - story[0].at;
  if (revoked === undefined) {
    demand(outcome === "exited", LIFECYCLE, `the job was ${outcome}, and nothing had revoked its authorization`);
    facts.exit_status = closed.body.exit_status ?? null;
    return;
  }
  facts.reason = textOf(revoked.body.reason, "reason");
  const interrupted = first("execution.interrupted"), killed = first("execution.started") !== undefined && outcome === "killed";
  demand(!killed || interrupted !== undefined, LIFECYCLE, "the job was killed, and no record says that it was interrupted");
  if (interrupted !== undefined) {
    const good = rounds.filter((one) => one.type === "attestation.passed");
    facts.revoked_to_interrupted_ms = interrupted.at - revoked.at;
    facts.exposure_at_most_ms = good.length > 0 ? interrupted.at - good[good.length - 1].now : null;
  }
}

/** What is given as the reason of a denial or a revocation is what the record before it found. */
function checkReasons(story) {
  for (let at = 1; at < story.length; at++) {
    const before = story[at - 1], one = story[at];
    if (one.type !== "authorization.denied" && one.type !== "authorization.revoked") continue;
    let found;
    if (before.type === "policy.evaluated") {
      found = objectOf(objectOf(before.body.round, "the round").verdict, "the verdict").reason ?? objectOf(before.body.decision, "the decision").reason;
    } else if (REFUSALS.has(before.type)) {
      found = before.body.verdict === null ? "lease.expired" : objectOf(before.body.verdict, "the verdict").reason;
    } else {
      continue;
    }
    demand(found !== undefined && one.body.reason === found, MISMATCH, `record ${one.index} gives another reason than the record before it found`);
  }
}
