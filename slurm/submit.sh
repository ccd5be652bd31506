#!/usr/bin/env bash
# Submit experiments as stages that depend on each other: federate, tune and personalize (arrays), report.
#
#   slurm/submit.sh CONFIG|RUN ... [-- OPTIONS OF LPFT]
#   slurm/submit.sh configs/digits.yaml -- --out /scratch/me/digits --seeds '[0,1,2,3,4]'
#
# CONFIG is the file of an experiment, RUN the folder of an earlier run. You can submit again at any time: only missing
# work is done. slurm/settings.sh sets the resources of the jobs.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
defaults=$here/settings.sh
settings=$(realpath "${LPFT_SETTINGS:-$defaults}")
# shellcheck source=slurm/settings.sh
source "$defaults"
# shellcheck source=/dev/null
source "$settings"

main() {
    local experiments=()
    while [[ $# -gt 0 && $1 != -- ]]; do
        experiments+=("$1")
        shift
    done
    if [[ ${#experiments[@]} -eq 0 || ${experiments[0]} == -* ]]; then
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
        exit 2
    fi
    if [[ $# -gt 0 ]]; then
        shift # the --
    fi
    set +u # modules and environments may use unset variables
    load_lpft
    set -u
    if ! command -v lpft >/dev/null; then
        echo "slurm/submit.sh: there is no command lpft. HINT: load_lpft in $settings must make it known." >&2
        exit 2
    fi
    for experiment in "${experiments[@]}"; do
        submit "$experiment" "$@"
    done
}

# submit CONFIG|RUN OPTIONS... : plan one experiment, and submit the stages with missing work.
submit() {
    local options=(-c "$1")
    if [[ -d $1 ]]; then
        options=(-c "$1/config.yaml" --out "$1")
    fi
    options+=("${@:2}")
    if [[ -n $PRECISION ]]; then
        options+=(--trainer.precision "$PRECISION")
    fi

    local accelerator=cpu cores=(--cpus-per-task="$DEVICES_PER_TASK") federate_gpus=() task_gpus=()
    if [[ $GPUS == yes ]]; then
        accelerator=gpu cores=()
        federate_gpus=(--gres="gpu:$TASKS_PER_NODE") task_gpus=(--gres="gpu:$DEVICES_PER_TASK")
    fi
    options+=(--trainer.accelerator "$accelerator")

    local queued busy
    queued=$(squeue --noheader --user="$(id -un)" --format="%F %k" | sort -u) # first: jobs that end meanwhile are busy
    plan=$(lpft plan "${options[@]}")
    out=$(sed -n 's/^out //p' <<<"$plan")
    after=
    busy=$(jobs_of_run "$queued")
    if [[ -n $busy && $WHILE_QUEUED != yes ]]; then
        echo "$out: nothing is submitted, since its jobs are in the queue: $busy. Wait for their end, or scancel them."
        return
    fi
    if [[ $(missing federate) -gt 0 ]]; then
        queue federate afterok --nodes="$NODES" --ntasks-per-node="$TASKS_PER_NODE" "${federate_gpus[@]}" \
            "${FEDERATE_OPTIONS[@]}" "$here/1-federate.sbatch" "$defaults" "$settings" "${options[@]}"
    fi
    local stage tasks
    for stage in tune personalize; do
        tasks=$(array_size "$(missing "$stage")")
        if [[ $tasks -gt 0 ]]; then
            queue "$stage" afterok --array="0-$((tasks - 1))%$MAX_RUNNING" "${cores[@]}" "${task_gpus[@]}" \
                "${ARRAY_OPTIONS[@]}" "$here/2-personalize.sbatch" "$defaults" "$settings" "$stage" \
                "$tasks" "${options[@]}" --trainer.devices "$DEVICES_PER_TASK" --trainer.num_nodes 1
        fi
    done
    if [[ -n $after ]] || page_is_old; then
        queue report "$REPORT_AFTER" "${REPORT_OPTIONS[@]}" "$here/3-report.sbatch" "$defaults" "$settings" "$out"
    else
        echo "$out: nothing is missing"
    fi
}

# queue STAGE DEPENDENCY ARGUMENTS... : submit a job that waits for the previous one, if any.
queue() {
    local stage=$1 dependency=() log="$out/logs/%x-%j.log"
    if [[ -n $after ]]; then
        dependency=(--dependency="$2:$after" --kill-on-invalid-dep=yes)
    fi
    if [[ $stage == tune || $stage == personalize ]]; then
        log="$out/logs/%x-%A_%a.log"
    fi
    shift 2
    mkdir -p "$out/logs" # Slurm does not create it, and the job would fail silently
    after=$(sbatch --parsable --job-name="lpft-$stage" --output="$log" --signal="$LPFT_STOP_SIGNAL@$STOP_BEFORE" \
        --comment="lpft $(realpath -m "$out")" "${dependency[@]}" "$@")
    after=${after%%;*} # with several clusters, the name of the cluster follows
    echo "$out: $stage is job $after"
}

# jobs_of_run QUEUE : print the jobs of this run; QUEUE has one line per job, with its comment.
jobs_of_run() {
    awk -v run="lpft $(realpath -m "$out")" \
        '{ job = $1; sub(/^[^ ]+ /, "") } $0 == run { printf "%s%s", gap, job; gap = " " }' <<<"$1"
}

# missing STAGE : print the number of missing parts of a stage.
missing() {
    awk -v stage="$1" '$1 == stage { print $2 }' <<<"$plan"
}

# array_size STACKS : print the number of tasks for STACKS stacks.
array_size() {
    local tasks=$((($1 + STACKS_PER_TASK - 1) / STACKS_PER_TASK)) largest
    largest=$(scontrol show config | awk '$1 == "MaxArraySize" { print $3 }')
    printf '%s\n' "$tasks" "$MAX_TASKS" "${largest:-1000}" | sort -n | head -n 1
}

# Return whether there are results that the report page lacks.
page_is_old() {
    [[ ! -e $out/report.html || -n $(find "$out" -path '*/cells/*.json' -newer "$out/report.html" -print -quit) ]]
}

main "$@"
