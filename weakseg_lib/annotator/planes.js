// One of the three planes of the annotator: a slice of the stack, with its boxes and masks, on a canvas.
// Positions are in voxels, (z, y, x); voxel i reaches from i to i + 1.

const NAMES = "zyx";
const PLANES = [
  { name: "xy", axis: 0, down: 1, right: 2 },
  { name: "zy", axis: 2, down: 1, right: 0 },
  { name: "zx", axis: 1, down: 0, right: 2 },
];
// Okabe and Ito, those that show on grey; neighbours in number differ most.
const COLOURS = ["#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#D55E00"];
const HANDLE = 5; // px, half a side

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const colour = (id) => (id > 0 ? COLOURS[id % COLOURS.length] : "#ffffff"); // white: it has no number yet

function make(tag, options = {}, ...children) {
  const { parent, ...rest } = options;
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(rest))
    name in element ? (element[name] = value) : element.setAttribute(name, value);
  element.append(...children);
  parent?.append(element);
  return element;
}

const handles = () => [-1, 0, 1].flatMap((r) => [-1, 0, 1].map((d) => [r, d])).filter(([r, d]) => r || d);

/** A picture of the masks in a slice, and the line around each of them. */
function outline([top, left], [height, width], ids) {
  const lines = new Map();
  const overlay = make("canvas", { width: Math.max(width, 1), height: Math.max(height, 1) });
  const picture = new ImageData(overlay.width, overlay.height);
  const id = (r, c) => (r < 0 || c < 0 || r >= height || c >= width ? 0 : ids[r * width + c]);
  for (let r = 0; r < height; r++)
    for (let c = 0; c < width; c++) {
      const own = id(r, c);
      if (!own) continue;
      const rgb = parseInt(colour(own).slice(1), 16);
      picture.data.set([rgb >> 16, (rgb >> 8) & 255, rgb & 255, 70], 4 * (r * width + c));
      const line = lines.get(own) ?? lines.set(own, []).get(own);
      const [y, x] = [top + r, left + c];
      if (id(r - 1, c) !== own) line.push(y, x, y, x + 1);
      if (id(r + 1, c) !== own) line.push(y + 1, x, y + 1, x + 1);
      if (id(r, c - 1) !== own) line.push(y, x, y + 1, x);
      if (id(r, c + 1) !== own) line.push(y, x + 1, y + 1, x + 1);
    }
  overlay.getContext("2d").putImageData(picture, 0, 0);
  let bytes = picture.data.byteLength;
  for (const line of lines.values()) bytes += 8 * line.length;
  return { overlay, lines, top, left, height, width, bytes };
}

function strokeTwice(context, style, width) {
  context.lineWidth = width + 2;
  context.strokeStyle = "rgba(0, 0, 0, 0.8)"; // keeps lines visible on bright cells
  context.stroke();
  context.lineWidth = width;
  context.strokeStyle = style;
  context.stroke();
}

function write(context, text, x, y, style, most = undefined) { // most: px, narrower letters where it is longer
  context.font = "600 12px system-ui, sans-serif";
  context.lineWidth = 3;
  context.strokeStyle = "#000";
  context.strokeText(text, x, y, most);
  context.fillStyle = style;
  context.fillText(text, x, y, most);
}

/** view: what all planes share (see annotator.js). name, axis, down, right: see PLANES. */
class Plane {
  constructor(view, about, canvas) {
    Object.assign(this, about, { view, canvas, bitmap: null, made: null, mask: null, pointer: null });
  }

  get key() {
    return `${this.axis}/${this.view.at[this.axis]}`;
  }

  /** What is drawn from now on belongs to this slice, box and brush, whatever the wheel or Python do meanwhile. */
  hand() {
    const { at, selected, radius, tool } = this.view;
    return { plane: this, index: at[this.axis], key: this.key, id: selected, radius, erase: tool === "erase" };
  }

  toX(v) {
    return (v * this.view.voxel[this.right] - this.view.centre[this.right]) * this.view.scale + this.width / 2;
  }

  toY(v) {
    return (v * this.view.voxel[this.down] - this.view.centre[this.down]) * this.view.scale + this.height / 2;
  }

  fromX(x) {
    return ((x - this.width / 2) / this.view.scale + this.view.centre[this.right]) / this.view.voxel[this.right];
  }

  fromY(y) {
    return ((y - this.height / 2) / this.view.scale + this.view.centre[this.down]) / this.view.voxel[this.down];
  }

  /** Whether a box can be pulled here, once Python has made it. Not by a painter, whose strokes begin at its sides. */
  hasHandles(id, box) {
    return id > 0 && !this.view.locked && ["select", "box"].includes(this.view.tool) && this.shows(box);
  }

  /** Whether the slice that is shown goes through a box. */
  shows(box) {
    return box[this.axis] <= this.view.at[this.axis] && this.view.at[this.axis] < box[this.axis + 3];
  }

  /** The sides of a box: left, top, right, bottom, in px. */
  rectangle(box) {
    return [
      this.toX(box[this.right]), this.toY(box[this.down]),
      this.toX(box[this.right + 3]), this.toY(box[this.down + 3]),
    ];
  }

  makeBitmap() {
    const { low, high, shape, slices } = this.view;
    const wanted = `${this.key} ${low} ${high}`;
    const values = slices.get(this.key);
    if (!values || this.made === wanted) return;
    this.bitmap ??= make("canvas", { width: shape[this.right], height: shape[this.down] });
    const picture = new ImageData(this.bitmap.width, this.bitmap.height);
    const pixels = new Uint32Array(picture.data.buffer);
    const factor = 255 / (high - low);
    for (let i = 0; i < values.length; i++) {
      const grey = clamp((values[i] - low) * factor, 0, 255) | 0;
      pixels[i] = 0xff000000 | (grey * 0x010101);
    }
    this.bitmap.getContext("2d").putImageData(picture, 0, 0);
    this.made = wanted;
    // What is on the screen, and since when it was first: for tests.
    this.canvas.dataset.shown = this.key;
    this.canvas.dataset.since ??= Date.now();
  }

  draw() {
    const { canvas, view } = this;
    const context = canvas.getContext("2d");
    const sharp = window.devicePixelRatio || 1;
    this.makeBitmap();
    context.setTransform(sharp, 0, 0, sharp, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, this.width, this.height);
    context.imageSmoothingEnabled = false;
    const place = (picture, top, left, height, width) => {
      const [x, y] = [this.toX(left), this.toY(top)];
      context.drawImage(picture, x, y, this.toX(left + width) - x, this.toY(top + height) - y);
    };
    if (this.bitmap) place(this.bitmap, 0, 0, view.shape[this.down], view.shape[this.right]);
    this.mask = view.masks.get(this.key) ?? this.mask; // the earlier one until the answer is here: no flicker
    const { overlay, lines, top, left, height, width } = this.mask ?? { lines: [] };
    if (height) place(overlay, top, left, height, width);
    for (const [id, line] of lines) {
      context.beginPath();
      for (let i = 0; i < line.length; i += 4) {
        context.moveTo(this.toX(line[i + 1]), this.toY(line[i]));
        context.lineTo(this.toX(line[i + 3]), this.toY(line[i + 2]));
      }
      strokeTwice(context, colour(id), 1.5);
    }
    const first = view.drag?.box ? view.drag.id : view.selected;
    for (const [id, { box }] of view.boxes) if (id !== first && this.shows(box)) this.drawBox(context, id, box);
    const box = view.drag?.box ?? view.boxes.get(first)?.box;
    if (box) this.drawBox(context, first, box, true);
    this.drawCross(context);
    this.drawBrush(context);
    const title = `${this.name}   ${NAMES[this.axis]} ${view.at[this.axis]}/${view.shape[this.axis] - 1}`;
    write(context, title, 8, 16, "#fff", this.width - 16);
    canvas.setAttribute("aria-label", `Plane ${title.replace("/", " of ")}`);
    canvas.classList.toggle("active", this === view.active);
    if (this === view.planes[0]) this.drawScaleBar(context);
  }

  drawBox(context, id, box, selected = false) {
    const [x0, y0, x1, y1] = this.rectangle(box);
    context.beginPath();
    context.rect(x0, y0, x1 - x0, y1 - y0);
    context.setLineDash(this.shows(box) ? (selected ? [] : [6, 3]) : [2, 4]);
    strokeTwice(context, selected ? "#fff" : colour(id), selected ? 2 : 1.5);
    context.setLineDash([]);
    if (id > 0) write(context, String(id), x0 + 4, y1 - 5, selected ? "#fff" : colour(id));
    if (!selected || !this.hasHandles(id, box)) return;
    for (const [right, down] of handles()) {
      const [x, y] = [[x0, (x0 + x1) / 2, x1][right + 1], [y0, (y0 + y1) / 2, y1][down + 1]];
      context.fillStyle = "#fff";
      context.strokeStyle = "#000";
      context.lineWidth = 1;
      context.fillRect(x - HANDLE + 1, y - HANDLE + 1, 2 * HANDLE - 2, 2 * HANDLE - 2);
      context.strokeRect(x - HANDLE + 1, y - HANDLE + 1, 2 * HANDLE - 2, 2 * HANDLE - 2);
    }
  }

  drawCross(context) {
    const [x, y] = [this.toX(this.view.at[this.right] + 0.5), this.toY(this.view.at[this.down] + 0.5)];
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x, this.height);
    context.moveTo(0, y);
    context.lineTo(this.width, y);
    context.lineWidth = 1;
    context.strokeStyle = "rgba(86, 180, 233, 0.45)";
    context.stroke();
  }

  /** What is being painted, what was painted and Python has not answered yet, and the brush. */
  drawBrush(context) {
    const { at, drag, tool, pending } = this.view;
    for (const one of [...pending, drag]) if (one?.stroke && one.key === this.key) this.drawStroke(context, one);
    if ((tool !== "paint" && tool !== "erase") || this !== this.view.active) return;
    const [x, y] = this.pointer ?? [this.toX(at[this.right] + 0.5), this.toY(at[this.down] + 0.5)];
    context.beginPath();
    context.arc(x, y, this.view.radius * this.view.scale, 0, 2 * Math.PI);
    context.setLineDash(tool === "erase" ? [3, 3] : []);
    strokeTwice(context, "#fff", 1);
    context.setLineDash([]);
  }

  drawStroke(context, { stroke, radius, erase, id }) {
    context.beginPath();
    for (const [down, right] of stroke) context.lineTo(this.toX(right), this.toY(down));
    const [down, right] = stroke.at(-1);
    context.lineTo(this.toX(right) + 0.01, this.toY(down)); // so that a click alone is a dot
    context.lineWidth = 2 * radius * this.view.scale;
    context.lineCap = context.lineJoin = "round";
    context.strokeStyle = erase ? "rgba(0, 0, 0, 0.5)" : `${colour(id)}80`;
    context.stroke();
    context.lineCap = "butt";
  }

  drawScaleBar(context) {
    const power = 10 ** Math.floor(Math.log10(120 / this.view.scale));
    const length = power * [5, 2, 1].find((n) => n * power * this.view.scale <= 120);
    const [x, y] = [this.width - 12, this.height - 12];
    context.fillStyle = "#fff";
    context.fillRect(x - length * this.view.scale, y - 3, length * this.view.scale, 3);
    const text = `${length} µm`;
    write(context, text, x - context.measureText(text).width, y - 9, "#fff");
  }
}
