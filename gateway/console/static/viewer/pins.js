// Anchors that a visitor has pinned in this browser. They are kept as they were given, and read anew each time.

const PLACE = "ztrooted.anchors";
const MOST = 32;

/** [{origin, digest, text}], the one pinned last first. Nothing where the browser keeps nothing. */
export function pinned() {
  try {
    const value = JSON.parse(localStorage.getItem(PLACE) ?? "[]");
    const fits = (one) => one !== null && typeof one === "object" && ["origin", "digest", "text"].every((name) => typeof one[name] === "string");
    return Array.isArray(value) ? value.filter(fits).slice(0, MOST) : [];
  } catch {
    return [];
  }
}

function keep(pins) {
  try {
    localStorage.setItem(PLACE, JSON.stringify(pins));
    return true;
  } catch {
    return false;
  }
}

/** Pin anchors. Whether the browser kept them. */
export function pin(one) {
  return keep([one, ...pinned().filter(({ digest }) => digest !== one.digest)].slice(0, MOST));
}

/** Forget anchors by their digest. */
export function unpin(digest) {
  return keep(pinned().filter((one) => one.digest !== digest));
}
