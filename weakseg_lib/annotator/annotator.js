// The annotator's page: mouse, keys and controls around the three planes of planes.js, which widget.py puts before
// this file. Slices and masks are asked of Python, and every edit is made there.

const TOOLS = [
  ["select", "V", "Select, move and resize boxes; drag the background to pan"],
  ["box", "B", "Draw a box in one plane"],
  ["paint", "P", "Paint the mask of the selected box"],
  ["erase", "E", "Erase from the mask of the selected box"],
];
const KEYS = [
  ["wheel, Page Up / Down", "through the slices (Shift: by ten)"],
  ["Ctrl + wheel, + −, 0", "zoom; fit"],
  ["right or middle button, Ctrl + Alt + arrows", "pan"],
  ["1 2 3", "plane xy, zy, zx for the keys below"],
  ["arrows", "move the cross (Shift: by ten)"],
  ["V B P E", "tools: select, box, paint, erase"],
  ["Enter", "new box around the cross"],
  ["Alt + arrows, Page Up / Down", "move the box"],
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
const KEPT = 60; // slices
const SILENCE = 5000; // ms without an answer until the page says so
// The same after a reload, so that whoever was editing still is.
const session = (() => {
  try {
    return (sessionStorage.weakseg ??= crypto.randomUUID());
  } catch {
    return String(Math.random());
  }
})();

function render({ model, el }) {
  const { shape, voxel_size: voxel, window: first, most, title } = model.get("info");
  const size = shape.map((n, a) => n * voxel[a]); // um
  const view = {
    at: shape.map((n) => n >> 1),
    centre: size.map((s) => s / 2), // um, what is in the middle of the planes
    scale: 1, // px a um
    low: first[0],
    high: first[1],
    tool: "box",
    radius: 3 * voxel[2], // um
    active: null, // the plane that keys act on
    selected: null,
    boxes: new Map(), // id -> {box, voxels}
    locked: "", // why nothing can be changed
    drag: null,
    shape,
    voxel,
    slices: new Map(), // "axis/index" -> grey values, the latest last
    masks: new Map(), // "axis/index" -> what `outline` makes
    planes: [],
  };
  const { slices, masks, planes } = view;
  const asked = new Set(); // "slice/axis" of requests under way

  // ---- the page --------------------------------------------------------------------------------------------

  const root = make("div", { parent: el, className: "weakseg", tabIndex: -1, "data-lm-suppress-shortcuts": "true" });
  root.setAttribute("aria-label", `Annotator of ${title}`);
  const bar = make("div", { parent: root, className: "bar", role: "toolbar", ariaLabel: "Tools" });
  const button = (parent, text, hint, action) =>
    make("button", { parent, type: "button", title: hint, ariaLabel: hint, onclick: action }, text);
  const tools = TOOLS.map(([name, letter, hint]) =>
    button(bar, name, `${hint} (${letter})`, () => setTool(name)));
  const fill = button(bar, "fill", "Fill the mask between painted slices (F)", () => onSelected("fill"));
  const remove = button(bar, "delete", "Delete the selected box (Delete)", () => onSelected("delete"));
  const undo = button(bar, "undo", "Undo (Ctrl + Z)", () => edit("undo"));
  const redo = button(bar, "redo", "Redo (Ctrl + Shift + Z)", () => edit("redo"));
  const slider = (text, low, high, step, value, action) => {
    const input = make("input", { type: "range", min: low, max: high, step, value });
    input.oninput = () => action(Number(input.value));
    make("label", { parent: bar }, text, input);
    return input;
  };
  const brush = slider("brush", voxel[2] / 2, 25 * voxel[2], voxel[2] / 2, view.radius, setBrush);
  const dark = slider("black", 0, most, 1, view.low, (v) => setWindow(v, view.high));
  const bright = slider("white", 0, most, 1, view.high, (v) => setWindow(view.low, v));
  button(bar, "fit", "Show the whole stack (0)", () => fit());
  button(bar, "?", "Keys (?)", () => showHelp());
  const banner = make("div", { parent: root, className: "banner", role: "alert", hidden: true });
  const main = make("div", { parent: root, className: "main" });
  const grid = make("div", { parent: main, className: "grid" });
  for (const about of PLANES) {
    const canvas = make("canvas", { parent: grid, className: about.name, tabIndex: 0, role: "img" });
    planes.push(new Plane(view, about, canvas));
  }
  view.active = planes[0];
  const side = make("div", { parent: main, className: "side" });
  const notice = make("div", { parent: side, className: "notice", role: "status" });
  const facts = make("div", { parent: side, className: "facts" });
  const heading = make("div", { parent: side, className: "heading" });
  const list = make("ul", { parent: side, ariaLabel: "Boxes" });
  const foot = make("div", { parent: root, className: "foot" });
  const saved = make("span", { parent: foot, className: "saved", role: "status" });
  const counts = make("span", { parent: foot, className: "counts" });
  const help = make("dialog", { parent: root, className: "help", ariaLabel: "Keys" });
  make("table", { parent: help }, ...KEYS.map(([keys, what]) =>
    make("tr", {}, make("th", {}, keys), make("td", {}, what))));
  button(help, "close", "Close (Escape)", () => help.close());

  // ---- talking to Python -----------------------------------------------------------------------------------

  const send = (type, rest = {}) => model.send({ type, view: session, ...rest });
  let silence = null;

  function edit(what, how = {}) {
    if (view.locked) return say(view.locked);
    send("edit", { do: what, how });
    silence ??= setTimeout(
      () => showSaved("not saved", "Python does not answer: its kernel is busy or has stopped"), SILENCE);
  }

  function onSelected(what, how = {}) {
    if (view.selected === null) return say("Select a box first: click it, or choose it in the list.");
    edit(what, { id_: view.selected, ...how });
  }

  /** Ask for what a plane shows and then for its neighbours: one at a time, so that the latest wish comes soon. */
  function ask(kind, plane) {
    const { axis } = plane;
    const known = kind === "slice" ? slices : masks;
    const index = [0, 1, -1, 2, -2].map((by) => view.at[axis] + by)
      .find((i) => i >= 0 && i < shape[axis] && !known.has(`${axis}/${i}`));
    if (index === undefined || asked.has(`${kind}/${axis}`)) return;
    asked.add(`${kind}/${axis}`);
    model.send({ type: kind, axis, index });
  }

  function keep(cache, name, value) {
    cache.delete(name);
    cache.set(name, value);
    if (cache.size > KEPT * 3) cache.delete(cache.keys().next().value);
  }

  function receive(message, buffers) {
    const { type, axis, index } = message;
    if (type === "status") return showSaved(message.state, message.why);
    if (type === "state") return takeState(message);
    asked.delete(`${type}/${axis}`);
    const plane = planes.find((p) => p.axis === axis);
    const bytes = buffers[0]; // a DataView; its start need not be a multiple of two or four
    const own = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
    if (type === "slice") {
      const wide = own.byteLength > shape[plane.down] * shape[plane.right];
      keep(slices, `${axis}/${index}`, wide ? new Uint16Array(own) : new Uint8Array(own));
    } else {
      keep(masks, `${axis}/${index}`, outline(message.corner, message.size, new Int32Array(own)));
    }
    redraw();
  }

  function takeState(state) {
    clearTimeout(silence);
    silence = null;
    view.boxes = new Map(state.instances.map(([id, ...rest]) => [id, { box: rest.slice(0, 6), voxels: rest[6] }]));
    if (state.selected !== null) select(state.selected);
    else if (!view.boxes.has(view.selected)) view.selected = null;
    if (state.new_masks) masks.clear();
    undo.disabled = !state.undo;
    redo.disabled = !state.redo;
    const elsewhere = state.editor && state.editor !== session;
    view.locked = state.read_only || (elsewhere ? "Another browser or window is annotating this." : "");
    banner.hidden = !view.locked;
    banner.replaceChildren(`Read-only: ${view.locked} `);
    if (view.locked && !state.read_only) button(banner, "edit here", "Edit here instead", () => send("take"));
    for (const control of [...tools.slice(1), fill, remove]) control.disabled = Boolean(view.locked);
    if (view.locked) setTool("select");
    counts.textContent = state.counts;
    if (state.state) showSaved(state.state, state.why);
    if (state.problem) say(state.problem);
    showList();
    redraw();
  }

  function showSaved(state, why = "") {
    saved.className = `saved ${state.replace(" ", "-")}`;
    saved.textContent = view.locked ? "read-only" : state + (why && `: ${why}`);
  }

  let quiet = null;
  function say(text) {
    notice.textContent = text;
    clearTimeout(quiet);
    quiet = setTimeout(() => (notice.textContent = ""), 6000);
  }

  // ---- drawing ---------------------------------------------------------------------------------------------

  let waiting = false;
  function redraw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      for (const plane of planes) {
        ask("slice", plane);
        ask("mask", plane);
        plane.draw();
      }
      Object.assign(grid.dataset, { scale: view.scale, centre: view.centre.join(" ") }); // for tests
      showReadout();
    });
  }

  function showReadout() {
    const values = slices.get(planes[0].key);
    const value = values?.[view.at[1] * shape[2] + view.at[2]];
    const one = view.boxes.get(view.selected);
    const um = view.at.map((v, a) => ((v + 0.5) * voxel[a]).toFixed(1));
    const lines = [
      `z y x: ${view.at.join(", ")}   (${um.join(", ")} µm)`,
      `grey value ${value ?? "…"}`,
      `brush ${(2 * view.radius).toFixed(1)} µm`,
      one && `box ${view.selected}: ${[0, 1, 2].map((a) => `${NAMES[a]} ${one.box[a]}–${one.box[a + 3]}`).join(", ")}`,
      one && (one.voxels ? `mask: ${one.voxels} voxels` : "no mask"),
    ];
    facts.replaceChildren(...lines.filter(Boolean).map((text) => make("div", {}, text)));
    brush.value = view.radius;
    dark.value = view.low;
    bright.value = view.high;
  }

  let listed = "";
  function showList() {
    const now = JSON.stringify([[...view.boxes].map(([id, one]) => [id, one.voxels > 0]), view.selected]);
    if (now === listed) return;
    listed = now;
    heading.textContent = `Boxes (${view.boxes.size})`;
    const focused = list.contains(document.activeElement);
    list.replaceChildren(...[...view.boxes].map(([id, one]) => {
      const entry = make("button", { type: "button", ariaPressed: String(id === view.selected), onclick: () => goTo(id) });
      entry.append(make("i", { style: `background: ${colour(id)}` }), ` ${id}`, make("small", {}, one.voxels ? " mask" : ""));
      return make("li", {}, entry);
    }));
    const chosen = list.querySelector("[aria-pressed=true]");
    chosen?.scrollIntoView({ block: "nearest" });
    if (focused) (chosen ?? view.active.canvas).focus({ preventScroll: true }); // else keys go nowhere
  }

  // ---- the view --------------------------------------------------------------------------------------------

  function setTool(name) {
    view.tool = view.locked ? "select" : name;
    tools.forEach((tool, i) => (tool.ariaPressed = String(TOOLS[i][0] === view.tool)));
    grid.dataset.tool = view.tool;
    redraw();
  }

  function setBrush(radius) {
    view.radius = clamp(radius, voxel[2] / 2, 25 * voxel[2]);
    redraw();
  }

  function setWindow(low, high) {
    view.low = clamp(low, 0, most - 1);
    view.high = Math.max(high, view.low + 1);
    redraw();
  }

  function contrastOfSlice() {
    const values = slices.get(view.active.key)?.slice().sort();
    if (values) setWindow(values[Math.floor(values.length * 0.01)], values[Math.floor(values.length * 0.998)]);
  }

  function moveTo(axis, index) {
    view.at[axis] = clamp(Math.round(index), 0, shape[axis] - 1);
    redraw();
  }

  function select(id) {
    view.selected = id;
    showList();
    redraw();
  }

  /** Go to the middle of a box; planes are moved only where they do not show all of it. */
  function goTo(id) {
    const { box } = view.boxes.get(id);
    for (const axis of [0, 1, 2]) moveTo(axis, Math.floor((box[axis] + box[axis + 3]) / 2));
    for (const plane of planes) {
      const [x0, y0, x1, y1] = plane.rectangle(box);
      const hidden = { [plane.right]: x0 < -1 || x1 > plane.width + 1, [plane.down]: y0 < -1 || y1 > plane.height + 1 };
      for (const axis of [plane.right, plane.down])
        if (hidden[axis]) view.centre[axis] = ((box[axis] + box[axis + 3]) / 2) * voxel[axis];
    }
    select(id);
  }

  function step(by) {
    const ids = [...view.boxes.keys()];
    const place = ids.indexOf(view.selected);
    if (ids.length) goTo(ids[(place < 0 && by < 0 ? 0 : place + by + ids.length) % ids.length]);
  }

  function zoom(factor, plane = view.active, x = plane.width / 2, y = plane.height / 2) {
    const before = [plane.fromX(x) * voxel[plane.right], plane.fromY(y) * voxel[plane.down]];
    view.scale = clamp(view.scale * factor, 0.2 / voxel[2], 60 / voxel[2]);
    view.centre[plane.right] = before[0] - (x - plane.width / 2) / view.scale;
    view.centre[plane.down] = before[1] - (y - plane.height / 2) / view.scale;
    redraw();
  }

  function fit() {
    view.centre = size.map((s) => s / 2);
    view.scale = Math.min(...planes.flatMap((p) => [p.width / size[p.right], p.height / size[p.down]])) * 0.98;
    redraw();
  }

  function layOut() {
    if (!main.clientWidth) return; // not shown yet
    // One scale for all planes; the whole fits on a screen. A flat stack gets some room to be turned and zoomed in.
    const depth = clamp(size[0], 0.3 * size[2], 0.8 * size[2]);
    const room = [Math.max(main.clientWidth - 190, 200), clamp(window.innerHeight * 0.66, 400, 900)];
    const scale = Math.min(room[0] / (size[2] + depth), room[1] / (size[1] + depth));
    const [z, y, x] = [depth, size[1], size[2]].map((length) => Math.round(length * scale));
    const sides = { xy: [x, y], zy: [z, y], zx: [x, z] };
    for (const plane of planes) {
      [plane.width, plane.height] = sides[plane.name];
      plane.canvas.width = plane.width * (window.devicePixelRatio || 1);
      plane.canvas.height = plane.height * (window.devicePixelRatio || 1);
      plane.canvas.style.cssText = `width: ${plane.width}px; height: ${plane.height}px`;
    }
    grid.style.gridTemplateColumns = `${x}px ${z}px`;
    list.style.maxHeight = `${Math.max(y + z - 200, 120)}px`;
    view.laidOut ? redraw() : fit();
    view.laidOut = true;
  }

  // ---- the mouse -------------------------------------------------------------------------------------------

  function hit(plane, x, y) {
    const one = view.boxes.get(view.selected);
    if (one && plane.hasHandles(one.box)) {
      const [x0, y0, x1, y1] = plane.rectangle(one.box);
      // Of a small box only the nearest handle counts.
      const near = handles()
        .map(([r, d]) => ({ r, d, far: Math.max(
          Math.abs(x - [x0, (x0 + x1) / 2, x1][r + 1]), Math.abs(y - [y0, (y0 + y1) / 2, y1][d + 1])) }))
        .sort((a, b) => a.far - b.far)[0];
      if (near.far <= HANDLE + 2) return { kind: "resize", ...near };
      if (view.tool === "select" && x > x0 && x < x1 && y > y0 && y < y1) return { kind: "move" };
    }
    return { kind: view.tool === "select" ? "pan" : view.tool };
  }

  /** The box at a place: the selected one if it is there, else the smallest. */
  function boxUnder(plane, x, y, selected = null) {
    const area = (box) => (box[plane.right + 3] - box[plane.right]) * (box[plane.down + 3] - box[plane.down]);
    const found = [...view.boxes].filter(([, { box }]) => {
      const [x0, y0, x1, y1] = plane.rectangle(box);
      return plane.shows(box) && x >= x0 && x <= x1 && y >= y0 && y <= y1;
    });
    const ids = found.sort((a, b) => area(a[1].box) - area(b[1].box)).map(([id]) => id);
    return ids.includes(selected) ? selected : ids[0] ?? null;
  }

  function start(plane, event) {
    view.active = plane;
    plane.canvas.focus({ preventScroll: true });
    plane.canvas.setPointerCapture(event.pointerId);
    const [x, y] = [event.offsetX, event.offsetY];
    let { kind, r, d } = event.button ? { kind: "pan" } : hit(plane, x, y);
    if (kind === "paint" || kind === "erase") {
      select(boxUnder(plane, x, y, view.selected) ?? view.selected);
      if (view.selected === null) return say("Draw or select a box first: masks are painted inside one.");
    }
    const { selected } = view;
    view.drag = { kind, r, d, plane, x, y, selected, moved: false, centre: [...view.centre], erase: kind === "erase" };
    if (kind === "resize" || kind === "move") view.drag.from = view.boxes.get(view.selected).box;
    if (view.drag.kind === "paint" || view.drag.erase) view.drag.stroke = [[plane.fromY(y), plane.fromX(x)]];
    redraw();
  }

  function move(plane, event) {
    const [x, y] = (plane.pointer = [event.offsetX, event.offsetY]);
    const { drag } = view;
    if (!drag) {
      view.active = plane;
      const { kind, r, d } = hit(plane, x, y);
      const arrows = { "1": "nwse", "-1": "nesw" };
      plane.canvas.style.cursor =
        kind === "resize" ? `${r && d ? arrows[r * d] : r ? "ew" : "ns"}-resize` : kind === "move" ? "move" : "";
      return redraw();
    }
    drag.moved ||= Math.hypot(x - drag.x, y - drag.y) > 3;
    const [right, down] = [plane.fromX(x) - plane.fromX(drag.x), plane.fromY(y) - plane.fromY(drag.y)];
    if (drag.stroke) for (const e of event.getCoalescedEvents?.() ?? [event])
      drag.stroke.push([plane.fromY(e.offsetY), plane.fromX(e.offsetX)]);
    else if (!drag.moved) return;
    else if (drag.kind === "pan") {
      view.centre[plane.right] = drag.centre[plane.right] - (x - drag.x) / view.scale;
      view.centre[plane.down] = drag.centre[plane.down] - (y - drag.y) / view.scale;
    } else if (drag.kind === "box") {
      const corners = [plane.fromY(drag.y), plane.fromY(y), plane.fromX(drag.x), plane.fromX(x)];
      const box = Array(6);
      [box[plane.axis], box[plane.axis + 3]] = [view.at[plane.axis], view.at[plane.axis] + 1];
      [box[plane.down], box[plane.down + 3]] = corners.slice(0, 2).sort((a, b) => a - b);
      [box[plane.right], box[plane.right + 3]] = corners.slice(2).sort((a, b) => a - b);
      drag.box = box;
      view.selected = null;
    } else {
      drag.box = [...drag.from];
      const shift = (axis, side, by) => (drag.box[axis + (side > 0 ? 3 : 0)] += Math.round(by));
      if (drag.kind === "move") for (const side of [-1, 1]) shift(plane.right, side, right), shift(plane.down, side, down);
      if (drag.r) shift(plane.right, drag.r, right);
      if (drag.d) shift(plane.down, drag.d, down);
      for (const a of [plane.right, plane.down]) // an edge stops short of the opposite one
        if (drag.box[a] >= drag.box[a + 3])
          drag.box[a + (drag.box[a] === drag.from[a] ? 3 : 0)] =
            drag.box[a] === drag.from[a] ? drag.box[a] + 1 : drag.box[a + 3] - 1;
    }
    redraw();
  }

  function end(plane, event) {
    const { drag } = view;
    view.drag = null;
    if (!drag || event.type === "pointercancel") return redraw();
    if (drag.stroke) {
      paint(plane, drag.stroke, drag.erase);
    } else if (!drag.moved) {
      if (event.button) return redraw();
      moveTo(plane.right, Math.floor(plane.fromX(drag.x)));
      moveTo(plane.down, Math.floor(plane.fromY(drag.y)));
      select(boxUnder(plane, drag.x, drag.y));
    } else if (drag.kind === "box") {
      view.selected = drag.selected; // until Python says that there is a new one
      addRectangle(plane, drag.box);
    } else if (drag.box) {
      setBox(drag.box);
    }
    redraw();
  }

  /** Draw a box in a plane, and cut it in its middle in the two others, where it can then be adjusted. */
  function addRectangle(plane, box) {
    const corner = (side) => [0, 1, 2].filter((a) => a !== plane.axis).map((a) => box[a + side]);
    edit("add_rectangle", { axis: plane.axis, index: view.at[plane.axis], low: corner(0), high: corner(3) });
    for (const a of [plane.right, plane.down]) moveTo(a, Math.floor((box[a] + box[a + 3]) / 2));
  }

  function setBox(box) {
    view.boxes.get(view.selected).box = box; // until Python says what became of it
    onSelected("set_box", { box });
  }

  function paint(plane, points, erase) {
    const inOrder = plane.down < plane.right ? points : points.map(([down, right]) => [right, down]);
    onSelected("paint", {
      axis: plane.axis, index: view.at[plane.axis], points: inOrder, radius: view.radius, erase });
  }

  function turn(plane, event) {
    event.preventDefault();
    if (event.ctrlKey || event.metaKey) return zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, plane, event.offsetX, event.offsetY);
    const by = Math.sign(event.deltaY || event.deltaX) * (event.shiftKey ? 10 : 1);
    if (by) moveTo(plane.axis, view.at[plane.axis] + by);
  }

  // ---- keys ------------------------------------------------------------------------------------------------

  const showHelp = () => (help.open ? help.close() : help.showModal());

  function arrow(event) {
    const { right, down, axis } = view.active;
    const ways = {
      ArrowLeft: [right, -1], ArrowRight: [right, 1], ArrowUp: [down, -1], ArrowDown: [down, 1],
      PageUp: [axis, -1], PageDown: [axis, 1],
    };
    if (!ways[event.key]) return false;
    const [a, way] = ways[event.key];
    const one = view.boxes.get(view.selected);
    if (event.ctrlKey && event.altKey) view.centre[a] += (way * 40) / view.scale;
    else if ((event.altKey || event.ctrlKey) && one) {
      const box = [...one.box];
      for (const side of event.altKey ? [0, 3] : event.shiftKey ? [0] : [3])
        box[a + side] = clamp(box[a + side] + way, side ? (event.altKey ? 1 : box[a] + 1) : 0,
          side ? shape[a] : event.altKey ? shape[a] - 1 : box[a + 3] - 1);
      setBox(box);
    } else if (!event.altKey && !event.ctrlKey) moveTo(a, view.at[a] + way * (event.shiftKey ? 10 : 1));
    redraw();
    return true;
  }

  function press(event) {
    event.stopPropagation();
    if (event.key === "?") return showHelp();
    if (help.open || (event.target.matches("input, button") && /^(Arrow|Page|Enter| $)/.test(event.key))) return;
    const { active } = view;
    const control = event.ctrlKey || event.metaKey;
    const tool = TOOLS.find(([, letter]) => letter === event.key.toUpperCase())?.[0];
    const keys = {
      1: () => planes[0].canvas.focus(), 2: () => planes[1].canvas.focus(), 3: () => planes[2].canvas.focus(),
      "[": () => setBrush(view.radius / 1.25), "]": () => setBrush(view.radius * 1.25),
      "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: fit,
      ",": () => step(-1), ".": () => step(1), f: () => onSelected("fill"), c: contrastOfSlice,
      Delete: () => onSelected("delete"), Backspace: () => onSelected("delete"),
      Escape: () => (view.drag = null) || select(null),
      Enter: () => {
        const half = (a) => Math.max(1, (shape[2] * voxel[2]) / 30 / voxel[a]);
        addRectangle(active, view.at.flatMap((v, a) => v + 0.5 - half(a)).concat(view.at.map((v, a) => v + 0.5 + half(a))));
      },
      " ": () => {
        if (view.tool === "paint" || view.tool === "erase")
          paint(active, [[view.at[active.down] + 0.5, view.at[active.right] + 0.5]], view.tool === "erase");
      },
    };
    const withControl = {
      z: () => edit(event.shiftKey ? "redo" : "undo"), y: () => edit("redo"), s: () => send("save"),
    };
    const action = control ? withControl[event.key.toLowerCase()] : keys[event.key] ?? keys[event.key.toLowerCase()];
    if (action) action();
    else if (tool && !control) setTool(tool);
    else if (!arrow(event)) return;
    event.preventDefault();
  }

  // ---- all together ----------------------------------------------------------------------------------------

  for (const plane of planes) {
    const { canvas } = plane;
    canvas.onpointerdown = (event) => start(plane, event);
    canvas.onpointermove = (event) => move(plane, event);
    canvas.onpointerup = canvas.onpointercancel = (event) => end(plane, event);
    canvas.onpointerleave = () => (plane.pointer = null) || redraw();
    canvas.oncontextmenu = (event) => event.preventDefault();
    canvas.onfocus = () => (view.active = plane) && redraw();
    canvas.addEventListener("wheel", (event) => turn(plane, event), { passive: false });
  }
  root.addEventListener("keydown", press);
  root.addEventListener("click", (event) => { // whoever uses the mouse has the keys for the planes, not for a button
    if (event.detail && event.target.closest("button") && !help.open) view.active.canvas.focus({ preventScroll: true });
  });
  let told = 0; // looking is work, too
  for (const type of ["pointermove", "wheel", "keydown"])
    root.addEventListener(type, () => Date.now() - told > 5000 && (told = Date.now()) && send("active"));
  const watch = new ResizeObserver(() => requestAnimationFrame(layOut)); // at once, it would be told of its own work
  watch.observe(main);
  model.on("msg:custom", receive);
  setTool("box");
  layOut();
  send("hello");
  return () => {
    send("bye");
    watch.disconnect();
    model.off("msg:custom", receive);
  };
}

export default { render };
