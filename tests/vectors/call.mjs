// Calls functions of one module: {"name", "arguments"} a line in, {"value"} or {"reason"} a line out. Bytes are {"base64"}.
import { webcrypto } from "node:crypto";
import { createInterface } from "node:readline";

globalThis.crypto ??= webcrypto; // Node.js 18 has it here only

const module = await import(process.argv[2]);

function untagged(value) {
  if (Array.isArray(value)) return value.map(untagged);
  if (value === null || typeof value !== "object") return value;
  if (Object.hasOwn(value, "base64")) return new Uint8Array(Buffer.from(value.base64, "base64"));
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, untagged(item)]));
}

const plain = (_name, value) => (typeof value === "bigint" ? String(value) : value instanceof Uint8Array ? Buffer.from(value).toString("hex") : value);

for await (const line of createInterface({ input: process.stdin })) {
  const call = JSON.parse(line);
  let answer;
  try {
    answer = { value: (await module[call.name](...untagged(call.arguments))) ?? null };
  } catch (error) {
    answer = { reason: error.reason ?? error.constructor.name, detail: error.message };
  }
  process.stdout.write(`${JSON.stringify(answer, plain)}\n`);
}
