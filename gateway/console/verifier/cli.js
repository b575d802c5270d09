#!/usr/bin/env node
// node cli.js BUNDLE ANCHORS [--json]: exit 0 verified, 1 not verified, 4 partial (nothing failed, not everything was
// checked), 2 wrong usage, 3 a file that can't be read or anchors that can't be used.
import { readFile } from "node:fs/promises";
import { webcrypto } from "node:crypto";
import { verifyBundle } from "./verify.js";

globalThis.crypto ??= webcrypto; // Node.js 18 has it here only

const EXIT = { verified: 0, "not verified": 1, partial: 4 };
const MARKS = { pass: "pass       ", fail: "FAIL       ", not_checked: "not checked" };

function print(report) {
  for (const { number, name, status, reason, detail } of report.checks) {
    const why = [reason, detail].filter(Boolean).join(": ");
    console.log(`${String(number).padStart(2)} ${name.padEnd(11)} ${MARKS[status]} ${why}`.trimEnd());
  }
  if (report.word !== "not verified") for (const [name, value] of Object.entries(report.facts)) console.log(`   ${name}: ${JSON.stringify(value)}`);
  console.log(report.word);
}

const args = process.argv.slice(2), json = args.includes("--json"), files = args.filter((argument) => argument !== "--json");
if (files.length !== 2 || files.some((file) => file.startsWith("-"))) {
  console.error("usage: node cli.js BUNDLE ANCHORS [--json]");
  process.exit(2);
}
try {
  const [bundle, anchors] = await Promise.all(files.map(async (file) => new Uint8Array(await readFile(file))));
  const report = await verifyBundle(bundle, anchors);
  if (json) console.log(JSON.stringify(report));
  else print(report);
  process.exitCode = EXIT[report.word];
} catch (error) {
  console.error(error.message);
  process.exitCode = 3;
}
