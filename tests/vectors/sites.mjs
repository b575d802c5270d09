// Which refusals of the second verifier decide a vector: node sites.mjs VERIFIER < CASES.
//
// Each place that refuses gets a number in a temporary copy of the modules. Every case is judged once, and it is noted which
// places spoke. Then each place is switched off in turn, and the cases in which it had spoken are judged again: one that no
// case needs could be left out, and nobody would notice. A case is a JSON text a line, as judge.mjs or parts.mjs take it.
import { mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { webcrypto } from "node:crypto";
import { createInterface } from "node:readline";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

globalThis.crypto ??= webcrypto; // Node.js 18 has it here only

const folder = process.argv[2], sites = [], spoke = new Set();
const ENDLESS = 100_000; // some places end a loop
let off = null, skipped = 0;

/** Run what may refuse at a place; nothing is done there while it is off. */
function at(site, act) {
  if (off === site) {
    if (skipped++ > ENDLESS) throw new Error("endless");
    return undefined;
  }
  try {
    return act();
  } catch (error) {
    spoke.add(site);
    throw error;
  }
}

globalThis.sites = {
  call: (site, own, ...given) => at(site, () => own(...given)),
  method: (site, object, name, ...given) => at(site, () => object[name](...given)),
  raise: (site, error) => at(site, () => {
    throw error;
  }),
  gives(site) {
    spoke.add(site);
    return off !== site;
  },
};

/** One line of source with its places numbered. */
function numbered(file, line, number, before) {
  if (/^\s*(?:\/\/|\*|\/\*\*|import |export function (?:demand|refuse)|function promised|fail\()/.test(line)) return line;
  // What only passes a refusal on is no place: its callers are.
  if (/const (?:malformed|wrong) = \([a-z]*\) => refuse\(/.test(line) || /^\s+(?:fail\(.*\)|function promised\(.*\)) \{$|^function promised/.test(before)) return line;
  if (file === "bytes.js" && /condition !== true/.test(line)) return line;
  const site = () => sites.push({ file, line: number, text: line.trim() }) - 1;
  return line
    .replace(/throw new (NotChecked\(.*\));/, (_, made) => `globalThis.sites.raise(${site()}, new ${made});`)
    .replace(/\b(this|scanner)\.fail\(\)/g, (_, object) => `globalThis.sites.method(${site()}, ${object}, "fail")`)
    .replace(/\b(this|scanner)\.fail\(/g, (_, object) => `globalThis.sites.method(${site()}, ${object}, "fail", `)
    .replace(/\b(reader|outer)\.done\(/g, (_, object) => `globalThis.sites.method(${site()}, ${object}, "done", `)
    .replace(/(?<![.\w])(demand|refuse|malformed|wrong|promised)\((\)?)/g, (_, name, end) => `globalThis.sites.call(${site()}, ${name}${end || ", "}`)
    .replace(/^(\s*)if \((.*)\) return (null|false);/, (whole, indent, condition, value) =>
      file === "signatures.js" ? `${indent}if ((${condition}) && globalThis.sites.gives(${site()})) return ${value};` : whole);
}

async function copy(into) {
  for (const file of (await readdir(folder)).filter((name) => name.endsWith(".js") && name !== "cli.js")) {
    const lines = (await readFile(join(folder, file), "utf8")).split("\n");
    await writeFile(join(into, file), lines.map((line, place) => numbered(file, line, place + 1, lines[place - 1] ?? "")).join("\n"));
  }
  await writeFile(join(into, "package.json"), '{"type":"module"}');
}

const copied = await mkdtemp(join(tmpdir(), "sites-"));
try {
  await copy(copied);
  const { judge } = await import(new URL("parts.mjs", import.meta.url));
  const modules = pathToFileURL(`${copied}/`), cases = [], spoken = sites.map(() => []);
  for await (const line of createInterface({ input: process.stdin })) cases.push(JSON.parse(line));
  const verdicts = [];
  for (const [number, one] of cases.entries()) {
    spoke.clear();
    verdicts.push(JSON.stringify(await judge(modules, one)));
    for (const site of spoke) spoken[site].push(number);
  }
  for (const [site, told] of spoken.entries()) {
    off = site;
    let decides = null;
    for (const number of told) {
      skipped = 0;
      if (JSON.stringify(await judge(modules, cases[number])) === verdicts[number]) continue;
      decides = number;
      break;
    }
    process.stdout.write(`${JSON.stringify({ ...sites[site], spoke: told.length, decides })}\n`);
  }
} finally {
  await rm(copied, { recursive: true });
}
