from types import SimpleNamespace

import pytest

from detector.training.history import stop_summary, strict_stop_epoch, with_derived, write_history


def history(*losses):
    """Return a history from (loss, val_loss) pairs."""
    names = ("cross_entropy", "accuracy", "precision", "recall", "auc")
    rows = []
    for epoch, (loss, val_loss) in enumerate(losses, 1):
        other = {f"{split}{name}": 0.5 + epoch / 100 for split in ("", "val_") for name in names}
        rows.append({"epoch": epoch, "loss": loss, "val_loss": val_loss, **other})
    return rows


RULE = SimpleNamespace(rule="never", stopped_epoch=0, best_epoch=3, best_loss=0.3)


def test_the_strict_stop_is_the_first_epoch_whose_validation_loss_exceeds_the_training_loss():
    assert strict_stop_epoch(history((0.9, 0.8), (0.5, 0.6), (0.2, 0.3))) == 2
    assert strict_stop_epoch(history((0.9, 0.8), (0.5, 0.5))) is None
    assert strict_stop_epoch([]) is None
    assert strict_stop_epoch(history((0.5, 0.6), (0.5, 0.4), (0.2, 0.3)), after=1) == 3  # the epochs of the head do not count


def test_a_run_that_went_on_reports_the_strict_stop_and_what_it_costs():
    rows = history((0.9, 0.8), (0.5, 0.6), (0.2, 0.3))
    first, second = stop_summary(RULE, rows, 3).splitlines()
    assert first == "done after epoch 3 of 3; kept: the weights of epoch 3 (lowest validation loss, 0.3000)"
    assert "after epoch 2" in second and "0.5200" in second and "0.5300" in second
    assert "\n" not in stop_summary(RULE, rows, 3, head_epochs=2)  # the rule does not apply to these
    assert "\n" not in stop_summary(RULE, rows[:2], 3) and "\n" not in stop_summary(RULE, history((0.9, 0.8), (0.7, 0.6)), 3)


@pytest.mark.parametrize("rule, reason", [
    ("exceeds", "validation loss 0.6000 exceeds training loss 0.5000"),
    ("plateau", "validation loss 0.6000 is no lower than 0.3000 of epoch 3"),
])  # fmt: skip
def test_a_stop_names_its_reason(rule, reason):
    stopped = SimpleNamespace(rule=rule, stopped_epoch=2, best_epoch=3, best_loss=0.3)
    assert f"stopped after epoch 2 of 9: {reason}" in stop_summary(stopped, history((0.9, 0.8), (0.5, 0.6)), 9)
    assert stop_summary(stopped, [], 9).startswith("no epoch was trained")


def test_f1_and_exceeds_are_derived():
    rows = history((0.9, 0.8), (0.5, 0.6))
    rows[0] |= {"precision": 0.5, "recall": 1.0, "val_precision": 0.0, "val_recall": 0.0}
    derived = with_derived(rows)
    assert derived[0]["f1"] == pytest.approx(2 / 3) and derived[0]["val_f1"] == 0
    assert [row["exceeds"] for row in derived] == [0, 1]


def test_the_files_of_a_history(tmp_path):
    write_history(history((0.9, 0.8), (0.5, 0.6)), tmp_path)
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines[0].startswith("epoch,loss,val_loss,") and lines[0].endswith("f1,val_f1,exceeds") and len(lines) == 3
    assert {file.name for file in tmp_path.glob("*.png")} == {
        "loss.png", "cross_entropy.png", "accuracy.png", "precision.png", "recall.png", "auc.png", "f1.png",
    }  # fmt: skip
