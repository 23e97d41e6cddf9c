import numpy as np
import pytest

from detector.console import InputError
from detector.model import architectures, backend
from detector.model import file as model_file
from detector.model.architectures import ARCHITECTURES
from detector.model.weights import load_files
from tests.conftest import ROOT


def test_weights_that_do_not_fit_are_one_line(tmp_path):
    keras = backend.import_keras()
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(InputError, match=r"--weights .*other\.weights\.h5: expected weights of .*, found others \("):
        load_files(ARCHITECTURES["compact"].build(32, "none", 1e-3), [tmp_path / "other.weights.h5"])
    photo = ROOT / "models" / "photo.h5"
    with pytest.raises(InputError, match=r"photo\.h5: expected weights of compact, found others \(a detector of "):
        load_files(ARCHITECTURES["compact"].build(32, "none", 1e-3), [photo])


def moved(seed):
    """Return a compact of which no two weights, moving averages among them, are as they are made."""
    model = ARCHITECTURES["compact"].build(32, "none", 1e-3)
    rng = np.random.default_rng(seed)
    model.set_weights([weight + rng.uniform(0.01, 0.1, weight.shape).astype(np.float32) for weight in model.get_weights()])
    return model


def test_of_several_files_the_mean_is_taken(tmp_path):
    metadata = model_file.read_metadata(ROOT / "models" / "compact.h5")
    some = [moved(0), moved(1), moved(2)]
    some[0].save_weights(tmp_path / "0.weights.h5")
    model_file.save(some[1], tmp_path / "1.h5", metadata)
    weights = [model.get_weights() for model in some]
    model_file.save(architectures.with_test_time_flip(some[2]), tmp_path / "2.h5", metadata)
    mean = ARCHITECTURES["compact"].build(32, "none", 1e-3)
    load_files(mean, [tmp_path / name for name in ("0.weights.h5", "1.h5", "2.h5")])
    for found, *three in zip(mean.get_weights(), *weights, strict=True):
        assert np.abs(found - sum(three) / 3).max() < 1e-6 and np.abs(found - three[0]).max() > 1e-3
