// What the page keeps of the stack: slices and masks, each by its "axis/index". Python is asked for one at a time.

const ROOM = 256e6; // bytes of slices, and again of masks
const LEAST = 15; // what three planes show and their neighbours stay, however large they are
const LOST = 15000; // ms after which an answer is no longer waited for

/** Those slices, or masks, that were wanted last. kind: "slice" or "mask". send: asks Python. */
class Kept {
  constructor(kind, send, room = ROOM) {
    Object.assign(this, { kind, send, room, bytes: 0, all: new Map(), asked: new Map() });
  }

  get(key) {
    return this.all.get(key)?.value;
  }

  /** Ask for slice `at` of an axis with `length` slices, then for its neighbours: so the latest wish comes soon. */
  want(axis, at, length) {
    const wanted = [0, 1, -1, 2, -2].map((by) => at + by).filter((index) => index >= 0 && index < length);
    for (const index of wanted) this.use(`${axis}/${index}`);
    const index = wanted.find((i) => !this.all.has(`${axis}/${i}`));
    if (index === undefined || Date.now() < (this.asked.get(axis) ?? 0) + LOST) return;
    this.asked.set(axis, Date.now());
    this.send({ type: this.kind, axis, index });
  }

  /** Make it the last to be thrown away. */
  use(key) {
    const one = this.all.get(key);
    if (one && this.all.delete(key)) this.all.set(key, one);
  }

  put(axis, index, value, bytes) {
    this.asked.delete(axis);
    this.drop(`${axis}/${index}`);
    this.all.set(`${axis}/${index}`, { value, bytes });
    this.bytes += bytes;
    while (this.bytes > this.room && this.all.size > LEAST) this.drop(this.all.keys().next().value);
  }

  drop(key) {
    this.bytes -= this.all.get(key)?.bytes ?? 0;
    this.all.delete(key);
  }

  clear() {
    this.all.clear();
    this.bytes = 0;
  }
}
