"""The annotator's page in a real browser, with real mouse, fingers and keys, while Python answers late or not at all.

No JupyterLab and no kernel: each test is Python, and answers when it wants to.
"""

import json

import browser

SHAPE, VOXEL = (20, 48, 48), (0.5, 0.25, 0.25)
INFO = {
    "title": "a stack",
    "shape": SHAPE,
    "voxel_size": VOXEL,
    "window": [0, 9],
    "most": 9,
    "grey": {"offset": 0, "step": 1},
    "predicted_masks": 0,
}
STATE = {
    "type": "state",
    "undo": False,
    "redo": False,
    "read_only": "",
    "editor": None,
    "counts": "",
    "selected": None,
    "problem": "",
    "new_masks": False,
    "view": None,
    "number": 0,
    "state": "saved",
    "why": "",
}
# In place of the kernel: sends slices of one value, and empty masks; of all else only notes that it was sent.
OPEN = """(async () => {
    window.onerror = (text) => problems.push(text);
    [window.sent, window.problems] = [[], []];
    const [info, source, style] = %s;
    const answer = (message) => {
        const size = info.shape.filter((_, axis) => axis !== message.axis).reduce((a, b) => a * b);
        const about = message.type === 'mask' ? { corner: [0, 0], size: [0, 0] } : {};
        const bytes = message.type === 'mask' ? new Uint8Array(0) : new Uint8Array(size).fill(7);
        receive({ ...message, ...about }, [new DataView(bytes.buffer)]);
    };
    const send = (message) =>
        ['slice', 'mask'].includes(message.type) ? setTimeout(() => answer(message)) : sent.push(message);
    const model = { get: () => info, send, on: (_, listen) => (window.receive = listen), off: () => {} };
    document.head.append(Object.assign(document.createElement('style'), { textContent: style }));
    const code = URL.createObjectURL(new Blob([source], { type: 'text/javascript' }));
    (await import(code)).default.render({ model, el: document.body });
})()"""
BOX = (4, 10, 10, 16, 30, 34)


class Hand:
    """What a user does, and what Python answers."""

    def __init__(self, page):
        self.page = page

    def open(self, **info):
        from weakseg_lib.annotator.widget import HERE, SCRIPTS

        source = "\n".join((HERE / name).read_text("utf-8") for name in SCRIPTS)
        style = (HERE / "annotator.css").read_text("utf-8")
        self.page.run(OPEN % json.dumps([INFO | info, source, style]))
        self.page.wait("!!document.querySelector('canvas.xy[data-shown]')", 20, "no slice")

    def answer(self, boxes, **rest):
        """Send a state. boxes: dict from id to box."""
        instances = [[id_, *box, 0] for id_, box in boxes.items()]
        self.page.run(f"receive({json.dumps(STATE | {'instances': instances} | rest)}, [])")

    def answer_to(self, edit, boxes, **rest):
        self.answer(boxes, view=edit["view"], number=edit["number"], **rest)

    def edits(self):
        return [message for message in self.page.run("sent") if message["type"] == "edit"]

    def key(self, key, modifiers=0):
        self.page.press(key, 0, modifiers)

    def mouse(self, kind, y, x, **options):
        """kind: "Pressed", "Moved", "Released" or "Wheel", with the left button down, at a place in plane xy."""
        at = browser.place(self.page, "xy", 0, y, x, SHAPE, VOXEL)
        buttons = (
            {"button": "left", "buttons": int(kind != "Released"), "clickCount": 1} if kind != "Wheel" else {}
        )
        place = dict(zip("xy", at, strict=True))
        self.page.call("Input.dispatchMouseEvent", type=f"mouse{kind}", **place, **buttons, **options)

    def touch(self, kind, *place):
        at = [browser.place(self.page, "xy", 0, *place, SHAPE, VOXEL)] if place else []
        points = [{"x": x, "y": y} for x, y in at]
        self.page.call("Input.dispatchTouchEvent", type=f"touch{kind}", touchPoints=points)

    def drag(self, *places):
        self.mouse("Pressed", *places[0])
        for place in places[1:]:
            self.mouse("Moved", *place)
        self.mouse("Released", *places[-1])

    def text(self, part):
        return self.page.run(f"document.querySelector('.weakseg .{part}').innerText")

    def shows(self, part, text):
        words = f"document.querySelector('.weakseg .{part}').innerText.includes({json.dumps(text)})"
        self.page.wait(words, 5, f"{part} does not say {text!r} but {self.text(part)!r}")
