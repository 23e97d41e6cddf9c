"""The detector file (.h5): networks, saving and loading, scores, LiteRT export and prediction."""
