// The Merkle tree of RFC 6962 §2.1: inclusion and consistency, as in RFC 9162 §2.1.3.2 and §2.1.4.2.
// Sizes are safe integers here: a lineage has fewer than 2^53 records. Shifts are divisions, since those of JavaScript
// end at 32 bits.
import { concat, demand, equal, hex, refuse } from "./bytes.js";
import { sha256 } from "./signatures.js";

const INVALID = "lineage.proof_invalid";
const LEAF = new Uint8Array([0]), NODE = new Uint8Array([1]);

const half = (number) => Math.floor(number / 2);
const odd = (number) => number % 2 === 1;

export async function leafHash(record) {
  return sha256(concat(LEAF, record));
}

export async function nodeHash(left, right) {
  return sha256(concat(NODE, left, right));
}

function checkHashes(proof, ...others) {
  demand([...others, ...proof].every((item) => item.length === 32), INVALID, "a hash in a proof has not 32 bytes");
}

/** The leaf hash is at `index` of the tree of `size` leaves with this root. */
export async function verifyInclusion(leaf, index, size, proof, root) {
  checkHashes(proof, leaf, root);
  const sound = Number.isSafeInteger(index) && Number.isSafeInteger(size) && index >= 0 && index < size;
  demand(sound, INVALID, `there is no leaf ${index} in a tree of ${size}`);
  let number = index, last = size - 1, current = leaf;
  for (const sibling of proof) {
    if (last === 0) refuse(INVALID, "the inclusion proof is longer than the tree is high");
    if (odd(number) || number === last) {
      current = await nodeHash(sibling, current);
      while (number !== 0 && !odd(number)) [number, last] = [half(number), half(last)];
    } else {
      current = await nodeHash(current, sibling);
    }
    [number, last] = [half(number), half(last)];
  }
  demand(last === 0, INVALID, "the inclusion proof is shorter than the tree is high");
  demand(equal(current, root), INVALID, `the inclusion proof leads to root ${hex(current)}, not to ${hex(root)}`);
}

/** The root of the first `index` + 1 leaves: what lies to the left of a leaf in its verified inclusion proof. */
export async function headAt(leaf, index, size, proof) {
  let number = index, last = size - 1, current = leaf;
  for (const sibling of proof) {
    if (odd(number) || number === last) {
      current = await nodeHash(sibling, current);
      while (number !== 0 && !odd(number)) [number, last] = [half(number), half(last)];
    }
    [number, last] = [half(number), half(last)];
  }
  return current;
}

/** The tree of `newSize` leaves only appended to that of `oldSize`. */
export async function verifyConsistency(oldSize, newSize, oldRoot, newRoot, proof) {
  const sound = Number.isSafeInteger(oldSize) && Number.isSafeInteger(newSize) && oldSize > 0 && oldSize <= newSize;
  demand(sound, INVALID, `a tree of ${oldSize} leaves is not the beginning of one of ${newSize}`);
  if (oldSize === newSize) {
    demand(proof.length === 0, INVALID, "a proof between two trees of one size has no hashes");
    demand(equal(oldRoot, newRoot), INVALID, "two roots of one size differ");
    return;
  }
  checkHashes(proof, oldRoot, newRoot);
  let number = oldSize - 1, last = newSize - 1, rest = [...proof];
  while (odd(number)) [number, last] = [half(number), half(last)];
  // A tree of a power of two leaves is itself the node that the way up begins with.
  const begin = number === 0 ? oldRoot : rest.shift();
  let older = begin, newer = begin;
  for (const sibling of rest) {
    if (last === 0) refuse(INVALID, "the consistency proof is longer than the tree is high");
    if (odd(number) || number === last) {
      older = await nodeHash(sibling, older);
      newer = await nodeHash(sibling, newer);
      while (number !== 0 && !odd(number)) [number, last] = [half(number), half(last)];
    } else {
      newer = await nodeHash(newer, sibling);
    }
    [number, last] = [half(number), half(last)];
  }
  demand(last === 0, INVALID, "the consistency proof is shorter than the tree is high");
  demand(equal(older, oldRoot), INVALID, "the consistency proof does not lead to the older root");
  demand(equal(newer, newRoot), INVALID, "the consistency proof does not lead to the newer root");
}
