"""Names in notebooks: a cell that was right is still right when it is run again, or a slider in it is moved, later."""

import ast
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="the extra `notebooks` is not installed")
transformer = pytest.importorskip(
    "IPython.core.inputtransformer2", reason="the extra `notebooks` is not installed"
)

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
LATE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Names(ast.NodeVisitor):
    """Of one cell: the global names that it `assigns`, and those that it `takes` from other cells.

    Taken is what is read before the cell itself has assigned it. What a function reads is taken in any case: it reads
    when it is called, which may be after a later cell was run.
    """

    def __init__(self, source):
        self.assigns, self.takes = set(), set()
        self.own, self.late = (
            [],
            False,
        )  # names of the functions and comprehensions around; whether in a function
        self.visit(ast.parse(transformer.TransformerManager().transform_cell(source)))

    def visit_Name(self, node):
        if any(node.id in names for names in self.own):
            return
        if isinstance(node.ctx, ast.Store):
            self.assigns.add(node.id)
        elif node.id not in self.assigns or self.late:
            self.takes.add(node.id)

    def visit_alias(self, node):
        self.assigns.add((node.asname or node.name).partition(".")[0])

    def visit_Assign(self, node):  # the value comes first
        for part in (node.value, *node.targets):
            self.visit(part)

    def visit_AugAssign(self, node):
        if isinstance(node.target, ast.Name):
            self.visit(ast.Name(node.target.id, ast.Load()))
        self.generic_visit(node)

    def visit_For(self, node):
        for part in (node.iter, node.target, *node.body, *node.orelse):
            self.visit(part)

    def generic_visit(self, node):
        if isinstance(node, LATE):
            self._late(node)
        elif isinstance(node, COMPREHENSIONS):
            self.own.append(_stored(node.generators))
            super().generic_visit(node)
            self.own.pop()
        else:
            super().generic_visit(node)

    def _late(self, node):
        for outside in (*getattr(node, "decorator_list", ()), *_defaults(node)):
            self.visit(outside)
        body = node.body if isinstance(node.body, list) else [node.body]
        arguments = {a.arg for a in ast.walk(node) if isinstance(a, ast.arg)}
        before, self.late = self.late, True
        self.own.append(arguments | _stored(body))
        for part in body:
            self.visit(part)
        self.own.pop()
        self.late = before
        if hasattr(node, "name") and not any(node.name in names for names in self.own):
            self.assigns.add(node.name)


def _stored(nodes) -> set[str]:
    found = [child for node in nodes for child in ast.walk(node)]
    names = {n.id for n in found if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return names | {n.name for n in found if isinstance(n, (ast.FunctionDef, ast.ClassDef))}


def _defaults(node) -> list:
    if not hasattr(node, "args"):
        return []
    return [*node.args.defaults, *filter(None, node.args.kw_defaults)]


def assigned_twice(sources) -> dict[str, list[int]]:
    """Names that some cell takes from another, though more than one assigns them: {name: cells that assign it}."""
    cells = [Names(source) for source in sources]
    taken = set().union(*(cell.takes for cell in cells))
    places = {name: [i for i, cell in enumerate(cells) if name in cell.assigns] for name in taken}
    return {name: where for name, where in places.items() if len(where) > 1}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_what_a_cell_takes_from_another_only_one_cell_assigns(path):
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    twice = assigned_twice(cells)
    told = [f"{name}: " + ", ".join(repr(cells[i][:40]) for i in twice[name]) for name in sorted(twice)]
    assert not told, "\n".join(told)


@pytest.mark.parametrize(
    "later", ["def draw(): return box", "print(box)", "box = box + 1", "box += 1", "[box for i in x]"]
)
def test_the_rule_sees_what_is_overwritten(later):
    assert assigned_twice(["box = 1", later, "for box in x: pass"])["box"]


@pytest.mark.parametrize(
    "later", ["box = 2; print(box)", "def draw(box): return box", "[box for box in x]", "f = lambda box: box"]
)
def test_the_rule_lets_a_name_be_used_for_a_moment(later):
    assert "box" not in assigned_twice(["box = 1", later, "for box in x: print(box)"])
