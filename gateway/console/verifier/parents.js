// Chains of work: check 11. A child was no more than its parent, and did not outlive it.
import { demand, refuse } from "./bytes.js";
import { countOf, hasExactly, listOf, objectOf, textOf } from "./json.js";
import { GRANTS, LIVE, checkIntent, follow } from "./story.js";

const LIFECYCLE = "bundle.lifecycle", MISMATCH = "bundle.mismatch", MALFORMED = "lineage.record_malformed";
const MAX_DEPTH = 8, MAX_CHILDREN = 256, MAX_NAMES = 256;
const DEFAULT_RUNTIME_S = 3600; // of a child that asks for whatever its parent has left
const NAME = /^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}$/, EXECUTOR = /^ex-[0-9a-f]{32}$/;

function namesOrAny(value, pattern) {
  return value === null || (Array.isArray(value) && value.length <= MAX_NAMES && value.every((name) => typeof name === "string" && pattern.test(name)));
}

function delegationOf(value) {
  const fits = hasExactly(value, ["children", "depth", "executors", "steps"]) && Number.isSafeInteger(value.depth) && value.depth >= 0 &&
    value.depth <= MAX_DEPTH && Number.isSafeInteger(value.children) && value.children >= 0 && value.children <= MAX_CHILDREN &&
    namesOrAny(value.steps, NAME) && namesOrAny(value.executors, EXECUTOR);
  demand(fits, MALFORMED, "what a dispatch may hand on is not described as it should be");
  return value;
}

function tierOf(claims) {
  const found = typeof claims.tier === "string" ? /^A([0-4])$/.exec(claims.tier) : null;
  demand(found !== null, MALFORMED, "a tier is A0 to A4");
  return Number(found[1]);
}

function claimsOf(one) {
  return objectOf(one.body.claims, "claims");
}

/** One authorization's story, with where it stood behind each of its records. */
class Course {
  static async of(authorization, story, depth) {
    const course = new Course();
    const asked = story[0].body;
    Object.assign(course, { authorization, story, depth, asked, job: asked.job, delegation: delegationOf(asked.delegation) });
    course.moments = [{ state: "requested", leaseExpires: null, activatedAt: null, maxRuntime: 0, tier: 0, children: 0 }];
    for (let at = 1; at < story.length; at++) {
      course.moments.push(await course.after(course.moments[at - 1], story[at - 1], story[at]));
    }
    return course;
  }

  async after(moment, before, one) {
    const next = { ...moment, state: await follow(moment.state, before, one) };
    if (one.type === "authorization.activated") return { ...next, activatedAt: one.at };
    if (GRANTS.has(one.type)) {
      const claims = claimsOf(one), maxRuntime = countOf(objectOf(claims.lim, "lim").max_runtime_s, "max_runtime_s");
      return { ...next, leaseExpires: countOf(claims.exp, "exp") * 1000, maxRuntime, tier: tierOf(claims) };
    }
    if (one.type === "authorization.delegated") {
      const { children, depth } = this.delegation, fits = one.body.place === next.children && next.children < children && depth >= 1;
      demand(fits, MISMATCH, `record ${one.index} gives a child that ${this.authorization} had no place for`);
      textOf(one.body.child, "child");
      return { ...next, children: next.children + 1 };
    }
    return next;
  }

  /** Where it stood when record `index` was written. */
  before(index) {
    const later = this.story.findIndex((one) => one.index >= index);
    const at = later < 0 ? this.story.length : later;
    demand(at > 0, MISMATCH, `record ${index} is older than its parent ${this.authorization}`);
    return this.moments[at - 1];
  }

  /** The index of the record behind which it was not live any more, or null. */
  endedAt() {
    const at = this.moments.findIndex(({ state }, number) => number > 0 && !LIVE.has(state) && LIVE.has(this.moments[number - 1].state));
    return at < 0 ? null : this.story[at].index;
  }
}

const liveAt = (moment, now) => LIVE.has(moment.state) && moment.leaseExpires !== null && now <= moment.leaseExpires;

/** When a child has to end at the latest, by the maximum runtimes of all that is above it. */
export function latestEnd(above, index, now) {
  return Math.min(...above.map((course) => {
    const { activatedAt, maxRuntime } = course.before(index);
    return (activatedAt ?? now) + maxRuntime * 1000;
  }));
}

function requireLive(above, index, now, detail) {
  for (const course of above) {
    demand(liveAt(course.before(index), now), "parent.ended", `${detail}: ${course.authorization} was not live`);
  }
}

const subset = (some, all) => some.every((name) => all.includes(name));

function checkScope(parent, child) {
  const allowed = parent.delegation, wrong = "parent.scope";
  demand(child.job.workflow === parent.job.workflow && child.job.run === parent.job.run, wrong, "a child belongs to another run than its parent");
  demand(allowed.steps === null || allowed.steps.includes(child.job.step), wrong, `the parent may not hand on to step ${child.job.step}`);
  demand(allowed.executors === null || allowed.executors.includes(child.asked.executor), wrong, "the parent may not hand on to this executor");
}

function checkDelegation(above, below) {
  const wrong = "parent.delegation";
  demand(below.depth < above.depth, wrong, "a child may hand on fewer levels than its parent");
  demand(below.children <= above.children, wrong, "a child may have no more children than its parent");
  if (below.depth === 0 || below.children === 0) return;
  for (const name of ["steps", "executors"]) {
    const narrower = above[name] === null || (below[name] !== null && subset(below[name], above[name]));
    demand(narrower, wrong, `a child may only name ${name} that its parent may hand on to`);
  }
}

/** Whether the child may be one of its parent; the maximum runtime that it gets, in seconds. */
function narrow(child, above, evaluated) {
  const [parent] = above, now = evaluated.at, { children } = parent.before(evaluated.index);
  requireLive(above, evaluated.index, now, "the question came too late");
  checkScope(parent, child);
  demand(parent.delegation.depth >= 1, "parent.depth", "there may be no level below the parent");
  demand(children < parent.delegation.children, "parent.children", "the parent had no child left");
  checkDelegation(parent.delegation, child.delegation);
  const left = Math.floor((latestEnd(above, evaluated.index, now) - now) / 1000), wanted = child.asked.max_runtime_s;
  demand(wanted === null || (Number.isSafeInteger(wanted) && wanted >= 1), MALFORMED, "max_runtime_s is no time");
  demand(left >= 1 && (wanted ?? 0) <= left, "parent.lifetime", `the parent leaves ${left} s`);
  return wanted ?? Math.min(DEFAULT_RUNTIME_S, left);
}

/** What is above was given no more than it asked for. Check 13 is for the child itself. */
function checkAbove(course, above, maxRuntime) {
  for (const one of course.story) {
    if (!Object.hasOwn(one.body, "claims")) continue;
    const claims = claimsOf(one);
    demand(objectOf(claims.lim, "lim").max_runtime_s === maxRuntime, MISMATCH, `record ${one.index} gives another time to run than was asked for`);
    const par = above.length > 0 ? above[0].authorization : undefined;
    demand(claims.par === par, MISMATCH, `record ${one.index} names another parent than was asked for`);
    if (above.length > 0) {
      demand(tierOf(claims) <= above[0].before(one.index).tier, MISMATCH, `record ${one.index} gives a higher tier than that of its parent`);
    }
  }
}

/** A child that was authorized has its record in the parent's story, between question and answer; no other has one. */
function checkPlace(child, parent, evaluated, place) {
  const answers = child.story.filter((one) => one.type === "authorization.issued");
  const told = parent.story.filter((one) => one.body.child === child.authorization);
  demand(told.length === answers.length, MISMATCH, `the parent ${parent.authorization} tells of ${told.length} children ${child.authorization}`);
  told.forEach((one, at) => {
    const between = one.type === "authorization.delegated" && evaluated < one.index && one.index < answers[at].index;
    demand(between, MISMATCH, `record ${one.index} does not stand where the child was authorized`);
    demand(one.body.place === place, MISMATCH, `record ${one.index} gives the child another place than it was asked about`);
  });
}

/** What ends takes everything below along at once, and is blamed for nothing while it is live. */
function checkEnd(child, above) {
  const ends = above.map((course) => course.endedAt()).filter((index) => index !== null);
  const later = ends.length > 0 ? child.story.find((one) => one.index > Math.min(...ends)) : undefined;
  if (later !== undefined && LIVE.has(child.before(later.index).state)) {
    const ended = later.type === "authorization.revoked" && later.body.reason === "parent.ended";
    demand(ended, LIFECYCLE, `record ${later.index} goes on although something above had ended`);
  }
  for (const one of child.story.filter(({ body }) => body.reason === "parent.ended")) {
    const live = above.every((course) => liveAt(course.before(one.index), one.at));
    demand(!live, MISMATCH, `record ${one.index} blames a parent that was live`);
  }
}

async function namesAbove(own, stories) {
  const found = [];
  let parent = stories.get(own)[0].body.parent;
  while (parent !== null) {
    textOf(parent, "parent");
    if (!stories.has(parent)) refuse("bundle.incomplete", `the records of the parent ${parent} are not in the bundle`);
    demand(parent !== own && !found.includes(parent) && found.length < MAX_DEPTH, LIFECYCLE, `too many are above ${own}`);
    await checkIntent(parent, stories.get(parent));
    found.push(parent);
    parent = stories.get(parent)[0].body.parent;
  }
  return found;
}

// 11. Where it is a child: its parent had granted this, and was live each time; and so on for everything above.
export async function checkParents(proof) {
  const stories = new Map();
  for (const one of proof.records) {
    if (one.authorization === null) continue;
    if (!stories.has(one.authorization)) stories.set(one.authorization, []);
    stories.get(one.authorization).push(one);
  }
  const own = proof.bundle.authorization, names = [own];
  // A dispatch that was denied before policy was asked was nobody's child, whatever it named.
  if (proof.story.some((one) => one.type === "policy.evaluated")) names.push(...(await namesAbove(own, stories)));
  const foreign = [...stories.keys()].find((name) => !names.includes(name));
  demand(foreign === undefined, MISMATCH, `nothing in the story leads to the authorization ${foreign}`);
  const courses = [];
  for (const [at, name] of names.entries()) courses.push(await Course.of(name, stories.get(name), names.length - 1 - at));
  if (courses.length === 1) return;
  let maxRuntime = courses[courses.length - 1].asked.max_runtime_s;
  checkAbove(courses[courses.length - 1], [], maxRuntime);
  for (let at = courses.length - 2; at >= 0; at--) {
    const child = courses[at], above = courses.slice(at + 1);
    const evaluated = listOf(child.story.filter((one) => one.type === "policy.evaluated"), "evaluations");
    demand(evaluated.length === 1, MALFORMED, `${child.authorization} was evaluated ${evaluated.length} times`);
    maxRuntime = narrow(child, above, evaluated[0]);
    for (const one of child.story) {
      if (GRANTS.has(one.type) || one.type === "authorization.activated") requireLive(above, one.index, one.at, `record ${one.index} came too late`);
    }
    checkPlace(child, above[0], evaluated[0].index, above[0].before(evaluated[0].index).children);
    checkEnd(child, above);
    if (at > 0) checkAbove(child, above, maxRuntime);
  }
  proof.chain = { above: courses.slice(1), maxRuntime };
  Object.assign(proof.facts, { parent: names[1], depth: names.length - 1 });
}
