// The annotator: what it knows, what it asks of Python, and what mouse and keys can do. Slices and masks come from
// Python, and every edit is made there. widget.py puts the other files before this one.

const SILENCE = 5000; // ms without an answer until the page says so
const NO_ANSWER = "Python does not answer. If it is busy, wait; if its kernel was restarted, run this cell again: " +
  "what is drawn white is not kept then";
const SELECT_FIRST = "Select a box first: click it, or choose it in the list.";
// The same after a reload, so that whoever was editing still is.
const session = (() => {
  try {
    return (sessionStorage.weakseg ??= crypto.randomUUID());
  } catch {
    return String(Math.random());
  }
})();
let edits = Date.now(); // number of the last; those of all views, before a reload and after it, are different

function render({ model, el }) {
  const info = model.get("info");
  const { shape, voxel_size: voxel, window: first, most, grey } = info;
  const size = shape.map((n, a) => n * voxel[a]); // um
  const view = {
    at: shape.map((n) => n >> 1),
    centre: size.map((s) => s / 2), // um, what is in the middle of the planes
    scale: 1, // px a um
    low: first[0],
    high: first[1],
    tool: "box",
    wanted: "box", // the tool, once nothing is locked
    radius: 3 * voxel[2], // um
    active: null, // the plane that keys act on
    selected: null, // id of a box
    boxes: new Map(), // id -> {box, voxels}; a box that Python has not made yet goes by minus the number of its edit
    pending: [], // edits that Python has not made yet: {number, box, id or before} or {number, key, stroke, ...}
    locked: "", // why nothing can be changed
    drag: null, // what the pressed button does: see `start` in pointer.js
    shape,
    voxel,
    grey, // the image's value is offset + step * the value in a slice
    slices: new Kept("slice", (message) => model.send(message)), // grey values
    masks: new Kept("mask", (message) => model.send(message)), // what `outline` makes
    planes: [],
  };
  const { slices, masks, planes } = view;
  const app = {
    edit, onSelected, addRectangle, setBox, paint, setTool, setBrush, setWindow, contrastOfSlice, moveTo, select, goTo,
    step, zoom, fit, redraw, say: (text) => page.say(text), save: () => send("save"), take: () => send("take"),
  };
  const page = new Page(el, view, info, app);
  planes.push(...PLANES.map((about, i) => new Plane(view, about, page.canvases[i])));
  view.active = planes[0];

  // ---- talking to Python -----------------------------------------------------------------------------------

  const send = (type, rest = {}) => model.send({ type, view: session, ...rest });
  let silence = null;
  let answered = 0; // number of the last edit that Python has made
  let made = new Map(); // the boxes as Python has them

  /** Ask Python for an edit. shown: how to draw it until the answer is here. */
  function edit(what, how = {}, shown = null) {
    if (view.locked) return page.say(view.locked);
    edits += 1;
    if (shown) view.pending.push({ number: edits, ...shown });
    layBoxes();
    send("edit", { do: what, how, number: edits });
    silence ??= setTimeout(() => page.showSaved("not saved", NO_ANSWER), SILENCE);
  }

  function onSelected(what) {
    view.selected === null ? page.say(SELECT_FIRST) : edit(what, { id_: view.selected });
  }

  /** Boxes as Python has them, and over them what is still to be made. */
  function layBoxes() {
    view.boxes = new Map(made);
    for (const { number, box, id = -number } of view.pending)
      if (box && (id < 0 || made.has(id))) view.boxes.set(id, { ...made.get(id), box });
    redraw();
  }

  /** Add a box drawn in a slice, and cut it in its middle in the other planes, where it can then be adjusted. */
  function addRectangle(plane, index, box) {
    if (view.locked) return page.say(view.locked);
    const corner = (side) => [0, 1, 2].filter((a) => a !== plane.axis).map((a) => box[a + side]);
    const before = view.selected;
    edit("add_rectangle", { axis: plane.axis, index, low: corner(0), high: corner(3) }, { box, before });
    select(-edits);
    for (const a of [plane.right, plane.down]) moveTo(a, Math.floor((box[a] + box[a + 3]) / 2));
  }

  function setBox(id, box) {
    if (id < 0) return page.say("Python has not made this box yet: its kernel is busy.");
    edit("set_box", { id_: id, box }, { id, box });
  }

  /** stroke: points in a slice, [down, right] in voxels. The rest: what it belongs to, see `hand` in planes.js. */
  function paint({ plane, index, key, id, stroke, radius, erase }) {
    if (id === null) return page.say(SELECT_FIRST);
    const points = plane.down < plane.right ? stroke : stroke.map(([down, right]) => [right, down]);
    edit("paint", { id_: id, axis: plane.axis, index, points, radius, erase }, { key, stroke, radius, erase, id });
  }

  function receive(message, buffers) {
    const { type, axis, index } = message;
    if (type === "status") return page.showSaved(message.state, message.why);
    if (type === "state") return takeState(message);
    const plane = planes.find((p) => p.axis === axis);
    const bytes = buffers[0]; // a DataView; its start need not be a multiple of two or four
    const own = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
    if (type === "slice") {
      const wide = own.byteLength > shape[plane.down] * shape[plane.right];
      slices.put(axis, index, wide ? new Uint16Array(own) : new Uint8Array(own), own.byteLength);
    } else {
      const mask = outline(message.corner, message.size, new Int32Array(own));
      masks.put(axis, index, mask, mask.bytes);
      view.pending = view.pending.filter(({ number, key }) => number > answered || key !== `${axis}/${index}`);
    }
    redraw();
  }

  function takeState(state) {
    clearTimeout(silence);
    silence = null;
    if (state.view === session && state.number) {
      // A box that was drawn has its id now. Where it was refused, the one before is selected again.
      const { before = null } = view.pending.find(({ number }) => number === state.number) ?? {};
      if (view.selected === -state.number) view.selected = state.selected ?? before;
      answered = Math.max(answered, state.number);
    }
    // A stroke stays until the slice with it is here.
    const seen = ({ key }) => state.new_masks && planes.some((plane) => plane.key === key);
    view.pending = view.pending.filter((one) => one.number > answered || seen(one));
    made = new Map(state.instances.map(([id, ...rest]) => [id, { box: rest.slice(0, 6), voxels: rest[6] }]));
    layBoxes();
    if (!view.boxes.has(view.selected)) view.selected = null;
    if (state.new_masks) masks.clear();
    const elsewhere = state.editor && state.editor !== session;
    view.locked = state.read_only || (elsewhere ? "Another browser or window is annotating this." : "");
    page.showState(state, elsewhere && !state.read_only);
    setTool(view.wanted);
  }

  // ---- the view --------------------------------------------------------------------------------------------

  let waiting = false;
  function redraw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      for (const plane of planes) {
        for (const kept of [slices, masks]) kept.want(plane.axis, view.at[plane.axis], shape[plane.axis]);
        plane.draw();
      }
      const { scale, centre, pending } = view;
      Object.assign(page.grid.dataset, { scale, centre: centre.join(" "), pending: pending.length }); // for tests
      page.showReadout();
    });
  }

  function setTool(name) {
    view.wanted = name;
    view.tool = view.locked ? "select" : name;
    page.showTool();
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
    page.showList();
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

  /** about: what stays in its place, um; the cross. */
  function zoom(factor, about = view.at.map((v, a) => (v + 0.5) * voxel[a])) {
    const before = view.scale;
    view.scale = clamp(before * factor, 0.2 / voxel[2], 60 / voxel[2]);
    view.centre = view.centre.map((c, a) => about[a] + ((c - about[a]) * before) / view.scale);
    redraw();
  }

  function fit() {
    view.centre = size.map((s) => s / 2);
    view.scale = Math.min(...planes.flatMap((p) => [p.width / size[p.right], p.height / size[p.down]])) * 0.98;
    redraw();
  }

  function layOut() {
    const before = planes[0].width;
    if (!page.layOut(size)) return;
    if (!before) return fit();
    view.scale *= planes[0].width / before; // the same stays in sight
    redraw();
  }

  // ---- all together ----------------------------------------------------------------------------------------

  attachPointer(view, app);
  attachKeys(view, page, app);
  page.root.addEventListener("click", (event) => { // who uses the mouse has the keys for the planes, not for a button
    if (event.detail && event.target.closest("button") && !page.help.open)
      view.active.canvas.focus({ preventScroll: true });
  });
  let told = 0; // looking is work, too
  for (const type of ["pointermove", "wheel", "keydown"])
    page.root.addEventListener(type, () => Date.now() - told > 5000 && (told = Date.now()) && send("active"));
  const watch = new ResizeObserver(() => requestAnimationFrame(layOut)); // at once, it would be told of its own work
  watch.observe(page.main);
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
