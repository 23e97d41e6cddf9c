import pytest

from detector.console import InputError
from detector.model import backend
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
