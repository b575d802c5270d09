// The course of events as the records tell it, read for showing: what the checks say of it stands beside it.
import { breathe } from "../verifier/breath.js";
import { parseBundle, parseRecord } from "../verifier/bundle.js";

const ROUNDS = new Set(["policy.evaluated", "attestation.passed", "attestation.failed", "attestation.overdue", "executor.enrolled"]);
const GRANTS = new Set(["authorization.issued", "authorization.renewed"]);

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** The round of proof that a record tells of, or null. */
function roundOf(record) {
  if (!ROUNDS.has(record.type)) return null;
  const body = isObject(record.body.round) ? record.body.round : record.body;
  if (!isObject(body.verdict)) return null;
  return { index: record.index, type: record.type, at: record.at, trusted: body.verdict.trusted === true, body };
}

/** The lease that a record grants: from when, until when (milliseconds), or null. */
function leaseOf(record) {
  const claims = GRANTS.has(record.type) && isObject(record.body.claims) ? record.body.claims : null;
  if (claims === null || !Number.isSafeInteger(claims.exp)) return null;
  return { index: record.index, from: record.at, until: claims.exp * 1000 };
}

/** The longest time between two good quotes, and between the last good one and the stop of the job: spans, or null. */
function spansOf(story, rounds) {
  const good = rounds.filter((one) => one.trusted && one.type !== "executor.enrolled").map((one) => one.at);
  let gap = null;
  for (let at = 1; at < good.length; at++) {
    if (gap === null || good[at] - good[at - 1] > gap.until - gap.from) gap = { from: good[at - 1], until: good[at] };
  }
  const stopped = story.find((one) => one.type === "execution.interrupted"), passed = rounds.filter((one) => one.type === "attestation.passed");
  const exposure = stopped !== undefined && passed.length > 0 ? { from: passed[passed.length - 1].at, until: stopped.at } : null;
  return { gap, exposure };
}

/** Of a bundle's bytes, and what was `read` of them before, {bundle, records}:
 * {authorization, origin, records, story, rounds, leases, gap, exposure, blobs, ima} of a bundle's bytes. Refusal where it is none. */
export async function readCourse(bytes, read = {}) {
  const bundle = read.bundle ?? (await parseBundle(bytes)), records = read.records ?? [];
  if (records.length !== bundle.entries.length) {
    for (const entry of bundle.entries) {
      records.push({ ...entry, ...parseRecord(entry.text) });
      await breathe();
    }
  }
  const story = records.filter((one) => one.authorization === bundle.authorization);
  const told = [...records.filter((one) => one.type === "executor.enrolled"), ...story];
  const rounds = told.map(roundOf).filter((one) => one !== null);
  const leases = story.map(leaseOf).filter((one) => one !== null);
  const { authorization, origin, checkpoint, blobs, ima } = bundle;
  return { authorization, origin, checkpoint, records, story, rounds, leases, ...spansOf(story, rounds.filter((one) => story.some(({ index }) => index === one.index))), blobs, ima };
}

/** Policies, entities and baselines by the digests that records name: [{what, digest, text}], each once. */
export function namedTexts(course) {
  const found = new Map(), take = (what, digest) => {
    if (typeof digest === "string" && course.blobs.has(digest) && !found.has(digest)) found.set(digest, { what, digest, bytes: course.blobs.get(digest) });
  };
  for (const { type, body } of course.records) {
    const round = isObject(body.round) ? body.round : body;
    take("Appraisal policy", type === "policy.activated" ? body.appraisal : round.appraisal_policy);
    take("Dispatch policy", type === "policy.activated" ? body.dispatch : body.dispatch_policy);
    take("Entities", body.entities);
    take("Baseline", round.baseline);
  }
  return [...found.values()];
}
