import numpy as np
import pytest

from detector.console import InputError
from detector.model import weights
from detector.training.config import for_images, parse, resume_key, shareable

SMALL, LARGE = np.full((3, 2), 32), np.full((3, 2), 500)


def test_open_options_are_those_of_the_architecture():
    found = {name: parse(["--architecture", name]) for name in ("resnet101", "resnet50v2", "compact")}
    assert [(c.weights, c.learning_rate, c.stop_rule, c.stop_patience, c.head_epochs) for c in found.values()] == [
        ("imagenet", 1e-4, "exceeds", 1, 1), ("imagenet", 1e-4, "plateau", 3, 1), ("none", 3e-3, "exceeds", 1, 0),
    ]  # fmt: skip
    assert parse(["--weights", "none"]).head_epochs == 0 and parse(["--epochs", "0"]).head_epochs == 0


def test_old_spellings_keep_working():
    old = parse(["--architecture", "compact", "--fitting", "views", "--damage", "0.3", "--judge-sides", "20", "40"])
    new = parse([
        "--architecture", "compact", "--preprocessing", "views", "--degradation", "0.3", "--training-range", "20", "40",
    ])  # fmt: skip
    assert old == new and (new.preprocessing, new.degradation, new.training_range) == ("views", 0.3, (20, 40))


@pytest.mark.parametrize("options, flag", [
    (["--stem", "small"], "--stem"),
    (["--head-epochs", "1"], "--head-epochs"),
    (["--warmup-epochs", "1"], "--warmup-epochs"),
    (["--training-range", "9", "8"], "--training-range"),
    (["--preprocessing", "views", "--views", *["whole"] * 4], "--views"),
    (["--preprocessing", "views", "--views", *["between"] * 6], "--views"),
    (["--preprocessing", "views", "--views", "whole", "--view-weights", "1", "2"], "--view-weights"),
    (["--views", "whole"], "--views"), (["--view-weights", "1"], "--view-weights"),
    (["--photo-degradation", "1"], "--photo-degradation"), (["--worst-error", "0.05"], "--worst-error"),
])  # fmt: skip
def test_options_that_contradict_one_another_are_refused(options, flag):
    with pytest.raises(InputError, match=f"^{flag}"):
        parse(["--architecture", "compact", *options])


def test_the_error_guarantee_with_groups_is_of_their_mean():
    plain, grouped = parse(["--epochs", "0"]), parse(["--epochs", "0", "--threshold-groups", "folder"])
    assert (plain.max_error, grouped.max_error, grouped.worst_error) == (0.01, 0.02, 0.08)
    assert parse(["--epochs", "0", "--threshold-groups", "folder", "--max-error", "0.03"]).max_error == 0.03


@pytest.mark.parametrize("option, value", [
    ("--max-error", "0.5"), ("--learning-rate", "0"), ("--seed", "-1"), ("--image-size", "0"), ("--architecture", "none"),
])  # fmt: skip
def test_values_out_of_range_are_a_usage_error(option, value, capsys):
    with pytest.raises(SystemExit) as leave:
        parse([option, value])
    assert leave.value.code == 2 and option in capsys.readouterr().err


def test_the_input_size_and_the_stem_follow_from_the_images():
    from_scratch = ["--weights", "none"]
    small, large = (for_images(parse(from_scratch), sizes) for sizes in (SMALL, LARGE))
    assert (small.image_size, small.stem, large.image_size, large.stem) == (32, "small", 224, "standard")
    assert for_images(parse(["--weights", "none", "--image-size", "64", "--stem", "standard"]), SMALL).stem == "standard"
    assert for_images(parse(["--weights", "imagenet"]), SMALL).stem == "small_7x7"
    assert for_images(parse(["--architecture", "compact"]), SMALL).stem == "auto"


def test_a_detector_to_start_from_keeps_its_stem(monkeypatch):
    monkeypatch.setattr(weights, "is_detector", lambda path: True)
    monkeypatch.setattr(weights, "stem_of", lambda path: "small_7x7")
    given = ["--architecture", "resnet50v2", "--weights", "a.h5"]
    assert parse(given).head_epochs == 0
    assert for_images(parse(given), SMALL).stem == for_images(parse([*given, "--stem", "small"]), LARGE).stem == "small_7x7"
    assert for_images(parse([*given, "--stem", "medium"]), SMALL).stem == "medium"  # its kernel has the same shape
    monkeypatch.setattr(weights, "stem_of", lambda path: "small")
    with pytest.raises(InputError, match=r"^--stem standard: .*a\.h5"):
        for_images(parse([*given, "--stem", "standard"]), SMALL)


def test_a_detector_and_a_backbone_together_are_refused(monkeypatch):
    monkeypatch.setattr(weights, "is_detector", lambda path: path == "whole.h5")
    with pytest.raises(InputError, match=r"^--weights backbone\.h5: .*whole\.h5"):
        parse(["--architecture", "mobilenetv2", "--weights", "backbone.h5", "whole.h5"])


def test_the_resume_key_follows_what_changes_a_result():
    def key(*options):
        return resume_key(parse(["--architecture", "compact", *options]), "jax")

    assert key() == key("--log-dir", "elsewhere", "--devices", "2", "--overwrite", "--max-error", "0.02")
    assert key()["--weights"] == "none" and key()["the backend"] == "jax"
    different = {name for name, value in key("--epochs", "3", "--flip").items() if value != key()[name]}
    assert different == {"--epochs", "--flip"}


def test_a_model_file_gets_no_folder_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "is_detector", lambda path: True)
    config = parse(["--architecture", "compact", "--data", str(tmp_path / "d"), "--weights", str(tmp_path / "w.h5")])
    values = shareable(config)
    assert (values["data"], values["weights"]) == ("d", ["w.h5"])
    assert str(tmp_path) not in str(values) and "coordinator" not in values
