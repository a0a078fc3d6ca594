// The keyboard: everything that the mouse can do. The page lists the keys, see KEYS in page.js.

/** app: the actions, see annotator.js. */
function attachKeys(view, page, app) {
  const { shape, voxel, planes } = view;

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
      const by = clamp(way, -box[a], shape[a] - box[a + 3]); // a box that is moved stays whole
      if (event.altKey) (box[a] += by), (box[a + 3] += by);
      else if (event.shiftKey) box[a] = clamp(box[a] + way, 0, box[a + 3] - 1);
      else box[a + 3] = clamp(box[a + 3] + way, box[a] + 1, shape[a]);
      app.setBox(view.selected, box);
    } else if (!event.altKey && !event.ctrlKey) app.moveTo(a, view.at[a] + way * (event.shiftKey ? 10 : 1));
    app.redraw();
    return true;
  }

  function boxAroundCross() {
    const half = (a) => Math.max(1, (shape[2] * voxel[2]) / 30 / voxel[a]);
    const middle = view.at.map((v) => v + 0.5);
    const box = [...middle.map((v, a) => v - half(a)), ...middle.map((v, a) => v + half(a))];
    app.addRectangle(view.active, view.at[view.active.axis], box);
  }

  function paintAtCross() {
    const { active, at, tool } = view;
    const stroke = [[at[active.down] + 0.5, at[active.right] + 0.5]];
    if (tool === "paint" || tool === "erase") app.paint({ ...active.hand(), stroke });
  }

  function escape() {
    if (!view.drag) return app.select(null);
    view.drag = null;
    app.redraw();
  }

  const keys = {
    1: () => planes[0].canvas.focus(), 2: () => planes[1].canvas.focus(), 3: () => planes[2].canvas.focus(),
    "[": () => app.setBrush(view.radius / 1.25), "]": () => app.setBrush(view.radius * 1.25),
    "+": () => app.zoom(1.25), "=": () => app.zoom(1.25), "-": () => app.zoom(0.8), 0: () => app.fit(),
    ",": () => app.step(-1), ".": () => app.step(1), f: () => app.onSelected("fill"), c: () => app.contrastOfSlice(),
    Delete: () => app.onSelected("delete"), Backspace: () => app.onSelected("delete"),
    Escape: escape, Enter: boxAroundCross, " ": paintAtCross,
  };
  const withControl = {
    z: (event) => app.edit(event.shiftKey ? "redo" : "undo"), y: () => app.edit("redo"), s: () => app.save(),
  };

  page.root.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.shiftKey || event.ctrlKey || event.metaKey)) return; // runs a notebook's cell
    event.stopPropagation();
    if (event.key === "?") return page.showHelp();
    if (page.help.open || (event.target.matches("input, button") && /^(Arrow|Page|Enter| $)/.test(event.key))) return;
    if (view.drag && event.key !== "Escape") return event.preventDefault(); // nothing changes under the hand
    const control = event.ctrlKey || event.metaKey;
    const tool = TOOLS.find(([, letter]) => letter === event.key.toUpperCase())?.[0];
    const action = control ? withControl[event.key.toLowerCase()] : keys[event.key] ?? keys[event.key.toLowerCase()];
    if (action) action(event);
    else if (tool && !control) app.setTool(tool);
    else if (!arrow(event)) return;
    event.preventDefault();
  });
}
