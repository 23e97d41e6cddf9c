#!/bin/bash
# Train on four machines of a Slurm cluster, all GPUs of each: sbatch docs/slurm.sh, in the project's folder, which all machines see.
# Ended before it was done, the same command goes on after the last checkpoint.
#SBATCH --job-name=detector
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --output=training-%j.log

export KERAS_BACKEND=jax
# One process a machine. Which one it is, of how many, and where the first listens, each learns from srun,
# which since Slurm 22.05 does not take the number of cores from above by itself.
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  python model_training.py --architecture resnet101 --batch-size 2048 --learning-rate 4e-4
