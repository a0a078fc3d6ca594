import json

import pytest

from weakseg_lib.config import LAPTOP, PAPER, PRESETS, Config, load_config, with_settings


def test_presets():
    assert load_config() == LAPTOP == Config()
    assert load_config("paper") == PAPER
    # Section 3 of the paper: batches of 4 stacks of 64 x 64 x 128, full resolution, two classes.
    assert (PAPER.batch, PAPER.crop, PAPER.cell_size, PAPER.classes) == (4, (64, 64, 128), 0, 2)


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_written_to_a_run_comes_back(preset):
    stored = json.loads(json.dumps(PRESETS[preset].to_json()))
    assert with_settings(Config(), stored.items(), "config.json") == PRESETS[preset]


def test_settings_go_over_the_file_and_the_file_over_the_preset(tmp_path):
    file = tmp_path / "own.json"
    file.write_text(json.dumps({"batch": 3, "crop": [16, 48, 48], "norm": "group"}))
    config = load_config("paper", file, ["batch=7"])
    assert config == PAPER.replace(batch=7, crop=(16, 48, 48), norm="group")


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("batch=3", "batch", 3),
        (" batch = 3 ", "batch", 3),
        ("learning_rate=1e-2", "learning_rate", 0.01),
        ("learning_rate=1", "learning_rate", 1.0),
        ("crop=16,32,48", "crop", (16, 32, 48)),
        ("crop=(16, 32, 48)", "crop", (16, 32, 48)),
        ("channels=[8,8]", "channels", (8, 8)),
        ("top_down=False", "top_down", False),
        ("top_down=true", "top_down", True),
        ("loss=paper", "loss", "paper"),
    ],
)
def test_text_becomes_the_type_of_the_setting(text, key, value):
    found = getattr(load_config(settings=[text]), key)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("batches=3", "unknown setting 'batches'"),
        ("batch", "no '='"),
        ("batch=many", "batch=many"),
        ("batch=", "batch="),
        ("crop=16,big,32", "crop=16,big,32"),
        ("top_down=2", "top_down=2"),
        ("top_down=maybe", "top_down=maybe"),
        ("learning_rate=fast", "learning_rate=fast"),
    ],
)
def test_wrong_settings(text, word, refused):
    with refused(f"--set {text}" if "no '='" in word else "--set", word):
        load_config(settings=[text])


@pytest.mark.parametrize(
    "text",
    [
        "batch=2.5",
        "batch=0",
        "batch=true",
        "crop=16,32",
        "crop=0,32,32",
        "crop=15,32,32",  # no multiple of the coarsest stride
        "channels=8",  # no strided map at all
        "channels=",
        "blocks=-1",
        "norm=layer",
        "loss=Paper",
        "precision=float16",
        "classes=1",
        "anchors=0",
        "head_stride=3",
        "head_stride=16",
        "roi_strides=1,16",
        "roi_size=0",
        "mask_channels=1",
        "rois=0",
        "steps=-1",
        "learning_rate=-1",
        "average=1.5",
        "zoom=-0.5",
        "cell_size=-1",
        "tile=0,160,160",
        "candidates=0",
        "views=0",
        "views=9",
    ],
)
def test_values_that_cannot_work(text, refused):
    """Each of these is of the right type and would end in a traceback, or silently do something else."""
    with refused("--set", text.partition("=")[0]):
        load_config(settings=[text])


@pytest.mark.parametrize("text", ["{", "[1, 2]", '"batch"'])
def test_a_file_that_is_no_object_of_settings(tmp_path, text, refused):
    file = tmp_path / "own.json"
    file.write_text(text)
    with refused(file, "JSON"):
        load_config(file=file)


def test_other_wrong_sources(tmp_path, refused):
    with refused(tmp_path / "none.json", "readable"):
        load_config(file=tmp_path / "none.json")
    with refused("--preset", "workstation"):
        load_config("workstation")
    file = tmp_path / "own.json"
    file.write_text('{"crops": [1, 2, 3]}')
    with refused(file, "unknown setting 'crops'", "known are method, "):
        load_config(file=file)
