// What the annotator's page consists of, and what it says.

const TOOLS = [
  ["select", "V", "Select, move and resize boxes; drag the background to pan"],
  ["box", "B", "Draw a box in one plane"],
  ["paint", "P", "Paint the mask of the selected box; a click in another box selects that one"],
  ["erase", "E", "Erase from the mask of the selected box"],
];
const KEYS = [
  ["wheel, Page Up / Down", "through the slices (Shift: by ten)"],
  ["Ctrl + wheel, + −, 0", "zoom, by keys about the cross; fit"],
  ["right or middle button, Ctrl + Alt + arrows", "pan"],
  ["1 2 3", "plane xy, zy, zx for the keys below, or point at one"],
  ["arrows", "move the cross (Shift: by ten)"],
  ["V B P E", "tools: select, box, paint, erase"],
  ["Enter", "new box around the cross"],
  ["Alt + arrows, Page Up / Down", "move the box, as long as it has no mask"],
  ["Ctrl + arrows, Page Up / Down", "move the box's far side (Shift: its near side)"],
  ["space", "paint or erase at the cross"],
  ["[ ]", "smaller, larger brush"],
  ["F", "fill the mask between painted slices (along z)"],
  [", .", "previous, next box: go there"],
  ["Delete", "remove the box and its mask"],
  ["Ctrl + Z, Ctrl + Shift + Z", "undo, redo"],
  ["C", "contrast from the slice that is shown"],
  ["Ctrl + S", "save now (it is saved by itself, too)"],
];

class Page {
  /** view, info: see annotator.js. app: the actions of the buttons. */
  constructor(el, view, info, app) {
    const { voxel } = view;
    const root = make("div", { parent: el, className: "weakseg", tabIndex: -1, "data-lm-suppress-shortcuts": "true" });
    root.setAttribute("aria-label", `Annotator of ${info.title}`);
    const bar = make("div", { parent: root, className: "bar", role: "toolbar", ariaLabel: "Tools" });
    this.tools = TOOLS.map(([name, letter, hint]) =>
      this.button(bar, name, `${hint} (${letter})`, () => app.setTool(name)));
    this.fill = this.button(bar, "fill", "Fill the mask between painted slices (F)", () => app.onSelected("fill"));
    this.remove = this.button(bar, "delete", "Delete the selected box (Delete)", () => app.onSelected("delete"));
    this.undo = this.button(bar, "undo", "Undo (Ctrl + Z)", () => app.edit("undo"));
    this.redo = this.button(bar, "redo", "Redo (Ctrl + Shift + Z)", () => app.edit("redo"));
    const slider = (text, low, high, step, value, action) => {
      const input = make("input", { type: "range", min: low, max: high, step, value });
      input.oninput = () => action(Number(input.value));
      make("label", { parent: bar }, text, input);
      return input;
    };
    const finest = voxel[2] / 2;
    this.brush = slider("brush", finest, 50 * finest, finest, view.radius, (v) => app.setBrush(v));
    this.dark = slider("black", 0, info.most, 1, view.low, (v) => app.setWindow(v, view.high));
    this.bright = slider("white", 0, info.most, 1, view.high, (v) => app.setWindow(view.low, v));
    this.button(bar, "fit", "Show the whole stack (0)", () => app.fit());
    this.button(bar, "?", "Keys (?)", () => this.showHelp());
    this.banner = make("div", { parent: root, className: "banner", role: "alert", hidden: true });
    const main = make("div", { parent: root, className: "main" });
    this.grid = make("div", { parent: main, className: "grid" });
    this.canvases = PLANES.map(({ name }) =>
      make("canvas", { parent: this.grid, className: name, tabIndex: 0, role: "img" }));
    const side = make("div", { parent: main, className: "side" });
    this.notice = make("div", { parent: side, className: "notice", role: "status" });
    this.facts = make("div", { parent: side, className: "facts" });
    this.heading = make("div", { parent: side, className: "heading" });
    this.list = make("ul", { parent: side, ariaLabel: "Boxes" });
    const foot = make("div", { parent: root, className: "foot" });
    this.saved = make("span", { parent: foot, className: "saved", role: "status" });
    this.counts = make("span", { parent: foot, className: "counts" });
    this.help = make("dialog", { parent: root, className: "help", ariaLabel: "Keys" });
    make("table", { parent: this.help }, ...KEYS.map(([keys, what]) =>
      make("tr", {}, make("th", {}, keys), make("td", {}, what))));
    this.button(this.help, "close", "Close (Escape)", () => this.help.close());
    Object.assign(this, { view, app, root, main, info, listed: "", quiet: null, unsaved: null, here: false, said: "" });
  }

  button(parent, text, hint, action) {
    return make("button", { parent, type: "button", title: hint, ariaLabel: hint, onclick: action }, text);
  }

  showHelp() {
    this.help.open ? this.help.close() : this.help.showModal();
  }

  say(text) {
    this.notice.textContent = text;
    clearTimeout(this.quiet);
    this.quiet = setTimeout(() => (this.notice.textContent = ""), 6000);
  }

  showSaved(state, why = "") {
    this.saved.className = `saved ${state.replace(" ", "-")}`;
    this.saved.textContent = this.view.locked ? "read-only" : state + (why && `: ${why}`);
    if (state === "saved") this.unsaved = "";
    this.showBanner();
  }

  /** Above the planes, as it concerns all that is drawn. They move with it: nothing comes and goes while one draws. */
  showBanner() {
    const { here, view: { locked }, info: { predicted_masks: predicted } } = this;
    const text =
      locked ? `Read-only: ${locked} `
      : this.unsaved ? `What you draw cannot be saved yet: ${this.unsaved}`
      : predicted ? `Masks from a prediction: ${predicted}. From your first change or Ctrl + S on, all of them teach ` +
        "as they are: delete or mend the bad ones."
      : "";
    if (this.said === text + here) return;
    this.said = text + here;
    this.banner.hidden = !text;
    this.banner.replaceChildren(text);
    if (here) this.button(this.banner, "edit here", "Edit here instead", () => this.app.take());
  }

  /** What Python said, see _send_state in widget.py. here: whether this page may take the editing over. */
  showState(state, here) {
    const { locked } = this.view;
    this.undo.disabled = !state.undo;
    this.redo.disabled = !state.redo;
    this.here = here;
    this.unsaved ??= state.state === "not saved" ? state.why : ""; // when it was opened
    this.showBanner();
    for (const control of [...this.tools.slice(1), this.fill, this.remove]) control.disabled = Boolean(locked);
    this.counts.textContent = state.counts;
    if (state.state) this.showSaved(state.state, state.why);
    if (state.problem) this.say(state.problem);
    this.showList();
  }

  showTool() {
    const { tool } = this.view;
    this.tools.forEach((button, i) => (button.ariaPressed = String(TOOLS[i][0] === tool)));
    this.grid.dataset.tool = tool;
  }

  showReadout() {
    const { at, shape, voxel, planes, slices, boxes, selected, radius, low, high, grey } = this.view;
    const value = slices.get(planes[0].key)?.[at[1] * shape[2] + at[2]];
    const decimals = clamp(Math.ceil(-Math.log10(grey.step)), 0, 12); // as many as the page's 65536 values can tell
    const one = boxes.get(selected);
    const um = at.map((v, a) => ((v + 0.5) * voxel[a]).toFixed(1));
    const side = (a) => Number(one.box[a].toFixed(1)); // while it is drawn, a box ends anywhere
    const sides = one && [0, 1, 2].map((a) => `${NAMES[a]} ${side(a)}–${side(a + 3)}`);
    const lines = [
      `z y x: ${at.join(", ")}   (${um.join(", ")} µm)`,
      `grey value ${value === undefined ? "…" : (grey.offset + value * grey.step).toFixed(decimals)}`,
      `brush ${(2 * radius).toFixed(1)} µm`,
      one && `${selected > 0 ? `box ${selected}` : "new box"}: ${sides.join(", ")}`,
      one && (one.voxels ? `mask: ${one.voxels} voxels` : "no mask"),
    ];
    this.facts.replaceChildren(...lines.filter(Boolean).map((text) => make("div", {}, text)));
    Object.assign(this.brush, { value: radius });
    Object.assign(this.dark, { value: low });
    Object.assign(this.bright, { value: high });
  }

  showList() {
    const { selected, active } = this.view;
    const boxes = [...this.view.boxes].filter(([id]) => id > 0);
    const now = JSON.stringify([boxes.map(([id, one]) => [id, one.voxels > 0]), selected]);
    if (now === this.listed) return;
    this.listed = now;
    this.heading.textContent = `Boxes (${boxes.length})`;
    const focused = this.list.contains(document.activeElement);
    this.list.replaceChildren(...boxes.map(([id, one]) => {
      const chip = make("i", { style: `background: ${colour(id)}` });
      const mask = make("small", {}, one.voxels ? " mask" : "");
      const about = { type: "button", ariaPressed: String(id === selected), onclick: () => this.app.goTo(id) };
      return make("li", {}, make("button", about, chip, ` ${id}`, mask));
    }));
    const chosen = this.list.querySelector("[aria-pressed=true]");
    chosen?.scrollIntoView({ block: "nearest" });
    if (focused) (chosen ?? active.canvas).focus({ preventScroll: true }); // else keys go nowhere
  }

  /** Give the planes their sizes: one scale for all, and the whole fits on a screen. False while nothing is shown. */
  layOut(size) {
    if (!this.main.clientWidth) return false;
    // A flat stack gets some room to be turned and zoomed in.
    const depth = clamp(size[0], 0.3 * size[2], 0.8 * size[2]);
    const room = [Math.max(this.main.clientWidth - 190, 200), clamp(window.innerHeight * 0.66, 400, 900)];
    const scale = Math.min(room[0] / (size[2] + depth), room[1] / (size[1] + depth));
    const [z, y, x] = [depth, size[1], size[2]].map((length) => Math.round(length * scale));
    const sides = { xy: [x, y], zy: [z, y], zx: [x, z] };
    for (const plane of this.view.planes) {
      [plane.width, plane.height] = sides[plane.name];
      plane.canvas.width = plane.width * (window.devicePixelRatio || 1);
      plane.canvas.height = plane.height * (window.devicePixelRatio || 1);
      plane.canvas.style.cssText = `width: ${plane.width}px; height: ${plane.height}px`;
    }
    this.grid.style.gridTemplateColumns = `${x}px ${z}px`;
    this.list.style.maxHeight = `${Math.max(y + z - 200, 120)}px`;
    return true;
  }
}
