# shellcheck shell=bash disable=SC1091,SC2034
# A cluster of GPUs, four on each node: federated training on two nodes, personalization in jobs of one GPU each.
# Copy and edit this file, and use the copy: LPFT_SETTINGS=my_cluster.sh slurm/submit.sh CONFIG

load_lpft() {
    module load python/3.11 cuda/12.4
    source "$HOME/lpft/.venv/bin/activate"
}

GPUS=yes
NODES=2
TASKS_PER_NODE=4
DEVICES_PER_TASK=1
MAX_RUNNING=32
PRECISION=bf16-mixed

FEDERATE_OPTIONS=(--partition=gpu --time=04:00:00 --cpus-per-task=4)
ARRAY_OPTIONS=(--partition=gpu --time=02:00:00 --cpus-per-task=4)
REPORT_OPTIONS=(--partition=cpu --time=00:10:00)
