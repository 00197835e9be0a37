#!/bin/sh
# Runs `python -m cluster.launch` with these arguments, and with --resume where the run that they name is there already:
# what is started again after a machine was lost goes on from the last checkpoint.
#
#   deploy/train.sh --config my.yaml run.dir=/shared/runs run.name=my
#
# The run is known by run.dir= and run.name= among the arguments. Where one is missing, or --resume or --fresh is said,
# the arguments are passed on as they are.
set -eu

directory='' name='' resume=--resume
for argument; do
    case $argument in
        run.dir=*) directory=${argument#run.dir=} ;;
        run.name=*) name=${argument#run.name=} ;;
        --resume | --fresh) resume='' ;;
    esac
done

if [ -n "$directory" ] && [ -n "$name" ] && [ -n "$resume" ] && [ -e "$directory/$name/config.yaml" ]; then
    set -- "$@" "$resume"
fi
exec python -m cluster.launch "$@"
