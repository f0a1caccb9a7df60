#!/bin/sh
# Repeat a command until it ends for another reason than the loss of a worker:
#
#     sh repeat.sh dlr-tf finetune photos --strategy multi-worker --output run
while true
do
    "$@"
    code=$?
    case $code in
    75 | 137 | 143) sleep "${PAUSE:-10}" ;;
    *) exit $code ;;
    esac
done
