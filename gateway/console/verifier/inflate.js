// Deflate (RFC 1951), decoded with a bound and to its exact end. DecompressionStream won't do: what it makes of bytes behind
// the end, or of a second member, differs between the runtimes, and there is one packed form of a bundle for each deflate.
import { demand, refuse } from "./bytes.js";

const MAX_BITS = 15, END = 256;
const LENGTH_BASE = [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];
const LENGTH_EXTRA = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const DISTANCE_BASE = [1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577];
const DISTANCE_EXTRA = [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13];
const CODE_ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

class Inflater {
  constructor(bytes, maximum, reason) {
    Object.assign(this, { bytes, maximum, reason, at: 0, held: 0, count: 0, size: 0, out: new Uint8Array(Math.min(maximum, 4 * bytes.length + 1024)) });
  }

  fail() {
    refuse(this.reason, "its compression is damaged");
  }

  bits(need) {
    while (this.count < need) {
      if (this.at === this.bytes.length) this.fail();
      this.held |= this.bytes[this.at++] << this.count;
      this.count += 8;
    }
    const value = this.held & ((1 << need) - 1);
    this.held >>>= need;
    this.count -= need;
    return value;
  }

  put(byte) {
    if (this.size === this.out.length) {
      demand(this.size < this.maximum, "bundle.too_large", `it is over ${this.maximum} bytes without its compression`);
      const larger = new Uint8Array(Math.min(this.maximum, 2 * this.size));
      larger.set(this.out);
      this.out = larger;
    }
    this.out[this.size++] = byte;
  }

  /** A canonical Huffman code from the lengths of its symbols: how many of each length, and the symbols in order. */
  code(lengths, incomplete) {
    const counts = new Uint16Array(MAX_BITS + 1), starts = new Uint16Array(MAX_BITS + 2);
    for (const length of lengths) counts[length]++;
    let left = 1;
    for (let length = 1; length <= MAX_BITS; length++) {
      left = 2 * left - counts[length];
      if (left < 0) this.fail();
      starts[length + 1] = starts[length] + counts[length];
    }
    // Fewer codes than there could be: only one distance of one bit, or none, may stand alone.
    if (left > 0 && !(incomplete && lengths.length - counts[0] <= 1 && counts[1] === lengths.length - counts[0])) this.fail();
    const symbols = new Uint16Array(lengths.length);
    lengths.forEach((length, symbol) => {
      if (length) symbols[starts[length]++] = symbol;
    });
    counts[0] = 0;
    return { counts, symbols };
  }

  symbol({ counts, symbols }) {
    let code = 0, first = 0, index = 0;
    for (let length = 1; length <= MAX_BITS; length++) {
      code |= this.bits(1);
      if (code - counts[length] < first) return symbols[index + (code - first)];
      index += counts[length];
      first = (first + counts[length]) << 1;
      code <<= 1;
    }
    return this.fail();
  }

  stored() {
    [this.held, this.count] = [0, 0]; // to the next byte
    const size = this.bits(8) | (this.bits(8) << 8), inverse = this.bits(8) | (this.bits(8) << 8);
    if (size !== (~inverse & 0xffff) || this.at + size > this.bytes.length) this.fail();
    for (let end = this.at + size; this.at < end; this.at++) this.put(this.bytes[this.at]);
  }

  compressed(literals, distances) {
    for (;;) {
      const symbol = this.symbol(literals);
      if (symbol === END) return;
      if (symbol < END) {
        this.put(symbol);
        continue;
      }
      const kind = symbol - 257;
      if (kind >= LENGTH_BASE.length) this.fail();
      const length = LENGTH_BASE[kind] + this.bits(LENGTH_EXTRA[kind]), far = this.symbol(distances);
      if (far >= DISTANCE_BASE.length) this.fail();
      const distance = DISTANCE_BASE[far] + this.bits(DISTANCE_EXTRA[far]);
      if (distance > this.size) this.fail();
      for (let number = 0; number < length; number++) this.put(this.out[this.size - distance]);
    }
  }

  dynamic() {
    const literals = this.bits(5) + 257, distances = this.bits(5) + 1, codes = this.bits(4) + 4;
    if (literals > 286 || distances > 30) this.fail();
    const order = new Array(19).fill(0);
    for (let number = 0; number < codes; number++) order[CODE_ORDER[number]] = this.bits(3);
    const coded = this.code(order, false), lengths = [];
    while (lengths.length < literals + distances) {
      const symbol = this.symbol(coded);
      if (symbol < 16) {
        lengths.push(symbol);
        continue;
      }
      if (symbol === 16 && lengths.length === 0) this.fail();
      const value = symbol === 16 ? lengths[lengths.length - 1] : 0;
      const repeat = symbol === 16 ? 3 + this.bits(2) : symbol === 17 ? 3 + this.bits(3) : 11 + this.bits(7);
      for (let number = 0; number < repeat; number++) lengths.push(value);
    }
    if (lengths.length !== literals + distances || lengths[END] === 0) this.fail();
    this.compressed(this.code(lengths.slice(0, literals), true), this.code(lengths.slice(literals), true));
  }

  fixed() {
    const lengths = Array.from({ length: 288 }, (_, symbol) => (symbol < 144 ? 8 : symbol < 256 ? 9 : symbol < 280 ? 7 : 8));
    this.compressed(this.code(lengths, false), this.code(new Array(32).fill(5), false));
  }

  run() {
    let last = 0;
    while (!last) {
      last = this.bits(1);
      const type = this.bits(2);
      if (type === 0) this.stored();
      else if (type === 1) this.fixed();
      else if (type === 2) this.dynamic();
      else this.fail();
    }
    if (this.at !== this.bytes.length) refuse(this.reason, "its compression is damaged: it does not end as it should");
    return this.out.slice(0, this.size);
  }
}

/** The bytes that all of `bytes` is a deflate of, at most `maximum`. */
export function inflate(bytes, maximum, reason) {
  return new Inflater(bytes, maximum, reason).run();
}

/** CRC-32 (RFC 1952 §8). */
export function crc32(bytes) {
  const table = Uint32Array.from({ length: 256 }, (_, value) => {
    let rest = value;
    for (let bit = 0; bit < 8; bit++) rest = rest & 1 ? 0xedb88320 ^ (rest >>> 1) : rest >>> 1;
    return rest >>> 0;
  });
  let sum = 0xffffffff;
  for (const byte of bytes) sum = table[(sum ^ byte) & 0xff] ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}
