# shellcheck shell=bash disable=SC1091,SC2034
# A cluster of CPUs: federated training on two nodes, personalization in up to 100 jobs of four cores each.
# Copy and edit this file, and use the copy: LPFT_SETTINGS=my_cluster.sh slurm/submit.sh CONFIG

load_lpft() {
    module load python/3.11
    source "$HOME/lpft/.venv/bin/activate"
}

NODES=2
TASKS_PER_NODE=16
DEVICES_PER_TASK=4
MAX_RUNNING=100

FEDERATE_OPTIONS=(--time=04:00:00 --mem-per-cpu=2G)
ARRAY_OPTIONS=(--time=01:00:00 --mem-per-cpu=2G)
REPORT_OPTIONS=(--time=00:10:00 --mem=4G)
