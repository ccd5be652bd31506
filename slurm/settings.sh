# shellcheck shell=bash disable=SC2034
# Settings of all stages, in one place. Edit this file; or name another one, wherever it is, that sets some of the same
# variables (what it does not set is as here), such as a copy of one of slurm/examples:
#   LPFT_SETTINGS=my_cluster.sh slurm/submit.sh configs/digits.yaml
# Partition, account and time limit can be given by Slurm's own variables (SBATCH_PARTITION, SBATCH_ACCOUNT,
# SBATCH_TIMELIMIT), or stage by stage in the lists of options at the end.

# Make the command `lpft` known, on the machine you submit from and in every job.
load_lpft() {
    # module load python/3.11
    # source "$HOME/lpft/.venv/bin/activate"
    :
}

# Federated training: one job of NODES x TASKS_PER_NODE processes, one for each CPU core or each GPU.
NODES=1
TASKS_PER_NODE=4

# Tuning and personalization: an array of jobs, each with so many CPU cores or GPUs.
DEVICES_PER_TASK=1
STACKS_PER_TASK=4 # a task should last some minutes, since starting it takes ten seconds
MAX_TASKS=500     # of one array; what you may have in the queue (MaxArraySize is kept in any case)
MAX_RUNNING=50    # at the same time

GPUS=no    # yes: everything above is GPUs
PRECISION= # 32-true, 64-true, bf16-mixed or bf16-true; empty: what the experiment says

# The signal that asks to stop, and how many seconds before the time limit it is sent: longer than any round or stack
# takes, and shorter than the time limit by some minutes.
export LPFT_STOP_SIGNAL=USR1
STOP_BEFORE=300
export LPFT_REQUEUE=1 # 0 where `scontrol requeue` is forbidden: submit again instead

WHILE_QUEUED=no # yes: submit although jobs of the same run are in the queue; they would do the same work twice

REPORT_AFTER=afterany # report what is there even if tasks have failed; afterok: only if all is there

# Further options of sbatch; they win over all that the scripts say.
FEDERATE_OPTIONS=()
ARRAY_OPTIONS=()
REPORT_OPTIONS=()
