"""The weights that come with the library: they load, they segment what their card says, they are small."""

import itertools

from weakseg_lib.data.simulate import hl60_frames, hl60_settings
from weakseg_lib.data.stacks import Stack
from weakseg_lib.evaluation import Instances, evaluate_stack
from weakseg_lib.prediction import predict_stack
from weakseg_lib.runs import PRETRAINED, load_run


def test_hl60_segments_simulated_stacks_it_has_not_seen(tmp_path):
    run = load_run("hl60", "cpu")
    settings = hl60_settings(1)
    for image, labels in itertools.islice(hl60_frames(1, settings, seed=77), 1):
        found = predict_stack(run, Stack(image, settings.voxel_size, "t000", tmp_path))
        counts = evaluate_stack(Instances(found.labels, found.boxes), Instances(labels))
    # Its card: 0.98 and 0.96 over a hundred stacks; one stack of 17 cells varies more.
    assert counts["detection"].f1 > 0.85 and counts["segmentation"].f1 > 0.92


def test_they_are_small_and_say_what_they_are():
    folders = [folder for folder in PRETRAINED.iterdir() if folder.is_dir()]
    assert folders
    for folder in folders:
        assert sum(file.stat().st_size for file in folder.iterdir()) < 4e6
        card = (folder / "CARD.md").read_text()
        for word in ("Trained on", "simulated", "Command", "Score", "Limits"):
            assert word in card
        assert not (folder / "checkpoint.pt").exists()
