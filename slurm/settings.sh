# shellcheck shell=bash disable=SC2034
# Settings of all stages. Edit this file, or set LPFT_SETTINGS to another file, such as a copy of one of slurm/examples.
# Variables that the other file omits default to the values below.
#   LPFT_SETTINGS=my_cluster.sh slurm/submit.sh configs/digits.yaml
# Set partition, account and time limit with Slurm's own variables (SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_TIMELIMIT),
# or for each stage in the lists of options at the end.

# Make the command `lpft` available, on the machine from which you submit and in every job.
load_lpft() {
    # module load python/3.11
    # source "$HOME/lpft/.venv/bin/activate"
    :
}

# Federated training: one job of NODES x TASKS_PER_NODE processes, one for each CPU core or each GPU.
NODES=1
TASKS_PER_NODE=4

# Tuning and personalization: an array of jobs, each with DEVICES_PER_TASK CPU cores or GPUs.
DEVICES_PER_TASK=1
STACKS_PER_TASK=4 # a task should take some minutes, since its start takes ten seconds
MAX_TASKS=500     # tasks of an array: the number of jobs that you may have in the queue (at most MaxArraySize)
MAX_RUNNING=50    # tasks of an array that run at the same time

GPUS=no    # yes: the numbers above are GPUs
PRECISION= # 32-true, 64-true, bf16-mixed or bf16-true; empty: as in the experiment

# The signal that asks lpft to stop, and how many seconds before the time limit Slurm sends it: longer than any round or
# stack takes, and some minutes shorter than the time limit.
export LPFT_STOP_SIGNAL=USR1
STOP_BEFORE=300
export LPFT_REQUEUE=1 # 0: do not requeue, if `scontrol requeue` is forbidden; submit again instead

WHILE_QUEUED=no # yes: submit even if jobs of the same run are in the queue; some work is then done twice

REPORT_AFTER=afterany # report existing results even if tasks have failed; afterok: report only if all succeed

# Further options of sbatch; they take precedence over those in the scripts.
FEDERATE_OPTIONS=()
ARRAY_OPTIONS=()
REPORT_OPTIONS=()
