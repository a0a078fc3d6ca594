// The annotator: what it knows, what it asks of Python, and what mouse and keys can do. widget.py puts planes.js,
// page.js, pointer.js and keys.js before this file. Slices and masks come from Python, and every edit is made there.

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
  const info = model.get("info");
  const { shape, voxel_size: voxel, window: first, most } = info;
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
    pending: [], // what Python has not made yet: {number, box} or {number, key, stroke, radius, erase, id}
    locked: "", // why nothing can be changed
    drag: null,
    shape,
    voxel,
    slices: new Map(), // "axis/index" -> grey values, the latest last
    masks: new Map(), // "axis/index" -> what `outline` makes
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
  const asked = new Set(); // "slice/axis" of requests under way
  let silence = null;
  let [edits, answered] = [0, 0]; // numbers of the last edit that was asked for, and of the last that was made

  /** Ask Python for an edit. shown: how to draw it until the answer is here. */
  function edit(what, how = {}, shown = null) {
    if (view.locked) return page.say(view.locked);
    edits += 1;
    if (shown) view.pending.push({ number: edits, ...shown });
    send("edit", { do: what, how, number: edits });
    silence ??= setTimeout(
      () => page.showSaved("not saved", "Python does not answer: its kernel is busy or has stopped"), SILENCE);
  }

  function onSelected(what, how = {}, shown = null) {
    if (view.selected === null) return page.say("Select a box first: click it, or choose it in the list.");
    edit(what, { id_: view.selected, ...how }, shown);
  }

  /** Draw a box in a plane, and cut it in its middle in the two others, where it can then be adjusted. */
  function addRectangle(plane, box) {
    const corner = (side) => [0, 1, 2].filter((a) => a !== plane.axis).map((a) => box[a + side]);
    edit("add_rectangle", { axis: plane.axis, index: view.at[plane.axis], low: corner(0), high: corner(3) }, { box });
    for (const a of [plane.right, plane.down]) moveTo(a, Math.floor((box[a] + box[a + 3]) / 2));
  }

  function setBox(box) {
    view.boxes.get(view.selected).box = box; // until Python says what became of it
    onSelected("set_box", { box });
  }

  /** points: of the stroke in a plane, [down, right] in voxels. */
  function paint(plane, points, erase) {
    const { radius, selected } = view;
    const inOrder = plane.down < plane.right ? points : points.map(([down, right]) => [right, down]);
    onSelected("paint", { axis: plane.axis, index: view.at[plane.axis], points: inOrder, radius, erase },
      { key: plane.key, stroke: points, radius, erase, id: selected });
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
    if (type === "status") return page.showSaved(message.state, message.why);
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
      view.pending = view.pending.filter(({ number, key }) => number > answered || key !== `${axis}/${index}`);
    }
    redraw();
  }

  function takeState(state) {
    clearTimeout(silence);
    silence = null;
    if (state.view === session) answered = Math.max(answered, state.number);
    // A stroke stays until the slice with it is here.
    const seen = ({ key }) => state.new_masks && planes.some((plane) => plane.key === key);
    view.pending = view.pending.filter((one) => one.number > answered || seen(one));
    view.boxes = new Map(state.instances.map(([id, ...rest]) => [id, { box: rest.slice(0, 6), voxels: rest[6] }]));
    if (state.selected !== null) view.selected = state.selected;
    else if (!view.boxes.has(view.selected)) view.selected = null;
    if (state.new_masks) masks.clear();
    const elsewhere = state.editor && state.editor !== session;
    view.locked = state.read_only || (elsewhere ? "Another browser or window is annotating this." : "");
    page.showState(state, elsewhere && !state.read_only);
    setTool(view.tool);
  }

  // ---- the view --------------------------------------------------------------------------------------------

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
      const { scale, centre, pending } = view;
      Object.assign(page.grid.dataset, { scale, centre: centre.join(" "), pending: pending.length }); // for tests
      page.showReadout();
    });
  }

  function setTool(name) {
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

  let laidOut = false;
  function layOut() {
    if (!page.layOut(size)) return;
    laidOut ? redraw() : fit();
    laidOut = true;
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
