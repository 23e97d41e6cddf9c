"""The phases of a run and their learning rates."""

from dataclasses import dataclass

from detector.training.config import TrainingConfig


@dataclass(frozen=True)
class Phase:
    """Epochs `start` to before `end`, counted from 0, that are trained with the same layers and one schedule."""

    start: int
    end: int
    learning_rate: float
    end_learning_rate: float
    head_only: bool = False


def plan_phases(config: TrainingConfig) -> list[Phase]:
    """Return the Phases of a run: the head alone if the config asks for it, then all layers."""
    phases = [
        Phase(0, config.head_epochs, config.head_learning_rate, config.head_learning_rate, head_only=True),
        Phase(config.head_epochs, config.total_epochs, config.learning_rate, config.end_learning_rate),
    ]
    return [phase for phase in phases if phase.end > phase.start]


def make_schedule(phase: Phase, config: TrainingConfig, steps_per_epoch: int):
    """Return a phase's Keras schedule: polynomial decay, or half a cosine wave after a warm-up, down to the end rate."""
    import keras

    schedules = keras.optimizers.schedules
    steps = max(1, (phase.end - phase.start) * steps_per_epoch)
    if config.schedule == "polynomial" or phase.head_only:
        return schedules.PolynomialDecay(phase.learning_rate, steps, phase.end_learning_rate, config.power)
    warm_up = min(round(config.warmup_epochs * steps_per_epoch), steps - 1)
    alpha = phase.end_learning_rate / phase.learning_rate
    if not warm_up:
        return schedules.CosineDecay(phase.learning_rate, steps, alpha)
    return schedules.CosineDecay(0.0, steps - warm_up, alpha, warmup_target=phase.learning_rate, warmup_steps=warm_up)
