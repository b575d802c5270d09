// Presses the demo's buttons without leaving the page, and has it follow what is being played. Works without, too.

import { refresh } from "../live.js";

const PAUSE_MS = 2000; // where nobody answers

/** Send a form as the browser would, and show what came of it. */
async function press(event) {
  const form = event.target.closest("form[data-act]");
  if (form === null) return;
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)), redirect: "manual" });
  refresh();
}

const version = () => document.getElementById("story")?.dataset.version ?? "";
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function follow() {
  let seen = version();
  for (;;) {
    try {
      const answer = await fetch(`/console/demo/state?seen=${encodeURIComponent(seen)}`);
      if (!answer.ok) throw new Error("refused");
      const told = String((await answer.json()).version);
      if (told !== seen) refresh();
      seen = told;
    } catch {
      await pause(PAUSE_MS);
    }
  }
}

document.addEventListener("submit", press);
follow();
