// node page.js > verifier.html: the verifier as one file that a browser opens without a network and without a server.
//
// Browsers load no modules from a saved page's folder. So each becomes a function here that returns what it exports; the
// modules export by name, where they declare, and rename nothing that they import.
import { readFile } from "node:fs/promises";

const ORDER = [
  "bytes", "json", "signatures", "merkle", "note", "tpm_public", "tpm_attest", "tpm_policy", "eventlog", "ima", "anchors", "inflate", "bundle",
  "artifact", "story", "rounds", "parents", "keys", "verify",
];

/** One module as a function of `modules`, those before it. */
function wrapped(name, source) {
  const body = source.replace(/^import (\{[^}]*\}) from "\.\/([a-z_]+)\.js";$/gm, "const $1 = modules.$2;");
  const exported = [...body.matchAll(/^export (?:async )?(?:function|class|const) ([A-Za-z0-9_]+)/gm)].map((found) => found[1]);
  return `modules.${name} = (() => {\n${body.replace(/^export /gm, "")}\nreturn { ${exported.join(", ")} };\n})();\n`;
}

/** All modules as one script, behind which `verifyBundle` is there. */
export async function single() {
  const parts = ["const modules = {};\n"];
  for (const name of ORDER) parts.push(wrapped(name, await readFile(new URL(`${name}.js`, import.meta.url), "utf8")));
  return `${parts.join("")}const { verifyBundle } = modules.verify;\n`;
}

const PAGE = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<title>ztrooted: verify a bundle</title>
<style>body { font: 1rem sans-serif; max-width: 60rem; margin: 2rem auto } td { padding: .2rem .6rem; vertical-align: top }</style>
<h1>Verify a bundle</h1>
<p>Nothing leaves this page. The anchors come from the gateway's operator by another way than the bundle.</p>
<p><label>Bundle <input type="file" id="bundle"></label> <label>Anchors <input type="file" id="anchors"></label></p>
<p><strong id="word"></strong></p>
<table id="checks"></table>
<pre id="facts"></pre>
<script type="module">
SCRIPT
const byId = (id) => document.getElementById(id);
async function run() {
  const files = [byId("bundle").files[0], byId("anchors").files[0]];
  if (!files[0] || !files[1]) return;
  byId("checks").replaceChildren();
  byId("facts").textContent = "";
  byId("word").textContent = "…";
  try {
    const [bundle, anchors] = await Promise.all(files.map(async (file) => new Uint8Array(await file.arrayBuffer())));
    const report = await verifyBundle(bundle, anchors);
    for (const check of report.checks) {
      const row = byId("checks").insertRow();
      for (const text of [check.number, check.name, check.status, check.reason ?? "", check.detail]) row.insertCell().textContent = text;
    }
    if (report.word !== "not verified") byId("facts").textContent = JSON.stringify(report.facts, null, 2);
    byId("word").textContent = report.word;
  } catch (error) {
    byId("word").textContent = error.message;
  }
}
byId("bundle").addEventListener("change", run);
byId("anchors").addEventListener("change", run);
</script>
</html>
`;

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const script = await single();
  process.stdout.write(PAGE.replace("SCRIPT", () => script));
}
