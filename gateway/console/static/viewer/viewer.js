// The proof viewer: a bundle and anchors in, numbered checks out. All of it happens in this page; nothing is asked of anybody
// while it checks, and nothing is sent.
import { Refusal, hex } from "../verifier/bytes.js";
import { parseAnchors } from "../verifier/anchors.js";
import { sha256 } from "../verifier/signatures.js";
import { breathe } from "../verifier/breath.js";
import { verifyAndRead } from "../verifier/verify.js";
import { readCourse } from "./course.js";
import { make, visible } from "./dom.js";
import { policies, records, rounds } from "./evidence.js";
import { pin, pinned, unpin } from "./pins.js";
import { banner, checkList, factList, verdictOf } from "./report.js";
import { timeline } from "./timeline.js";
import { size } from "./words.js";

const MOST = 64 << 20;

class Viewer {
  constructor(place) {
    this.place = place;
    this.bundle = null;
    this.anchors = null;
    this.turn = 0;
    this.takes("bundle", (name, bytes) => this.takeBundle(name, bytes));
    this.takes("anchors", (name, bytes) => this.takeAnchors(name, bytes));
    this.part("pins").addEventListener("change", (event) => this.choose(event.target.value));
    this.part("pin").addEventListener("click", () => this.pin());
    this.part("forget").addEventListener("click", () => this.forget());
    this.showPins();
    this.say("wait", "Nothing to check yet", "Choose a bundle, and the anchors that its gateway's operator gave you by another way.");
  }

  part(name) {
    return this.place.querySelector(`[data-part="${name}"]`);
  }

  /** One of the two files: chosen, or dropped onto its field. */
  takes(name, take) {
    const input = this.part(name), field = this.part(`${name}-field`);
    const read = async (file) => {
      if (file === undefined) return;
      if (file.size > MOST) {
        this.say("fail", "Refused", `${visible(file.name)} has ${size(file.size)}, and a bundle at most ${size(MOST)}.`);
        return;
      }
      this.forgetVerdict();
      await take(file.name, new Uint8Array(await file.arrayBuffer()));
    };
    input.addEventListener("change", () => read(input.files[0]));
    for (const kind of ["dragover", "dragleave", "drop"]) {
      field.addEventListener(kind, (event) => {
        event.preventDefault();
        field.classList.toggle("over", kind === "dragover");
        if (kind === "drop") read(event.dataTransfer.files[0]);
      });
    }
  }

  async takeBundle(name, bytes) {
    this.forgetVerdict();
    this.bundle = bytes;
    this.part("bundle-told").replaceChildren(...(await told(name, bytes)));
    await this.check();
  }

  async takeAnchors(name, bytes) {
    this.forgetVerdict();
    this.anchors = bytes;
    this.part("anchors-told").replaceChildren(...(await told(name, bytes)));
    this.part("pin").disabled = false;
    await this.check();
  }

  showPins(digest = "") {
    const pins = pinned(), list = this.part("pins");
    list.replaceChildren(make("option", { value: "" }, pins.length ? "Choose pinned anchors" : "None are pinned here"),
      ...pins.map((one) => make("option", { value: one.digest, selected: one.digest === digest }, `${one.origin} (${one.digest.slice(0, 12)})`)));
    list.disabled = pins.length === 0;
    this.part("forget").disabled = digest === "";
  }

  async choose(digest) {
    const found = pinned().find((one) => one.digest === digest);
    this.part("forget").disabled = found === undefined;
    if (found !== undefined) await this.takeAnchors(`pinned for ${found.origin}`, new TextEncoder().encode(found.text));
  }

  async pin() {
    try {
      const { origin } = await parseAnchors(this.anchors), digest = hex(await sha256(this.anchors));
      const kept = pin({ origin, digest, text: new TextDecoder("utf-8", { ignoreBOM: true }).decode(this.anchors) });
      this.showPins(kept ? digest : "");
      this.part("pin-told").textContent = kept ? `Pinned in this browser for ${visible(origin)}.` : "This browser keeps nothing for this page.";
    } catch (error) {
      this.part("pin-told").textContent = `Not pinned: ${visible(error.message)}`;
    }
  }

  forget() {
    unpin(this.part("pins").value);
    this.showPins();
    this.part("pin-told").textContent = "Forgotten.";
  }

  /** What was said of other files is not said of these. */
  forgetVerdict() {
    this.turn++;
    this.part("results").replaceChildren();
    this.say("wait", "Reading", "Nothing of it is checked yet.");
  }

  say(kind, word, sentence) {
    this.part("verdict").replaceChildren(banner(kind, word, sentence));
    this.place.dataset.verdict = kind;
  }

  /** Check what is there. A newer choice takes the place of an older one that is still being checked. */
  async check() {
    const turn = ++this.turn, { bundle, anchors } = this, late = () => turn !== this.turn;
    this.part("results").replaceChildren();
    if (bundle === null) return this.say("wait", "Nothing to check yet", "Now choose a bundle.");
    if (anchors === null) {
      this.say("wait", "Nothing is checked yet", "The anchors are missing: a bundle alone proves nothing. What it claims is below.");
      return this.show(null, bundle, late);
    }
    this.say("wait", "Checking", "The checks are being run in this page.");
    const began = performance.now();
    try {
      const { origin } = await parseAnchors(anchors), { report, ...read } = await verifyAndRead(bundle, anchors);
      if (late()) return undefined;
      const { kind, word, sentence } = verdictOf(report, origin);
      await this.show(report, bundle, late, read);
      if (!late()) this.say(kind, word, `${sentence} It took ${Math.round(performance.now() - began)} ms.`);
    } catch (error) {
      if (late()) return undefined;
      this.say("fail", "Nothing was checked", error instanceof Refusal ? `These anchors can't be used: ${error.detail}` : String(error));
      await this.show(null, bundle, late);
    }
    return undefined;
  }

  async show(report, bundle, late, read = {}) {
    const results = this.part("results"), parts = [];
    const failed = report?.checks.find(({ status }) => status === "fail");
    if (report !== null) {
      parts.push(section("Checks", null, checkList(report)));
      const facts = factList(report);
      if (facts !== null) parts.push(section("What follows from them", "They rest on the checks above, and count as far as those go.", facts));
    }
    try {
      const course = await readCourse(bundle, read);
      if (late()) return;
      const claim = failed !== undefined ? `This is what the file claims. Check ${failed.number} failed, so nothing of it is established.`
        : report === null ? "This is what the file claims. Nothing of it was checked." : null;
      for (const [title, build] of [["Course of events", timeline], ["Quotes and what they were for", rounds], ["Policies", policies], ["Records", records]]) {
        parts.push(section(title, claim, ...build(course)));
        await breathe();
      }
    } catch (error) {
      parts.push(section("Contents", null, make("p", { class: "odd" }, `The contents can't be shown: ${error.message}`)));
    }
    if (!late()) results.replaceChildren(...parts);
  }
}

function section(title, claim, ...parts) {
  return make("section", { class: "card" }, make("h2", {}, title), claim === null ? null : make("p", { class: "claim" }, claim), ...parts);
}

async function told(name, bytes) {
  return [make("span", {}, name), ` ${size(bytes.length)}, SHA-256 `, make("code", {}, hex(await sha256(bytes)))];
}

/** A bundle that this page was opened for: fetched once, before anything is checked. */
async function open(viewer, address) {
  viewer.say("wait", "Fetching the bundle", "It is checked here like any other file.");
  const answer = await fetch(address, { credentials: "same-origin" });
  if (!answer.ok) viewer.say("fail", "No bundle came", `The gateway answered ${answer.status}.`);
  else await viewer.takeBundle("from the gateway", new Uint8Array(await answer.arrayBuffer()));
}

const place = document.getElementById("viewer");
place.hidden = false;
const viewer = new Viewer(place);
if (place.dataset.bundle) open(viewer, place.dataset.bundle).catch((error) => viewer.say("fail", "No bundle came", String(error)));
