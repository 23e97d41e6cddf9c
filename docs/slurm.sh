#!/bin/bash
# Train on four machines of a Slurm cluster, all GPUs of each: sbatch docs/slurm.sh, in the project's folder, which all machines see.
# If the job ends early, submit it again: it continues from the last checkpoint.
#SBATCH --job-name=detector
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --output=training-%j.log

export KERAS_BACKEND=jax
# One process per machine. srun tells each its rank, the number of processes and the coordinator;
# since Slurm 22.05 it does not inherit the number of cores.
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  python model_training.py --architecture resnet101 --batch-size 2048 --learning-rate 4e-4
