// The mouse on the planes: boxes are drawn and pulled, masks painted, the view is moved.

/** app: the actions, see annotator.js. */
function attachPointer(view, app) {
  /** What a press of the button does at a place. */
  function hit(plane, x, y) {
    const one = view.boxes.get(view.selected);
    if (one && plane.hasHandles(view.selected, one.box)) {
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
    if (view.drag) return; // a second finger
    view.active = plane;
    plane.canvas.focus({ preventScroll: true });
    plane.canvas.setPointerCapture(event.pointerId);
    const [x, y] = [event.offsetX, event.offsetY];
    const { kind, r, d } = event.button ? { kind: "pan" } : hit(plane, x, y);
    const paints = kind === "paint" || kind === "erase";
    if (paints && view.selected === null) { // else the selected one's: where cells touch, a stroke may begin next door
      app.select(boxUnder(plane, x, y));
      if (view.selected === null) return app.say("Draw or select a box first: masks are painted inside one.");
    }
    const { pointerId } = event;
    view.drag = { ...plane.hand(), kind, r, d, x, y, pointerId, moved: false, centre: [...view.centre] };
    if (kind === "box") view.drag.id = null;
    if (kind === "resize" || kind === "move") view.drag.from = view.boxes.get(view.selected).box;
    if (paints) view.drag.stroke = [[plane.fromY(y), plane.fromX(x)]];
    app.redraw();
  }

  function move(plane, event) {
    const { drag } = view;
    if (drag && drag.pointerId !== event.pointerId) return;
    const [x, y] = (plane.pointer = [event.offsetX, event.offsetY]);
    if (!drag) {
      view.active = plane;
      takeKeys(plane);
      plane.canvas.style.cursor = cursor(hit(plane, x, y));
      return app.redraw();
    }
    drag.moved ||= Math.hypot(x - drag.x, y - drag.y) > 3;
    if (drag.stroke) for (const e of event.getCoalescedEvents?.() ?? [event])
      drag.stroke.push([plane.fromY(e.offsetY), plane.fromX(e.offsetX)]);
    else if (!drag.moved) return;
    else if (drag.kind === "pan") {
      view.centre[plane.right] = drag.centre[plane.right] - (x - drag.x) / view.scale;
      view.centre[plane.down] = drag.centre[plane.down] - (y - drag.y) / view.scale;
    } else if (drag.kind === "box") drag.box = drawn(plane, drag, x, y);
    else drag.box = pulled(plane, drag, x, y);
    app.redraw();
  }

  /** Keys are for the plane under the pointer, unless somebody is typing in the notebook or in another window. */
  function takeKeys({ canvas }) {
    const typing = "input:not([type=range]), textarea, select, iframe, [contenteditable=true], .cm-editor";
    if (document.activeElement === canvas || !document.hasFocus() || document.activeElement?.closest(typing)) return;
    canvas.focus({ preventScroll: true });
  }

  function cursor({ kind, r, d }) {
    const diagonal = { "1": "nwse", "-1": "nesw" };
    if (kind === "resize") return `${r && d ? diagonal[r * d] : r ? "ew" : "ns"}-resize`;
    return kind === "move" ? "move" : "";
  }

  /** A new box between where the button went down and here, one slice deep. */
  function drawn(plane, drag, x, y) {
    const box = Array(6);
    const set = (axis, a, b) => ([box[axis], box[axis + 3]] = [Math.min(a, b), Math.max(a, b)]);
    set(plane.axis, drag.index, drag.index + 1);
    set(plane.down, plane.fromY(drag.y), plane.fromY(y));
    set(plane.right, plane.fromX(drag.x), plane.fromX(x));
    return box;
  }

  /** The box that was there, moved, or with one or two of its sides moved. */
  function pulled(plane, drag, x, y) {
    const [right, down] = [plane.fromX(x) - plane.fromX(drag.x), plane.fromY(y) - plane.fromY(drag.y)];
    const box = [...drag.from];
    const shift = (axis, side, by) => (box[axis + (side > 0 ? 3 : 0)] += Math.round(by));
    if (drag.kind === "move")
      for (const side of [-1, 1]) shift(plane.right, side, right), shift(plane.down, side, down);
    if (drag.r) shift(plane.right, drag.r, right);
    if (drag.d) shift(plane.down, drag.d, down);
    for (const a of [plane.right, plane.down]) // an edge stops short of the opposite one
      if (box[a] >= box[a + 3]) box[a] === drag.from[a] ? (box[a + 3] = box[a] + 1) : (box[a] = box[a + 3] - 1);
    return box;
  }

  function end(plane, event) {
    const { drag } = view;
    if (!drag || drag.pointerId !== event.pointerId) return;
    view.drag = null;
    app.redraw();
    const other = drag.moved ? null : boxUnder(plane, drag.x, drag.y, view.selected);
    if (drag.stroke && other !== null && other !== view.selected) {
      app.select(other);
      return app.say(`Box ${other} is selected now, nothing was painted.`);
    }
    if (drag.stroke) return app.paint(drag); // a cancelled one, too: its points are what the hand did
    if (event.type !== "pointerup") return;
    if (!drag.moved) {
      if (event.button) return;
      app.moveTo(plane.right, Math.floor(plane.fromX(drag.x)));
      app.moveTo(plane.down, Math.floor(plane.fromY(drag.y)));
      app.select(boxUnder(plane, drag.x, drag.y));
    } else if (drag.kind === "box") app.addRectangle(plane, drag.index, drag.box);
    else if (drag.box) app.setBox(drag.id, drag.box);
  }

  function turn(plane, event) {
    event.preventDefault();
    if (view.drag) return;
    if (event.ctrlKey || event.metaKey) {
      const about = [...view.centre];
      about[plane.right] = plane.fromX(event.offsetX) * view.voxel[plane.right];
      about[plane.down] = plane.fromY(event.offsetY) * view.voxel[plane.down];
      return app.zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, about);
    }
    const by = Math.sign(event.deltaY || event.deltaX) * (event.shiftKey ? 10 : 1);
    if (by) app.moveTo(plane.axis, view.at[plane.axis] + by);
  }

  for (const plane of view.planes) {
    const { canvas } = plane;
    canvas.onpointerdown = (event) => start(plane, event);
    canvas.onpointermove = (event) => move(plane, event);
    canvas.onpointerup = canvas.onpointercancel = canvas.onlostpointercapture = (event) => end(plane, event);
    canvas.onpointerleave = () => (plane.pointer = null) || app.redraw();
    canvas.oncontextmenu = (event) => event.preventDefault();
    canvas.onfocus = () => (view.active = plane) && app.redraw();
    canvas.addEventListener("wheel", (event) => turn(plane, event), { passive: false });
  }
}
