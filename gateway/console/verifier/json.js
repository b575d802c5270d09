// JSON with one meaning, and its canonical form (the part of RFC 8785 that needs no judgement).
//
// JSON.parse takes the last of two members of one name, any number, and half a surrogate pair. This scanner takes none of
// them, and no fractions or exponents at all: nothing in a bundle has any. Objects have no prototype.
import { breathe } from "./breath.js";
import { fromUtf8, refuse, utf8 } from "./bytes.js";

const MAX_DEPTH = 32; // the deepest record nests nine levels
const LONE_SURROGATE = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;
const INTEGER = /-?(?:0|[1-9][0-9]{0,15})(?![0-9.eE])/y, PLAIN = /[^"\\\u0000-\u001f]*/y; // made once: they are used for each value
const ASCII = /^[\u0000-\u007f]*$/;
const CLOSING = { "{": "}", "[": "]" };
const ESCAPES = { '"': '"', "\\": "\\", "/": "/", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" };

class Scanner {
  constructor(text, reason) {
    this.text = text;
    this.reason = reason;
    this.at = 0;
  }

  fail(detail) {
    refuse(this.reason, `${detail} at character ${this.at}`);
  }

  space() {
    while (" \t\n\r".includes(this.text[this.at] ?? "x")) this.at++;
  }

  expect(literal, value) {
    if (!this.text.startsWith(literal, this.at)) this.fail("this is not JSON");
    this.at += literal.length;
    return value;
  }

  value(depth) {
    this.space();
    switch (this.text[this.at]) {
      case "{": return this.object(depth);
      case "[": return this.array(depth);
      case '"': return this.string();
      case "t": return this.expect("true", true);
      case "f": return this.expect("false", false);
      case "n": return this.expect("null", null);
      default: return this.integer();
    }
  }

  deeper(depth) {
    if (depth >= MAX_DEPTH) this.fail(`nested deeper than ${MAX_DEPTH}`);
    this.at++;
    this.space();
    return depth + 1;
  }

  /** Whether another item follows; the closing bracket is read. */
  goesOn(closing) {
    this.space();
    const found = this.text[this.at++];
    if (found !== "," && found !== closing) this.fail("this is not JSON");
    return found === ",";
  }

  object(depth) {
    const inner = this.deeper(depth), members = Object.create(null);
    if (this.text[this.at] === "}") return this.expect("}", members);
    do {
      const name = this.name(members);
      members[name] = this.value(inner);
    } while (this.goesOn("}"));
    return members;
  }

  /** The name of another member, up to its value. */
  name(members) {
    this.space();
    const name = this.string();
    if (Object.hasOwn(members, name)) this.fail("an object has two members of one name");
    this.space();
    this.expect(":");
    return name;
  }

  /** The same as `value`, with pauses between what stands on the two outermost levels. */
  async slowly(depth) {
    this.space();
    const closing = Object.hasOwn(CLOSING, this.text[this.at] ?? "") ? CLOSING[this.text[this.at]] : null;
    if (depth > 1 || closing === null) return this.value(depth);
    const inner = this.deeper(depth), made = closing === "}" ? Object.create(null) : [];
    if (this.text[this.at] === closing) return this.expect(closing, made);
    do {
      const name = closing === "}" ? this.name(made) : made.length;
      made[name] = await this.slowly(inner);
      await breathe();
    } while (this.goesOn(closing));
    return made;
  }

  array(depth) {
    const inner = this.deeper(depth), items = [];
    if (this.text[this.at] === "]") return this.expect("]", items);
    do items.push(this.value(inner));
    while (this.goesOn("]"));
    return items;
  }

  integer() {
    INTEGER.lastIndex = this.at;
    const found = INTEGER.exec(this.text);
    const value = found === null ? NaN : Number(found[0]);
    if (!Number.isSafeInteger(value)) this.fail("this is neither JSON nor an integer of 53 bits");
    this.at += found[0].length;
    return value;
  }

  string() {
    if (this.text[this.at] !== '"') this.fail("a string was expected");
    this.at++;
    let made = "", escaped = false;
    for (;;) {
      PLAIN.lastIndex = this.at;
      const part = PLAIN.exec(this.text)[0];
      made += part;
      this.at += part.length;
      const stop = this.text[this.at++];
      if (stop === '"') break;
      if (stop !== "\\") this.fail("a string is not ended");
      made += this.escape();
      escaped = true;
    }
    if (escaped && LONE_SURROGATE.test(made)) this.fail("a string holds half of a surrogate pair");
    return made;
  }

  escape() {
    const kind = this.text[this.at++];
    if (kind === "u") {
      const digits = this.text.slice(this.at, this.at + 4);
      if (!/^[0-9a-fA-F]{4}$/.test(digits)) this.fail("an escape is not four hexadecimal digits");
      this.at += 4;
      return String.fromCharCode(parseInt(digits, 16));
    }
    if (kind === undefined || !Object.hasOwn(ESCAPES, kind)) this.fail("an unknown escape");
    return ESCAPES[kind];
  }
}

/** Read bytes, at most `maximum`, as one JSON text. Throws a Refusal with `reason`. */
export function parseJson(bytes, reason, maximum) {
  if (bytes.length > maximum) refuse(reason, `over ${maximum} bytes of JSON`);
  const scanner = new Scanner(fromUtf8(bytes, reason), reason);
  const value = scanner.value(0);
  scanner.space();
  if (scanner.at !== scanner.text.length) scanner.fail("something follows the JSON");
  return value;
}

/** The canonical text of a value that parseJson gave. */
export function canonicalText(value) {
  if (Array.isArray(value)) return `[${value.map(canonicalText).join(",")}]`;
  if (value !== null && typeof value === "object") {
    const members = Object.keys(value).sort().map((name) => `${JSON.stringify(name)}:${canonicalText(value[name])}`);
    return `{${members.join(",")}}`;
  }
  return JSON.stringify(value);
}

export function canonicalBytes(value) {
  return utf8(canonicalText(value));
}

/** Read canonical JSON: what is written again is the same text, and member names are ASCII. */
export function parseCanonical(bytes, reason, maximum) {
  const value = parseJson(bytes, reason, maximum);
  if (!asciiNames(value) || canonicalText(value) !== fromUtf8(bytes, reason)) refuse(reason, "the JSON is not in its canonical form");
  return value;
}

/** parseCanonical of what may be large, with pauses in which others have their turn. */
export async function parseLarge(bytes, reason, maximum) {
  if (bytes.length > maximum) refuse(reason, `over ${maximum} bytes of JSON`);
  const scanner = new Scanner(fromUtf8(bytes, reason), reason), value = await scanner.slowly(0);
  scanner.space();
  if (scanner.at !== scanner.text.length) scanner.fail("something follows the JSON");
  if (!(await isCanonical(value, scanner.text))) refuse(reason, "the JSON is not in its canonical form");
  return value;
}

/** Whether `text` is the canonical text of `value`, which is written again piece by piece. */
async function isCanonical(value, text) {
  let at = 0;
  const goesOn = (piece) => {
    at += piece.length;
    return text.startsWith(piece, at - piece.length);
  };
  async function stands(one, depth) {
    if (depth > 1 || one === null || typeof one !== "object") return asciiNames(one) && goesOn(canonicalText(one));
    const list = Array.isArray(one), names = list ? one.keys() : Object.keys(one).sort();
    if (!goesOn(list ? "[" : "{")) return false;
    let between = "";
    for (const name of names) {
      if (!list && !ASCII.test(name)) return false;
      if (!goesOn(list ? between : `${between}${JSON.stringify(name)}:`) || !(await stands(one[name], depth + 1))) return false;
      between = ",";
      await breathe();
    }
    return goesOn(list ? "]" : "}");
  }
  return (await stands(value, 0)) && at === text.length;
}

function asciiNames(value) {
  if (value === null || typeof value !== "object") return true;
  if (Array.isArray(value)) return value.every(asciiNames);
  return Object.keys(value).every((name) => ASCII.test(name) && asciiNames(value[name]));
}

/** Two values have the same canonical text. Anything but what JSON has, undefined included, equals nothing. */
export function same(a, b) {
  return a !== undefined && b !== undefined && canonicalText(a) === canonicalText(b);
}

export function isObject(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

/** An object with exactly these members. */
export function hasExactly(value, names) {
  return isObject(value) && Object.keys(value).length === names.length && names.every((name) => Object.hasOwn(value, name));
}

// --- what a record promises to hold; absent is false ---------------------------------------------------------------
const RECORD_MALFORMED = "lineage.record_malformed";

function promised(fits, what, kind) {
  if (!fits) refuse(RECORD_MALFORMED, `a record does not contain what it should: ${what} is not ${kind}`);
}

export function objectOf(value, what) {
  promised(isObject(value), what, "an object");
  return value;
}

export function listOf(value, what) {
  promised(Array.isArray(value), what, "a list");
  return value;
}

export function textOf(value, what) {
  promised(typeof value === "string", what, "text");
  return value;
}

export function countOf(value, what) {
  promised(Number.isSafeInteger(value) && value >= 0, what, "a whole number");
  return value;
}
