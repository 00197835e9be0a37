#!/usr/bin/env bash
# Submits this checkout as a job to a Ray cluster, follows it to its end and ends with its status.
set -euo pipefail

checkout=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

help() {
    cat <<'TEXT'
usage: RAY_ADDRESS=http://127.0.0.1:8265 deploy/submit.sh ARGUMENTS OF cluster.launch

Submits this checkout to the cluster, where `python -m cluster.launch ARGUMENTS` runs in a copy of it. Left out is what
.gitignore names, .git and .venv: the nodes have the packages. Relative paths start from that copy, so run.dir, clips,
questions and model are absolute, on storage that every node reaches.

The log is followed until the job ends. Ctrl-C ends the job.

environment:
  RAY_ADDRESS                     the cluster's dashboard, which listens on the head's loopback: http://127.0.0.1:8265
                                  there, and elsewhere after ssh -fN -L 8265:127.0.0.1:8265 HEAD
  RAY_AUTH_MODE, RAY_AUTH_TOKEN   `token` and the cluster's token, where it asks for one
  AURICLE_JOB                     name of the job; default: auricle- with the time

exit status: 0 the job succeeded, 1 it failed or was stopped, 2 the call was wrong, 130 ended by Ctrl-C

examples:
  export RAY_ADDRESS=http://127.0.0.1:8265
  deploy/submit.sh --config qwen2_audio_7b --nodes 6 run.dir=/shared/runs run.name=aqa
  deploy/submit.sh --config my.yaml --nodes 6 run.dir=/shared/runs --resume     # my.yaml lies in this checkout
  deploy/submit.sh --config my.yaml --nodes 6 run.dir=/shared/runs --dry-run    # what would run where
TEXT
}

refuse() {
    echo "submit: $1" >&2
    exit 2
}

case ${1:-} in
    "" | -h | --help)
        help
        [ $# -gt 0 ] || exit 2
        exit 0
        ;;
esac
case ${RAY_ADDRESS:-} in
    http://* | https://*) ;;
    "") refuse "RAY_ADDRESS is not set: give the cluster's dashboard, for example RAY_ADDRESS=http://127.0.0.1:8265" ;;
    *) refuse "RAY_ADDRESS is '$RAY_ADDRESS': jobs go to the dashboard, for example RAY_ADDRESS=http://127.0.0.1:8265" ;;
esac
PATH=$checkout/.venv/bin:$PATH
command -v ray >/dev/null || refuse "there is no ray in $checkout/.venv or on PATH: run make setup"

job=${AURICLE_JOB:-auricle-$(date -u +%Y%m%d-%H%M%S)}
patience='{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}}' # a run that is ended gives back what it took; Ray waits 3 s
follower=

# A command in the background is deaf to Ctrl-C, so that the log goes on while the job is ended.
follow() {
    "$@" &
    follower=$!
    wait "$follower"
}

end_job() {
    trap - INT TERM
    echo "submit: ending job $job" >&2
    if ! ray job stop "$job"; then # it is not there yet
        kill "$follower" 2>/dev/null || true
        ray job stop "$job" >/dev/null 2>&1 || true
    fi
    wait
    exit 130
}

trap end_job INT TERM
follow ray job submit --submission-id "$job" --working-dir "$checkout" --runtime-env-json "$patience" \
    -- python -m cluster.launch "$@" || exit 1
while true; do
    case $(ray job status "$job" 2>&1) in
        *"' succeeded"*) exit 0 ;;
        *"' failed"* | *"' was stopped"*) exit 1 ;;
    esac
    # the connection was lost, and the job goes on
    follow ray job logs --follow "$job" ||
        { echo "submit: $RAY_ADDRESS does not answer; later: ray job logs --follow $job" >&2 && exit 1; }
done
