// Long work in the one thread that a page has: whoever computes for long lets others have their turn in between.

const MOST_MS = 25;
let since = 0;

/** Where this was computed for a while, everything that waits for the thread comes first. */
export async function breathe() {
  if (performance.now() - since < MOST_MS) return;
  await new Promise((resolve) => setTimeout(resolve));
  since = performance.now();
}
