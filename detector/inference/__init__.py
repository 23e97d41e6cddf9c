"""Classification of image files.

from detector.inference import Predictor
"""

from detector.inference.predictor import Predictor as Predictor
