// Runs a verifier over many cases in one process: a JSON text {"bundle", "anchors"} in base64 a line comes in; out goes the
// report of each, a line each, in their order.
import { webcrypto } from "node:crypto";
import { createInterface } from "node:readline";

globalThis.crypto ??= webcrypto; // Node.js 18 has it here only

const { verifyBundle } = await import(process.argv[2]);
const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));

for await (const line of createInterface({ input: process.stdin })) {
  const { bundle, anchors } = JSON.parse(line);
  let report;
  try {
    report = await verifyBundle(bytes(bundle), bytes(anchors));
  } catch (error) {
    report = { word: "not verified", checks: [], facts: {}, error: error.reason ?? String(error) };
  }
  process.stdout.write(`${JSON.stringify(report)}\n`);
}
