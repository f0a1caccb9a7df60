#!/bin/sh
#SBATCH --job-name=finetune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-task=1
#SBATCH --requeue
#SBATCH --signal=TERM@120

# srun ends with the highest exit code of its tasks. 75: a worker was lost; 137 and 143: a signal.
srun --distribution=block --kill-on-bad-exit=0 \
    dlr-tf finetune photos --strategy multi-worker --checkpoint-every 100 --output run
code=$?
case $code in
75 | 137 | 143) scontrol requeue "$SLURM_JOB_ID" ;;
*) exit $code ;;
esac
