"""The README: its commands are ones that exist, its links lead somewhere, its pictures are light."""

import re
import shlex
from pathlib import Path

import pytest

from weakseg_lib import actions, cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
LINES = [line for block in re.findall(r"^```\n(.*?)^```", README, re.M | re.S) for line in block.splitlines()]


def commands(name):
    """The lines of the README's blocks that start with `name`, as lists of words without it."""
    lines = [line.replace("\\", "/") for line in LINES if line.startswith(f"{name} ")]
    words = [shlex.split(line, comments=True) for line in lines]
    assert words, f"no line starts with {name}"
    return [line[1:] for line in words]


@pytest.mark.parametrize("words", commands("weakseg"), ids=" ".join)
def test_weakseg_understands(words):
    options = cli._parser().parse_args(words)  # ends the process where it does not understand
    assert callable(options.run)


def test_all_commands_are_shown():
    shown = {words[0] for words in commands("weakseg")}
    (known,) = [action.choices for action in cli._parser()._actions if isinstance(action.choices, dict)]
    assert shown == set(known)


def test_settings_that_it_names_exist():
    for words in commands("weakseg"):
        if words[0] == "fit":
            actions.config_of(cli._parser().parse_args(words))


def test_make_has_the_targets():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"(?:^|`)make (\w+)", README, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), f"make {target}"


def test_scripts_and_files_are_there():
    for words in commands("python"):
        for word in words:
            if word.endswith(".py"):
                assert (ROOT / word).is_file(), word


def test_links_lead_to_files():
    targets = re.findall(r"\]\(([^)]+)\)", README)
    for target in targets:
        if not target.startswith("https://"):
            assert (ROOT / target).is_file(), target


def test_pictures_are_light_and_described():
    pictures = re.findall(r"!\[([^\]]*)\]\((?!https:)([^)]+)\)", README)  # badges are others' pictures
    assert pictures
    for text, target in pictures:
        assert len(text) > 40, f"{target} needs a description for those who cannot see it"
        assert (ROOT / target).stat().st_size < 600e3, target


def test_short_enough_to_read():
    assert len(README.splitlines()) < 200
